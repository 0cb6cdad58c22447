"""A simulated service, hidden disturbances, and the result that comes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from profiler.patterns import Pattern

__all__ = ["Disturbances", "Hidden", "Result", "Service", "Switching", "Units", "drifting", "noise"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PLACEMENTS = ("speed", "use", "order")


@dataclass(frozen=True)
class Disturbances:
    """What really happens and no table knows.

    `factor` [F]: multipliers of the batches' costs, used in turn (see `noise`). `drift` [K]:
    levels of a slow drift, `drift_every_ms` apart and repeated, linear between.
    """

    factor: Floats = field(default_factory=lambda: np.ones(1))
    drift: Floats = field(default_factory=lambda: np.ones(1))
    drift_every_ms: float = 1500.0

    def __post_init__(self) -> None:
        for name in ("factor", "drift"):
            array = getattr(self, name)
            if array.size == 0 or not (np.isfinite(array).all() and (array > 0).all()):
                raise ValueError(f"{name} must hold finite multipliers greater than 0")
        _positive("drift_every_ms", self.drift_every_ms)


@dataclass(frozen=True)
class Switching:
    """What changing the plan costs a worker: `switch_ms` between plans it holds, `load_ms` for
    one it does not; it holds at most `resident` at once, at first those it runs first, and the
    least recently used goes."""

    switch_ms: float = 0.0
    load_ms: float = 0.0
    resident: int = 1 << 30

    def __post_init__(self) -> None:
        for name in ("switch_ms", "load_ms"):
            if not (math.isfinite(value := getattr(self, name)) and value >= 0):
                raise ValueError(f"{name} must be finite and at least 0, got {value}")
        if self.resident < 1:
            raise ValueError(f"resident must be at least 1, got {self.resident}")


@dataclass(frozen=True)
class Units:
    """What sets the workers apart, [W] each.

    `kind`: which of the service's cost tables. `slower`: factor on its costs, known to the rule.
    `link_ms`: what sending a batch there costs. `lost_ms` [W, 2]: from when to when it is gone; a
    batch it was running runs again afterwards. `placement`: which free worker is next, "speed"
    (the fastest), "use" (the least used) or "order" (the one longest free).
    """

    kind: Ints
    slower: Floats
    link_ms: Floats
    lost_ms: Floats
    placement: str = "order"

    @classmethod
    def alike(cls, workers: int) -> Units:
        """`workers` that differ in nothing."""
        return cls(
            np.zeros(workers, np.int64), np.ones(workers), np.zeros(workers),
            np.full((workers, 2), np.inf),
        )  # fmt: skip

    def __post_init__(self) -> None:
        n = self.kind.shape[0]
        shapes = (self.slower.shape, self.link_ms.shape, self.lost_ms.shape)
        if n < 1 or shapes != ((n,), (n,), (n, 2)):
            raise ValueError(
                f"slower, link_ms and lost_ms must have one entry per worker ({n}), got {shapes}"
            )
        if not (np.isfinite(self.slower).all() and (self.slower > 0).all()):
            raise ValueError(f"slower must be finite and greater than 0, got {self.slower}")
        if not (np.isfinite(self.link_ms).all() and (self.link_ms >= 0).all()):
            raise ValueError(f"link_ms must be finite and at least 0, got {self.link_ms}")
        start, end = self.lost_ms.T
        if not ((start <= end) & (np.isfinite(end) | (start == np.inf))).all():
            raise ValueError(
                f"lost_ms must be from when to when, [W, 2], inf for never, got {self.lost_ms}; "
                "a worker that stays away is one less: see Simulation.employ"
            )
        if self.placement not in PLACEMENTS:
            raise ValueError(f"placement must be one of {PLACEMENTS}, got {self.placement!r}")


Hidden = Disturbances
"""The name that it had before."""


@dataclass(frozen=True)
class Service:
    """What serves: plans with their costs, workers, and the promise made to every request.

    `cost_ms` [P, R, L], or [D, P, R, L] for D kinds of device: what the rule believes a batch
    costs; `true_ms` what it really costs (None: the same). `lengths` [L]: padded lengths.
    `slo_ms`: deadline after arrival. `tier` [P]: 0 is the most accurate. `accuracy` [P]: worth of
    an answer in time from that plan, 1 by default. `overhead_ms`: what every batch costs beside
    its plan; `delay_ms`: how long its answers take to arrive while the worker goes on.
    `learning`: share of each batch's observed / expected cost that a worker's own correction of
    the table takes over; 0 never learns. `pattern` [R, L, 4]: the memory pattern of every shape
    (`profiler.patterns`), which only a policy sees; None: not known, seen as zeros.
    """

    cost_ms: Floats
    lengths: Floats
    slo_ms: float
    workers: int
    tier: Ints | None = None
    accuracy: Floats | None = None
    true_ms: Floats | None = None
    overhead_ms: float = 0.0
    delay_ms: float = 0.0
    learning: float = 0.0
    hidden: Disturbances = field(default_factory=Disturbances)
    switching: Switching = field(default_factory=Switching)
    units: Units | None = None
    pattern: Floats | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        _positive("slo_ms", self.slo_ms)
        if self.cost_ms.ndim not in (3, 4) or 0 in self.cost_ms.shape:
            raise ValueError(
                "cost_ms must be [plans, rows, lengths] or [kinds, plans, rows, lengths], "
                f"got shape {self.cost_ms.shape}"
            )
        buckets = self.cost_ms.shape[-1]
        if self.lengths.shape != (buckets,) or (np.diff(self.lengths) <= 0).any():
            raise ValueError(f"lengths must be {buckets} ascending lengths, got {self.lengths}")
        if (self.cost_ms <= 0).any():
            raise ValueError(
                f"cost_ms must be greater than 0, got {self.cost_ms[self.cost_ms <= 0][0]}; "
                "inf and NaN say that a cost is not known"
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
        for name, array in (("tier", self.tier), ("accuracy", self.accuracy)):
            if array is not None and array.shape != (self.plans,):
                raise ValueError(
                    f"{name} must have one entry per plan ({self.plans}), got shape {array.shape}"
                )
        if not 0.0 <= self.learning <= 1.0:
            raise ValueError(f"learning must be in [0, 1], got {self.learning}")
        for name in ("overhead_ms", "delay_ms"):
            if not (math.isfinite(value := getattr(self, name)) and value >= 0):
                raise ValueError(f"{name} must be finite and at least 0, got {value}")
        if self.units is not None:
            self._check(self.units)
        if self.pattern is not None:
            self._check_pattern(self.pattern)

    def _check(self, units: Units) -> None:
        kinds = self.cost_ms.shape[0] if self.cost_ms.ndim == 4 else 1
        if units.kind.shape != (self.workers,):
            raise ValueError(
                f"units must have one entry per worker ({self.workers}), got {units.kind.shape[0]}"
            )
        if units.kind.min() < 0 or units.kind.max() >= kinds:
            raise ValueError(f"units.kind must be in 0..{kinds - 1}, got {units.kind.tolist()}")

    def _check_pattern(self, pattern: Floats) -> None:
        wanted = (*self.cost_ms.shape[-2:], len(Pattern._fields))
        if pattern.shape != wanted or not (np.isfinite(pattern).all() and (pattern >= 0).all()):
            raise ValueError(
                f"pattern must be {list(wanted)} of finite numbers of at least 0, "
                f"got shape {list(pattern.shape)}"
            )

    @property
    def plans(self) -> int:
        """How many plans there are."""
        return int(self.cost_ms.shape[-3])

    def table(self, which: str) -> Floats:
        """ "cost_ms" or "true_ms" as [D, P, R, L], in memory order."""
        array = self.cost_ms if which == "cost_ms" or self.true_ms is None else self.true_ms
        return np.ascontiguousarray(array.reshape(-1, *array.shape[-3:]), np.float64)


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be finite and greater than 0, got {value}")


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
    count: int = 1024,
) -> Floats:
    """Hidden cost multipliers, float64 [count], one per batch: what no table knows.

    Log-normal `scatter`, and a `spike_share` of batches times `spike`.
    """
    if not (scatter >= 0 and 0 <= spike_share <= 1 and spike > 0):
        raise ValueError(
            "scatter must be >= 0, spike_share in [0, 1] and spike > 0, "
            f"got {scatter}, {spike_share}, {spike}"
        )
    factor = np.exp(rng.normal(0.0, scatter, count)) if scatter else np.ones(count)
    factor[rng.random(count) < spike_share] *= spike
    return np.asarray(factor)


def drifting(rng: np.random.Generator, levels: tuple[float, float], count: int = 32) -> Floats:
    """Levels of a slow drift, float64 [count], log-uniform within `levels`; see
    `Disturbances.drift`."""
    low, high = levels
    if not (0 < low <= high and math.isfinite(high)):
        raise ValueError(f"levels must be (low, high) with 0 < low <= high, got {levels}")
    return np.exp(rng.uniform(math.log(low), math.log(high), count))
