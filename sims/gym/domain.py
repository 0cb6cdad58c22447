"""The domain that the episodes of a gym are drawn from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sims.reference import reference_service
from sims.service import Disturbances, Service, Switching, Units, drifting, noise
from sims.traces import (
    NoArrivals,
    Regime,
    Trace,
    bursty,
    diurnal,
    flash_crowd,
    microburst,
    mmpp,
    natural_lengths,
    poisson,
    switching,
)

__all__ = ["REGIMES", "LoadDomain", "capacity_per_s"]

Lengths = NDArray[np.int32]

REGIMES: tuple[Regime, ...] = (
    poisson,
    partial(bursty, cv2=4.0),
    partial(bursty, cv2=8.0),
    mmpp,
    microburst,
    diurnal,
    flash_crowd,
    switching,
)
"""Kinds of traffic that a gym draws from unless told otherwise."""


def capacity_per_s(service: Service, lengths: Lengths) -> float:
    """Requests of these lengths per second, were every batch as cheap as batches get."""
    table = service.table("cost_ms")
    units = service.units or Units.alike(service.workers)
    rows = np.arange(1, table.shape[2] + 1)[None, :, None]
    bucket = np.searchsorted(service.lengths, lengths)
    work_ms = np.array([np.nanmin(kind / rows, axis=(0, 1))[bucket].mean() for kind in table])
    return float((1e3 / (work_ms[units.kind] * units.slower)).sum())


@dataclass(frozen=True)
class LoadDomain:
    """What the episodes of a gym are drawn from, each quantity uniformly within (low, high).

    `service`: costs and plans, the reference encoder by default. `regimes`: kinds of traffic.
    `load`: mean arrivals over `capacity_per_s`. `slower`: factor on all costs. `unevenness`:
    spread of the workers' speeds (standard deviation of their logarithm). `switch_ms`, `load_ms`,
    `resident`: see `Switching`. `scatter`, `spike_share`, `drift`: hidden disturbances, the last
    one moving every `drift_every_ms`. `learning`: how fast a worker's table follows them.
    """

    service: Service | None = None
    regimes: tuple[Regime, ...] = REGIMES
    seconds: float = 10.0
    load: tuple[float, float] = (0.3, 1.3)
    workers: tuple[int, int] = (1, 4)
    slo_ms: tuple[float, float] = (25.0, 100.0)
    slower: tuple[float, float] = (0.7, 1.4)
    unevenness: tuple[float, float] = (0.0, 0.0)
    switch_ms: tuple[float, float] = (0.0, 0.0)
    load_ms: tuple[float, float] = (0.0, 0.0)
    resident: tuple[int, int] = (16, 16)
    scatter: tuple[float, float] = (0.0, 0.2)
    spike_share: tuple[float, float] = (0.0, 0.02)
    drift: tuple[float, float] = (0.7, 1.6)
    drift_every_ms: float = 1500.0
    learning: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds >= 1.0):
            raise ValueError(f"seconds must be finite and at least 1, got {self.seconds}")
        if not self.regimes:
            raise ValueError("regimes must hold at least one, got none")
        for name in ("load", "workers", "slo_ms", "slower", "resident", "drift"):
            self._check(name, positive=True)
        for name in ("unevenness", "switch_ms", "load_ms", "scatter", "spike_share", "learning"):
            self._check(name, positive=False)

    def _check(self, name: str, *, positive: bool) -> None:
        low, high = getattr(self, name)
        if not ((low > 0 or (low == 0 and not positive)) and low <= high and math.isfinite(high)):
            floor = "0 <" if positive else "0 <="
            raise ValueError(
                f"{name} must be (low, high) with {floor} low <= high, got {low, high}"
            )

    @property
    def base(self) -> Service:
        """Costs and plans."""
        return self.service or reference_service()

    def lengths(self, rng: np.random.Generator) -> Lengths:
        """A pool of request lengths for this service."""
        longest = int(self.base.lengths[-1])
        if longest > 51:
            return natural_lengths(2000, rng, longest=longest)
        return rng.integers(1, longest + 1, 2000).astype(np.int32)

    def draw_service(self, rng: np.random.Generator) -> Service:
        """One episode's service, sharing the base's tables."""
        workers = int(rng.integers(self.workers[0], self.workers[1] + 1))
        spread = rng.normal(0.0, rng.uniform(*self.unevenness), workers)
        units = replace(
            Units.alike(workers), slower=rng.uniform(*self.slower) * np.exp(spread - spread.mean())
        )
        hidden = Disturbances(
            noise(
                rng, scatter=rng.uniform(*self.scatter), spike_share=rng.uniform(*self.spike_share)
            ),
            drifting(rng, self.drift),
            self.drift_every_ms,
        )
        switching = Switching(
            rng.uniform(*self.switch_ms),
            rng.uniform(*self.load_ms),
            int(rng.integers(self.resident[0], self.resident[1] + 1)),
        )
        return replace(
            self.base, slo_ms=rng.uniform(*self.slo_ms), workers=workers, units=units,
            hidden=hidden, switching=switching, learning=rng.uniform(*self.learning),
        )  # fmt: skip

    def draw_trace(
        self, rng: np.random.Generator, rate_per_s: float, seconds: float, lengths: Lengths
    ) -> Trace:
        """`seconds` of one of the regimes at this mean rate."""
        rate_per_s = max(rate_per_s, 5.0 / seconds)  # an episode without a request is none
        regime = self.regimes[int(rng.integers(len(self.regimes)))]
        while True:
            try:
                return regime(rate_per_s, seconds, seed=int(rng.integers(2**31)), lengths=lengths)
            except NoArrivals:  # a very bursty, sparse draw can be empty: draw again
                continue

    def draw(self, rng: np.random.Generator) -> tuple[Service, Trace]:
        """One episode's service and trace."""
        service, lengths = self.draw_service(rng), self.lengths(rng)
        rate_per_s = rng.uniform(*self.load) * capacity_per_s(service, lengths)
        return service, self.draw_trace(rng, rate_per_s, self.seconds, lengths)
