"""Measure a loaded plan at the shapes that matter, cheapest first, within a budget."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from profiler.shapes import Shape, ShapeGrid
from supernet.signature import Dim, Signature

if TYPE_CHECKING:
    from supernet.backends.base import LoadedPlan

__all__ = ["measure", "resize_batch"]

_LEAST_RUNS = 3
_MOST_RUNS = 20
_ENOUGH_S = 0.05


def measure(
    plan: LoadedPlan,
    inputs: Sequence[Any],
    signature: Signature,
    grid: ShapeGrid,
    *,
    threads: int,
    budget_s: float,
    up_to_ms: float = math.inf,
    on_share: Callable[[float], None] = lambda share: None,
    clock: Callable[[], float] | None = None,
) -> dict[Shape, float]:
    """Median milliseconds per batch shape.

    Left out: shapes that the budget does not reach, and all after the first over `up_to_ms`.

    Without a `clock`, the time on the wall counts, and with one thread the processor time of this
    process: a machine that serves while plans are measured does not make them look slow, nor does
    it where this process stands still meanwhile.
    """
    if clock is None:
        clock = time.process_time if threads == 1 else time.perf_counter
    shapes = [s for s in grid.probe_shapes() if signature.batchable or s.rows == 1]
    begun = clock()
    costs: dict[Shape, float] = {}
    per_token_s = 0.0
    for index, shape in enumerate(shapes):
        if costs and max(costs.values()) > up_to_ms:
            break
        left_s = budget_s - (clock() - begun)
        if costs and per_token_s * shape.tokens * (_LEAST_RUNS + 1) > left_s:
            break
        batch = resize_batch(inputs, signature, shape)
        costs[shape], elapsed_s = _median_ms(plan, batch, clock)
        per_token_s = elapsed_s / shape.tokens
        on_share((index + 1) / len(shapes))
    return costs


def resize_batch(inputs: Sequence[Any], signature: Signature, shape: Shape) -> list[Any]:
    """These flat inputs (numpy or torch) repeated or cut to another shape."""
    return [
        _resize(leaf, spec.dims, shape) for leaf, spec in zip(inputs, signature.inputs, strict=True)
    ]


def _resize(leaf: Any, dims: Sequence[Dim], shape: Shape) -> Any:
    for axis, dim in enumerate(dims):
        if isinstance(dim, str):
            size = shape.rows if dim == "rows" else shape.length
            index = [i % leaf.shape[axis] for i in range(size)]
            leaf = leaf[(*(slice(None),) * axis, index)]
    return leaf.contiguous() if hasattr(leaf, "contiguous") else leaf.copy(order="C")


def _median_ms(
    plan: LoadedPlan, batch: list[Any], clock: Callable[[], float]
) -> tuple[float, float]:
    """Median of several runs, and how long one took on average, in seconds."""
    plan.run(batch)  # the first run of a shape may compile kernels for it
    times: list[float] = []
    was_collecting = gc.isenabled()
    gc.disable()
    begun = clock()
    try:
        while len(times) < _LEAST_RUNS or (clock() - begun < _ENOUGH_S and len(times) < _MOST_RUNS):
            start = clock()
            plan.run(batch)
            times.append(clock() - start)
    finally:
        if was_collecting:
            gc.enable()
    return statistics.median(times) * 1e3, (clock() - begun) / len(times)
