"""A surge, 100 to 5000 requests per s and back: a warm pool beside autoscalers that start workers.

    trace ──▶ every tick: what was seen ──▶ Autoscaler ──▶ workers that are ready ──▶ employ

The fleet is the reference encoder (`sims.reference`) with as many workers as `fleet_for` finds
for the peak; whoever drives it, the same default rule dispatches and refuses. evolve's workers
are all resident: `WarmPool` says how many of them to use, from the next tick on. An autoscaler's
worker serves only `start_ms` after it was asked for. So this compares how a warm pool and how
started workers react; the pool pays with the memory of all its workers at all times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from policies.autoscale import (
    Autoscaler,
    HorizontalPodAutoscaler,
    KnativePodAutoscaler,
    Load,
    WarmPool,
)
from policies.presets import DEFAULT
from sims.scenarios.surge_result import MET, Surge, SurgeResult, judge
from sims.service import Service
from sims.simulation import Simulation, simulate
from sims.traces import poisson

__all__ = ["Carries", "Driver", "Surge", "SurgeResult", "drivers", "fleet_for", "measure", "play"]

UTILISATION = 0.7
"""Target of the autoscalers: Knative's default share, 70 % of what one worker carries."""
DEMANDS = ("busy", "in flight", "arrivals", "arrivals and waiting")
"""Workers' worth of busy time; requests; per s, over the last 100 ms; the same plus the queue."""


@dataclass(frozen=True)
class Carries:
    """What one worker of a fleet carries at its peak: the targets of the drivers.

    `requests_per_s`; `in_flight`: requests waiting or running per worker, on average.
    """

    requests_per_s: float
    in_flight: float


@dataclass(frozen=True)
class Driver:
    """Who decides on the workers: makes an autoscaler for a phase in [0, 1) of its period.

    `demand`: what it sees, one of `DEMANDS`. `start_ms`: until a worker that it asks for serves.
    """

    name: str
    make: Callable[[float], Autoscaler]
    demand: str
    start_ms: float = 0.0
    tick_ms: float = 100.0

    def __post_init__(self) -> None:
        if self.demand not in DEMANDS:
            raise ValueError(f"demand must be one of {DEMANDS}, got {self.demand!r}")
        if not (math.isfinite(self.start_ms) and self.start_ms >= 0):
            raise ValueError(f"start_ms must be finite and at least 0, got {self.start_ms}")
        if not 0 < self.tick_ms <= 1000:
            raise ValueError(f"tick_ms must be in (0, 1000], got {self.tick_ms}")


def drivers(carries: Carries, starts_s: Sequence[float] = (1.0, 10.0, 60.0)) -> list[Driver]:
    """evolve at ticks of 10 and 100 ms, and each autoscaler with each delay of starting a worker.

    A look costs `WarmPool` a microsecond and taking a warm worker nothing, so that it need not wait
    for the policy's tick; the second shows what that would lose.

    HPA scales on utilisation, its usual metric, and on arrivals per worker, which unlike the
    first does not end at 100 %; Knative on requests in flight, its default. All aim at 70 % of
    what a worker carries; none may ask for more than the fleet has.

    >>> [d.name for d in drivers(Carries(300.0, 4.0), starts_s=(1.0,))]
    ['evolve', 'evolve, 100 ms', 'HPA busy, 1 s', 'HPA arrivals, 1 s', 'KPA, 1 s']
    """

    def pool(_: float) -> Autoscaler:
        return WarmPool(carries.requests_per_s)

    def hpa(target: float) -> Callable[[float], Autoscaler]:
        return lambda phase: HorizontalPodAutoscaler(target, first_ms=15_000.0 * phase)

    def kpa(phase: float) -> Autoscaler:
        return KnativePodAutoscaler(UTILISATION * carries.in_flight, first_ms=2_000.0 * phase)

    found = [
        Driver("evolve", pool, DEMANDS[3], tick_ms=10.0),
        Driver("evolve, 100 ms", pool, DEMANDS[3]),
    ]
    rate = UTILISATION * carries.requests_per_s
    for start_s in starts_s:
        late, ms = f", {start_s:g} s", 1e3 * start_s
        found += [
            Driver(f"HPA busy{late}", hpa(UTILISATION), "busy", ms),
            Driver(f"HPA arrivals{late}", hpa(rate), "arrivals", ms),
            Driver(f"KPA{late}", kpa, "in flight", ms),
        ]
    return found


def fleet_for(service: Service, rate_per_s: float, seconds: float, seeds: Sequence[int]) -> int:
    """The fewest workers with which the default rule meets `MET` of a steady load for every seed.

    One more worker is taken to do no worse. Raises ValueError where 4096 are not enough.

    >>> from sims.reference import reference_service
    >>> fleet_for(reference_service(), 100.0, 5.0, seeds=(0,))
    1
    """
    traces = [poisson(rate_per_s, seconds, seed=seed) for seed in seeds]

    def carried(workers: int) -> bool:
        one = replace(service, workers=workers)
        return all(simulate(one, trace, DEFAULT).met_ratio >= MET for trace in traces)

    low, high = 0, 1
    while not carried(high):
        low, high = high, 2 * high
        if high > 4096:
            raise ValueError(f"service must carry {rate_per_s:g}/s with 4096 workers, got less")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if carried(middle) else (middle, high)
    return high


def measure(service: Service, rate_per_s: float, seconds: float, seed: int) -> Carries:
    """What each worker of `service` carries at this load, by Little's law for those in flight.

    >>> from sims.reference import reference_service
    >>> measure(reference_service(workers=2), 300.0, 5.0, seed=0).requests_per_s
    150.0
    """
    trace = poisson(rate_per_s, seconds, seed=seed)
    simulation = Simulation(service, trace)
    simulation.advance(math.inf, DEFAULT)
    stayed_ms = (simulation.end_ms - trace.arrivals_s * 1e3).sum()
    in_flight = stayed_ms / (trace.seconds * 1e3)
    return Carries(rate_per_s / service.workers, float(in_flight / service.workers))


def play(
    service: Service, shape: Surge, driver: Driver, *, seed: int, needed: int = 1
) -> SurgeResult:
    """One surge under one driver; `needed` workers carry the base and serve from the start.

    >>> from sims.reference import reference_service
    >>> shape = Surge(calm_s=1, surge_s=2, after_s=7, peak_per_s=500.0)
    >>> evolve, *others = drivers(Carries(250.0, 4.0))
    >>> play(reference_service(workers=3), shape, evolve, seed=0).released_s < 10.0
    True
    """
    if not 1 <= needed <= service.workers:
        raise ValueError(f"needed must be in 1..{service.workers}, got {needed}")
    trace = shape.trace(seed)
    simulation = Simulation(service, trace)
    scaler = driver.make(float(np.random.default_rng(seed).random()))
    ready_at_ms = [0.0] * needed
    used = np.empty(round(shape.seconds * 1e3 / driver.tick_ms), np.int64)
    for k in range(used.size):
        now_ms = k * driver.tick_ms
        ready = max(1, sum(at_ms <= now_ms for at_ms in ready_at_ms))
        used[k] = ready
        simulation.employ(ready)
        simulation.advance(now_ms + driver.tick_ms, DEFAULT)
        now_ms = simulation.now_ms
        load = Load(now_ms, len(ready_at_ms), ready, _demand(simulation, driver.demand))
        wanted = min(scaler.tick(load), service.workers)
        ready_at_ms = ready_at_ms[:wanted]  # the latest go first, those still starting among them
        ready_at_ms += [now_ms + driver.start_ms] * (wanted - len(ready_at_ms))
    simulation.advance(math.inf, DEFAULT)
    return judge(simulation, shape, used, driver=driver.name, needed=needed)


def _demand(simulation: Simulation, kind: str) -> float:
    seen = simulation.signals()
    if kind == "busy":
        return seen.busy_share * seen.workers
    if kind == "in flight":
        # None of those in flight is older: the rule has refused or started it long before.
        oldest_s = (simulation.now_ms - 10.0 * simulation.service.slo_ms) / 1e3
        since = int(np.searchsorted(simulation.trace.arrivals_s, oldest_s))
        return float((simulation.end_ms[since : simulation.offered] > simulation.now_ms).sum())
    waiting = seen.queue if kind == "arrivals and waiting" else 0
    return 10.0 * (seen.arrivals_100ms[-1] + waiting)
