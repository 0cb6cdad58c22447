"""Measure a loaded plan at the shapes that matter, cheapest first, within a budget."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from profiler.shapes import Shape, ShapeGrid
from supernet.backends.loaded import Microbatched
from supernet.errors import OutsideRange
from supernet.microbatches import Microbatches
from supernet.signature import Dim, Signature

if TYPE_CHECKING:
    from supernet.backends.base import LoadedPlan

__all__ = ["WARM_RUNS", "Timed", "clock_of", "measure", "resize_batch"]

# The first run of a shape may compile kernels for it; in the second, memory is still being laid
# out, which made a ResNet-50 seem a quarter slower than it is.
WARM_RUNS = 2
_LEAST_RUNS = 3
_MOST_RUNS = 20
_ENOUGH_S = 0.05
_WORTH = 0.03
"""Of a batch's time: parts that save less are not worth the difference."""


@dataclass(frozen=True, slots=True)
class Timed:
    """What was measured of a plan: milliseconds per batch, and which batches to run in parts."""

    costs_ms: Mapping[Shape, float] = field(default_factory=dict)
    microbatches: Microbatches | None = None


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
) -> Timed:
    """Median milliseconds per batch shape, whole or in parts, whichever is faster.

    Every batch is timed whole. Parts are tried where smaller batches took less per row, at each
    size anew: what is so at two rows need not be at sixteen. Left out: shapes that the budget does
    not reach, all after the first over `up_to_ms`, and those whose batch the plan declines.
    """
    clock = clock or clock_of(threads, signature.device)
    shapes = [s for s in grid.probe_shapes() if signature.batchable or s.rows == 1]
    begun = clock()
    costs: dict[Shape, float] = {}
    at_once: dict[Shape, int] = {}
    per_token_s = 0.0
    for index, shape in enumerate(shapes):
        if costs and max(costs.values()) > up_to_ms:
            break
        left_s = budget_s - (clock() - begun)
        if costs and per_token_s * shape.tokens * (WARM_RUNS + _LEAST_RUNS) > left_s:
            break
        batch = resize_batch(inputs, signature, shape)
        try:
            costs[shape], elapsed_s = _median_ms(plan, batch, clock)
        except OutsideRange:  # what is repeated to this size is beyond what the plan can hold
            continue
        at_once[shape] = 0
        per_token_s = elapsed_s / shape.tokens
        if rows := _faster_in(costs, at_once, shape):
            parts = Microbatched(plan, Microbatches({shape: rows}, signature))
            in_parts_ms, _ = _median_ms(parts, batch, clock)
            if in_parts_ms < (1 - _WORTH) * costs[shape]:
                costs[shape], at_once[shape] = in_parts_ms, rows
        on_share((index + 1) / len(shapes))
    return Timed(costs, Microbatches(at_once, signature) if any(at_once.values()) else None)


def clock_of(threads: int, device: str) -> Callable[[], float]:
    """The seconds that count: on the wall, but with one thread the processor time of this process.

    A machine that serves while plans are measured does not make them look slow then, nor does it
    where this process stands still meanwhile. On a GPU the processor waits while a plan runs.
    """
    return time.process_time if threads == 1 and device == "cpu" else time.perf_counter


def _faster_in(costs: Mapping[Shape, float], at_once: Mapping[Shape, int], shape: Shape) -> int:
    """So few rows at a time that `shape` should be faster than whole, going by `costs`; else 0."""
    per_row = {one: ms / one.rows for one, ms in costs.items() if one.length == shape.length}
    best = min(per_row, key=per_row.__getitem__)
    if per_row[best] >= (1 - _WORTH) * per_row[shape]:
        return 0
    return at_once[best] or best.rows


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
    for _ in range(WARM_RUNS):
        plan.run(batch)
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
