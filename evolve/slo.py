"""The service-level objective a user asks for: how fast, how close, and whether tiers may serve."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["AGREEMENTS", "METRICS", "SLO"]

METRICS = ("relative_l2", "cosine", "top1")
AGREEMENTS = ("cosine", "top1")


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
        min_quality: Consent to quality tiers: sub-networks of the model that serve when the
            load requires it, those of `Runtime.adopt` and those that the runtime finds by itself
            (`EvolutionConfig`). Their mean agreement with the original, on
            live inputs, must be at least this. 0 < min_quality <= 1; at 1, the default, the
            model's architecture is never changed. `max_error` says how far a plan may be from
            what it runs, a sub-network too; `min_quality` how far that may be from the model.
        agreement: How it is judged, see `supernet.fidelity.agreement`: ``"cosine"`` (mean cosine
            similarity over the last dimension) or ``"top1"`` (share of rows whose arg-max over
            the last dimension is the same).

    >>> SLO(p99_ms=20).deadline_ms(arrived_ms=100.0)
    120.0
    """

    p99_ms: float = 50.0
    max_error: float = 0.005
    metric: str = "relative_l2"
    min_quality: float = 1.0
    agreement: str = "cosine"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.p99_ms) and self.p99_ms > 0):
            raise ValueError(f"p99_ms must be a positive number of milliseconds, got {self.p99_ms}")
        if not 0 <= self.max_error < 1:
            raise ValueError(f"max_error must be in [0, 1), got {self.max_error}")
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {self.metric!r}")
        if not 0 < self.min_quality <= 1:
            raise ValueError(f"min_quality must be above 0 and at most 1, got {self.min_quality}")
        if self.agreement not in AGREEMENTS:
            raise ValueError(
                f"agreement must be one of {', '.join(AGREEMENTS)}, got {self.agreement!r}"
            )

    @property
    def allows_tiers(self) -> bool:
        """Whether sub-networks of the model may serve at all.

        >>> SLO().allows_tiers, SLO(min_quality=0.98).allows_tiers
        (False, True)
        """
        return self.min_quality < 1

    def deadline_ms(self, arrived_ms: float) -> float:
        """When a request that arrived at `arrived_ms` is due, on the same clock."""
        return arrived_ms + self.p99_ms
