"""What is simulated, and what comes of it: a service, hidden disturbances, a result."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Result", "Service", "noise"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Service:
    """What serves: plans with their costs, workers, and the promise made to every request.

    `cost_ms` [P, R, L]: what the rule believes a batch costs; `true_ms` what it really costs
    (None: the same). `lengths` [L]: padded lengths. `slo_ms`: deadline after arrival. `tier` [P]:
    0 is the most accurate. `accuracy` [P]: worth of an answer in time from that plan, 1 by
    default. `factor`: hidden multipliers of the batches' costs, used in turn (see `noise`).
    `overhead_ms`: what every batch costs beside its plan.
    """

    cost_ms: Floats
    lengths: Floats
    slo_ms: float
    workers: int
    tier: Ints | None = None
    accuracy: Floats | None = None
    true_ms: Floats | None = None
    factor: Floats = field(default_factory=lambda: np.ones(1))
    overhead_ms: float = 0.0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        if not (math.isfinite(self.slo_ms) and self.slo_ms > 0):
            raise ValueError(f"slo_ms must be finite and greater than 0, got {self.slo_ms}")
        if self.cost_ms.ndim != 3 or 0 in self.cost_ms.shape:
            raise ValueError(
                f"cost_ms must be [plans, rows, lengths], got shape {self.cost_ms.shape}"
            )
        if self.lengths.shape != (self.cost_ms.shape[2],) or (np.diff(self.lengths) <= 0).any():
            raise ValueError(
                f"lengths must be {self.cost_ms.shape[2]} ascending lengths, got {self.lengths}"
            )
        true = self.cost_ms if self.true_ms is None else self.true_ms
        if true.shape != self.cost_ms.shape:
            raise ValueError(
                f"true_ms must have the shape of cost_ms {self.cost_ms.shape}, got {true.shape}"
            )
        if not (np.isfinite(true).all() and (true > 0).all()):
            raise ValueError(
                "true_ms must be finite and greater than 0 everywhere, got "
                f"{true[~(np.isfinite(true) & (true > 0))][0]}; a simulated batch needs a duration"
            )
        if self.factor.size == 0 or not (
            np.isfinite(self.factor).all() and (self.factor > 0).all()
        ):
            raise ValueError("factor must hold finite multipliers greater than 0")
        for name, array in (("tier", self.tier), ("accuracy", self.accuracy)):
            if array is not None and array.shape != self.cost_ms.shape[:1]:
                raise ValueError(
                    f"{name} must have one entry per plan ({self.cost_ms.shape[0]}), "
                    f"got shape {array.shape}"
                )


@dataclass(frozen=True)
class Result:
    """What came of a run, over all requests offered.

    `met`: answered by their deadline. `utility`: summed accuracy of those over `offered`. `p50_ms`,
    `p99_ms`: latency of all answers, 0.0 when `served` is 0. `seconds`: time of the last arrival.
    `padded_ratio`: padding over all computed positions.
    """

    offered: int
    served: int
    refused: int
    met: int
    seconds: float
    utility: float
    p50_ms: float
    p99_ms: float
    mean_rows: float
    padded_ratio: float

    @property
    def goodput_per_s(self) -> float:
        """Answers in time per second of the trace."""
        return self.met / self.seconds

    @property
    def met_ratio(self) -> float:
        """Answers in time over all offered."""
        return self.met / self.offered if self.offered else 0.0

    @property
    def refused_ratio(self) -> float:
        """Refused over all offered."""
        return self.refused / self.offered if self.offered else 0.0


def noise(
    rng: np.random.Generator,
    *,
    scatter: float = 0.0,
    spike_share: float = 0.0,
    spike: float = 2.0,
    drift: tuple[float, float] = (1.0, 1.0),
    drift_batches: int = 200,
    count: int = 4096,
) -> Floats:
    """Hidden cost multipliers, float64 [count], one per batch: what no table knows.

    Log-normal `scatter`, a `spike_share` of batches times `spike`, and a slow drift that moves
    between random levels within `drift` every `drift_batches`.
    """
    if not (scatter >= 0 and 0 <= spike_share <= 1 and spike > 0 and 0 < drift[0] <= drift[1]):
        raise ValueError(
            "scatter must be >= 0, spike_share in [0, 1], spike > 0 and drift (low, high) with "
            f"0 < low <= high, got {scatter}, {spike_share}, {spike}, {drift}"
        )
    factor = np.exp(rng.normal(0.0, scatter, count)) if scatter else np.ones(count)
    factor[rng.random(count) < spike_share] *= spike
    knots = np.exp(rng.uniform(math.log(drift[0]), math.log(drift[1]), count // drift_batches + 2))
    at = np.arange(count) / drift_batches
    return np.asarray(factor * np.interp(at, np.arange(knots.size), knots))
