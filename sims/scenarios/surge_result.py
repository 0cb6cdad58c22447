"""The shape of a surge, and what is told of one run through it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sims.engine.state import SERVED
from sims.simulation import Simulation
from sims.traces import Trace, surge

__all__ = ["Surge", "SurgeResult", "judge"]

Floats = NDArray[np.float64]

MET = 0.99
"""Share of the requests that must be answered within the SLO for a load to count as carried."""
SLOW_MS = 2000.0
SETTLED_S = 5


@dataclass(frozen=True)
class Surge:
    """The traffic: Poisson at `base_per_s`, then `peak_per_s`, then the base again; seconds each.

    >>> Surge(calm_s=1, surge_s=2, after_s=1, peak_per_s=200.0).trace(seed=0).seconds < 4.0
    True
    """

    base_per_s: float = 100.0
    peak_per_s: float = 5000.0
    calm_s: int = 30
    surge_s: int = 120
    after_s: int = 360

    def __post_init__(self) -> None:
        for name in ("calm_s", "surge_s", "after_s"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def ends_s(self) -> int:
        """When the surge is over."""
        return self.calm_s + self.surge_s

    @property
    def seconds(self) -> int:
        """Of the whole trace."""
        return self.ends_s + self.after_s

    def trace(self, seed: int) -> Trace:
        """The arrivals, with natural request lengths."""
        return surge(
            self.base_per_s, self.peak_per_s, self.seconds, seed=seed,
            start=self.calm_s / self.seconds, stop=self.ends_s / self.seconds,
        )  # fmt: skip


@dataclass(frozen=True)
class SurgeResult:
    """What one driver made of one surge. A ratio is of answers within the SLO over all offered.

    `first_second`, `surge`, `outside`: such ratios, `outside` before and after. `slow_s`: longest
    run of seconds in which the 99th percentile was over 2 s, a refused request counting as never
    answered. `absorbed_s`: from the start of the surge until five seconds together reach 99 %,
    inf if none do. `released_s`: from its end until at most one worker more is in use than the
    base needs, for good; inf if never. `idle_worker_s`: workers in use beyond what the base needs,
    summed from the end of the surge on. `used`: the most that were in use.
    """

    driver: str
    first_second: float
    surge: float
    outside: float
    slow_s: int
    absorbed_s: float
    released_s: float
    idle_worker_s: float
    used: int


def judge(
    simulation: Simulation, shape: Surge, used: NDArray[np.int64], *, driver: str, needed: int
) -> SurgeResult:
    """What came of a simulation that was played to its end.

    `used` [ticks]: workers in use, ticks of equal length over the whole shape. `needed`: what the
    base needs.
    """
    at_s, tick_s = simulation.trace.arrivals_s, shape.seconds / used.size
    served = simulation.outcome == SERVED
    latency_ms = np.where(served, simulation.end_ms - at_s * 1e3, np.inf)
    met = latency_ms <= simulation.service.slo_ms
    second = at_s.astype(np.int64)
    offered = np.bincount(second, minlength=shape.seconds)
    in_time = np.bincount(second, met, shape.seconds).astype(np.float64)
    slow = np.bincount(second, latency_ms > SLOW_MS, shape.seconds) > (1 - MET) * offered
    rush = slice(shape.calm_s, shape.ends_s)
    after = used[round(shape.ends_s / tick_s) :]
    over = np.flatnonzero(after > needed + 1)
    released = int(over[-1]) + 1 if over.size else 0
    outside = len(at_s) - offered[rush].sum()
    return SurgeResult(
        driver=driver,
        first_second=float(in_time[shape.calm_s] / offered[shape.calm_s]),
        surge=float(in_time[rush].sum() / offered[rush].sum()),
        outside=float((met.sum() - in_time[rush].sum()) / outside),
        slow_s=_longest(slow),
        absorbed_s=_absorbed(in_time[rush], offered[rush].astype(np.float64)),
        released_s=released * tick_s if released < after.size else math.inf,
        idle_worker_s=float((after - needed).clip(0).sum() * tick_s),
        used=int(used.max()),
    )


def _longest(flags: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _absorbed(in_time: Floats, offered: Floats) -> float:
    window = np.ones(min(SETTLED_S, offered.size))
    share = np.convolve(in_time, window, "valid") / np.convolve(offered, window, "valid")
    good = np.flatnonzero(share >= MET)
    return float(good[0]) if good.size else math.inf
