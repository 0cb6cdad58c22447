"""The service-level objective a user asks for: how fast, and how close to the original."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["METRICS", "SLO"]

METRICS = ("relative_l2", "cosine", "top1")


@dataclass(frozen=True, slots=True)
class SLO:
    """The service-level objective of one wrapped model.

    Args:
        p99_ms: Deadline of a request, milliseconds from its arrival; 99 % of the
            requests should be answered within it. Must be > 0.
        max_error: Largest error of a plan against the original model, by `metric`.
            Plans above it are never admitted. 0 <= max_error < 1.
        metric: How the error is judged, see `supernet.fidelity`: ``"relative_l2"``
            (‖plan − original‖ / ‖original‖ over all floating outputs), ``"cosine"``
            (1 − cosine similarity over the last dimension) or ``"top1"`` (share of
            rows whose arg-max over the last dimension differs).

    >>> SLO(p99_ms=20).deadline_ms(arrived_ms=100.0)
    120.0
    """

    p99_ms: float = 50.0
    max_error: float = 0.005
    metric: str = "relative_l2"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.p99_ms) and self.p99_ms > 0):
            raise ValueError(f"p99_ms must be a positive number of milliseconds, got {self.p99_ms}")
        if not 0 <= self.max_error < 1:
            raise ValueError(f"max_error must be in [0, 1), got {self.max_error}")
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {self.metric!r}")

    def deadline_ms(self, arrived_ms: float) -> float:
        """When a request that arrived at `arrived_ms` is due, on the same clock."""
        return arrived_ms + self.p99_ms
