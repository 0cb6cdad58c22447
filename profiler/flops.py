"""Dynamic FLOPs: how much arithmetic a request really cost, padding included, and at what rate."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from profiler.shapes import Shape


def flops_per_row(
    model: Callable[..., object],
    inputs: Sequence[Any] | Mapping[str, Any],
    *,
    rows: int | None = None,
) -> float:
    """FLOPs that `model` spends per row on `inputs` (positional tuple, or keyword dict).

    Counted by torch's FlopCounterMode while the model really runs, without gradients: products,
    convolutions and attention, a multiply and an add as two; element-wise work, lookups and
    quantised kernels count nothing. Attention is run by its plain-product path meanwhile, since
    the fused CPU kernel would be counted as zero. `rows`: None takes dimension 0 of the first
    tensor.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    arguments = inputs.values() if isinstance(inputs, Mapping) else inputs
    if rows is None:
        first = next((a for a in arguments if isinstance(a, torch.Tensor) and a.dim()), None)
        if first is None:
            raise ValueError("inputs must hold a tensor with rows, got none; pass rows=")
        rows = int(first.shape[0])
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    counter = FlopCounterMode(display=False)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator, counted as zero
    try:
        # Compiled parts run as they are written: torch.compile cannot trace below a counter, and
        # would remember that it failed, and raise from then on.
        eager = torch.compiler.set_stance("force_eager")
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), eager, counter:
            if isinstance(inputs, Mapping):
                model(**inputs)
            else:
                model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return counter.get_total_flops() / rows


@dataclass(frozen=True, slots=True)
class FlopModel:
    """FLOPs of any padded shape: `rows * (fixed + linear * n + quadratic * n²)`, n the length.

    Exact for dense networks: products grow with the length, softmax attention with its square.
    """

    fixed: float
    linear: float = 0.0
    quadratic: float = 0.0

    @classmethod
    def through(cls, flops_by_shape: Mapping[Shape, float]) -> FlopModel:
        """From FLOPs of whole batches at one, two, or three and more lengths."""
        if not flops_by_shape:
            raise ValueError("flops_by_shape must hold at least one shape, got none")
        bad = {s: f for s, f in flops_by_shape.items() if not (isfinite(f) and f >= 0)}
        if bad:
            raise ValueError(f"flops_by_shape must be finite and at least 0, got {bad}")
        lengths = np.array([s.length for s in flops_by_shape], dtype=np.float64)
        per_row = np.array([f / s.rows for s, f in flops_by_shape.items()], dtype=np.float64)
        known = len(np.unique(lengths))
        if known == 1:
            return cls(0.0, float(per_row.mean()) / float(lengths[0]))
        degree = min(2, known - 1)
        scale = float(lengths.max())  # keeps the fit well conditioned at lengths in thousands
        design = np.vander(lengths / scale, degree + 1, increasing=True)
        solved, *_ = np.linalg.lstsq(design, per_row, rcond=None)
        terms = solved / scale ** np.arange(degree + 1)
        return cls(*(float(term) for term in terms))

    def flops(self, shape: Shape) -> float:
        """FLOPs of one whole batch, never below 0."""
        n = shape.length
        return max(0.0, shape.rows * (self.fixed + self.linear * n + self.quadratic * n * n))


@dataclass(frozen=True, slots=True)
class FlopsReading:
    """Arithmetic since the start or the last reset.

    `per_request`: executed FLOPs, padding included. `useful_per_request`: without padding, as
    the share of real positions. `gflop_per_s`: while a batch was running. `share_of_peak`: of
    the measured peak; above 1 means that the plan computes in a cheaper precision than the
    peak's. All 0.0 while `batches` is 0.
    """

    requests: int
    batches: int
    per_request: float
    useful_per_request: float
    gflop_per_s: float
    share_of_peak: float


class DynamicFlops:
    """Adds up FLOPs from the batches that ran; safe to share between threads.

    `flops_by_shape`: FLOPs of whole batches at a few shapes (`flops_per_row` times rows).
    `peak_gflop_per_s`: measured rate of what one batch runs on, so of one core when each worker
    has one.

    >>> flops = DynamicFlops({Shape(1, 10): 1e9}, peak_gflop_per_s=100.0)
    >>> flops.record_batch(Shape(2, 10), elapsed_ms=40.0, real_tokens=15)
    >>> reading = flops.reading()
    >>> reading.per_request, reading.useful_per_request, reading.share_of_peak
    (1000000000.0, 750000000.0, 0.5)
    """

    def __init__(self, flops_by_shape: Mapping[Shape, float], peak_gflop_per_s: float) -> None:
        if not (isfinite(peak_gflop_per_s) and peak_gflop_per_s > 0):
            raise ValueError(
                f"peak_gflop_per_s must be a measured rate above 0, got {peak_gflop_per_s}"
            )
        self.model = FlopModel.through(flops_by_shape)
        self._peak_gflop_per_s = peak_gflop_per_s
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        with self._lock:
            self._requests = self._batches = 0
            self._executed = self._useful = self._busy_ms = 0.0

    def record_batch(self, shape: Shape, elapsed_ms: float, real_tokens: int) -> None:
        """A batch ran as `shape`; `real_tokens` of its positions were real."""
        flops = self.model.flops(shape)
        with self._lock:
            self._requests += shape.rows
            self._batches += 1
            self._executed += flops
            self._useful += flops * min(1.0, real_tokens / shape.tokens)
            self._busy_ms += max(0.0, elapsed_ms)

    def reading(self) -> FlopsReading:
        with self._lock:
            requests, batches = self._requests, self._batches
            executed, useful, busy_ms = self._executed, self._useful, self._busy_ms
        rate = executed / (busy_ms * 1e6) if busy_ms > 0 else 0.0
        return FlopsReading(
            requests=requests,
            batches=batches,
            per_request=executed / requests if requests else 0.0,
            useful_per_request=useful / requests if requests else 0.0,
            gflop_per_s=rate,
            share_of_peak=rate / self._peak_gflop_per_s,
        )
