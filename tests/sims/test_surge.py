"""A small surge: a warm pool and autoscalers, and the figures told of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from policies.autoscale import Load
from policies.presets import DEFAULT
from sims.scenarios.surge import Carries, Driver, Surge, drivers, fleet_for, measure, play
from sims.scenarios.surge_result import judge
from sims.service import Service
from sims.simulation import Simulation
from sims.traces import Trace

ONE = Service(np.full((1, 1, 1), 10.0), np.array([300.0]), slo_ms=50.0, workers=4)
"""A worker carries 100 requests per s, one at a time."""
SHAPE = Surge(base_per_s=30.0, peak_per_s=300.0, calm_s=3, surge_s=12, after_s=12)


class Told:
    """An autoscaler that asks for what it was told to, and keeps what it was shown."""

    def __init__(self, *wanted: tuple[float, int]) -> None:
        self._wanted, self.seen = wanted, list[Load]()

    def tick(self, load: Load) -> int:
        self.seen.append(load)
        return [count for from_ms, count in self._wanted if from_ms <= load.at_ms][-1]


def test_the_trace_has_its_three_rates() -> None:
    trace = Surge(100.0, 1000.0, calm_s=10, surge_s=10, after_s=10).trace(seed=0)
    counts = np.histogram(trace.arrivals_s, [0, 10, 20, 30])[0]
    assert (abs(counts - [1000, 10_000, 1000]) < [150, 500, 150]).all()


def test_the_smallest_fleet_that_carries_a_load() -> None:
    few = fleet_for(ONE, 250.0, 10.0, seeds=(0, 1))
    assert few == 4  # three would have to be busy 83 % of the time within 50 ms
    assert fleet_for(ONE, 20.0, 10.0, seeds=(0, 1)) == 1
    with pytest.raises(ValueError, match="must carry 100/s with 4096 workers, got less"):
        fleet_for(Service(ONE.cost_ms, ONE.lengths, 1.0, 1), 100.0, 1.0, seeds=(0,))


def test_what_a_worker_carries() -> None:
    carries = measure(ONE, 200.0, 20.0, seed=0)
    assert carries.requests_per_s == 50.0
    assert 0.5 < carries.in_flight < 0.8  # half of the time running, and some waiting


def test_a_started_worker_serves_after_its_delay() -> None:
    told = Told((0.0, 1), (4000.0, 3), (10_000.0, 2))
    late = Driver("late", lambda phase: told, "arrivals", start_ms=2000.0)
    result = play(ONE, SHAPE, late, seed=0)
    ready = {round(load.at_ms): load.ready for load in told.seen}
    assert (ready[4000], ready[6000], ready[6100], ready[10_000]) == (1, 1, 3, 3)
    assert (ready[10_100], told.seen[-1].ready, result.used) == (2, 2, 3)
    assert told.seen[-1].workers == 2


def test_a_worker_no_longer_wanted_never_starts() -> None:
    told = Told((0.0, 1), (4000.0, 4), (5000.0, 1))
    result = play(ONE, SHAPE, Driver("late", lambda phase: told, "busy", 2000.0), seed=0)
    assert result.used == 1


@pytest.mark.parametrize("demand", ["busy", "in flight", "arrivals", "arrivals and waiting"])
def test_what_drivers_see(demand: str) -> None:
    told = Told((0.0, 4))
    play(ONE, SHAPE, Driver("all", lambda phase: told, demand), seed=0, needed=4)
    rush = np.mean([load.demand for load in told.seen if 4000 < load.at_ms <= 15_000])
    # 300/s keep three workers busy; those in flight wait as well.
    low, high = {"busy": (2.5, 3.2), "in flight": (2.8, 8.0)}.get(demand, (285, 330))
    assert low < rush < high


def test_the_warm_pool_absorbs_and_gives_back() -> None:
    carries = Carries(90.0, 1.0)
    evolve, fast, *others = drivers(carries, starts_s=(1.0, 10.0))
    one, two = (play(ONE, SHAPE, driver, seed=1) for driver in (evolve, fast))
    for result in (one, two):
        assert result.used == 4
        assert result.absorbed_s <= 1.0
        assert 4.9 < result.released_s < 10.0
        assert result.slow_s < 3
    for driver in others:
        result = play(ONE, SHAPE, driver, seed=1)
        assert result.surge < one.surge
        assert result.first_second < one.first_second
    assert one == play(ONE, SHAPE, evolve, seed=1)


def test_the_figures_worked_by_hand() -> None:
    """One request a second; those of seconds 2 and 3 have company that a lone worker refuses."""
    at_s = np.array([0.5, 1.5, 2.5, *[2.5] * 9, 3.5, *[3.5] * 9, 4.5, 5.5])
    trace = Trace(at_s, np.ones(at_s.size, np.int32), "by hand")
    service = Service(ONE.cost_ms, ONE.lengths, slo_ms=50.0, workers=1)
    simulation = Simulation(service, trace)
    simulation.advance(math.inf, DEFAULT)
    answered = int((simulation.outcome[2:12] == 1).sum())
    assert 0 < answered < 10
    shape = Surge(calm_s=2, surge_s=2, after_s=2)
    used = np.array([1, 1, 5, 5, 3, 2])
    result = judge(simulation, shape, used, driver="hand", needed=1)
    assert result.first_second == answered / 10
    assert result.surge == answered / 10
    assert result.outside == 1.0
    assert (result.slow_s, result.absorbed_s, result.released_s) == (2, math.inf, 1.0)
    assert (result.idle_worker_s, result.used) == (3.0, 5)
    kept = judge(simulation, shape, np.full(6, 5), driver="hand", needed=1)
    assert kept.released_s == math.inf


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="surge_s must be at least 1, got 0"):
        Surge(surge_s=0)
    with pytest.raises(ValueError, match=r"demand must be one of .*, got 'mood'"):
        Driver("x", lambda phase: Told(), "mood")
    with pytest.raises(ValueError, match="start_ms must be finite and at least 0, got -1"):
        Driver("x", lambda phase: Told(), "busy", -1.0)
    with pytest.raises(ValueError, match=r"tick_ms must be in \(0, 1000\], got 0"):
        Driver("x", lambda phase: Told(), "busy", tick_ms=0.0)
    with pytest.raises(ValueError, match=r"needed must be in 1\.\.4, got 5"):
        play(ONE, SHAPE, Driver("x", lambda phase: Told(), "busy"), seed=0, needed=5)
