"""Proteus over a simulated fleet: each worker its own plan, and who of the free ones is asked."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies._proteus import PLANS
from policies.rivals import Proteus
from sims.engine.inputs import make_inputs
from sims.engine.proteus import gives_way
from sims.engine.scene import Costs, Crew
from sims.engine.state import BY_ORDER, make_state
from sims.engine.workers import next_worker
from sims.service import Service, Units
from sims.simulation import Simulation
from sims.traces import poisson

ONE = np.ones(1, np.int32)


def fleet(workers: int = 2, **changes: Any) -> Service:
    """Three plans, 6 + 2, 4 + 1 and 2 + 0.5 ms per row up to eight, so that a worker carries 0.36,
    0.67 and 1.33 rows per ms; all of these are within half of the SLO."""
    rows = np.arange(1, 9)[None, :, None]
    fixed, more = (np.array(v)[:, None, None] for v in ([6.0, 4.0, 2.0], [2.0, 1.0, 0.5]))
    accuracy = np.array([0.9, 0.8, 0.7])
    return Service(fixed + more * rows, np.ones(1), 50.0, workers, accuracy=accuracy, **changes)


def settled(service: Service, rate_per_s: float, setting: Proteus) -> list[set[int]]:
    """The plans of each worker after 2 s, when the demand is known."""
    simulation = Simulation(service, poisson(rate_per_s, 6.0, seed=0, lengths=ONE))
    simulation.advance(math.inf, setting)
    late = simulation.batches()
    late = late[late["start_ms"] > 2000.0]
    return [set(late["plan"][late["worker"] == w].tolist()) for w in range(service.workers)]


@pytest.mark.parametrize(
    ("rate_per_s", "plans"),
    [
        (500.0, [0, 0]),  # × 1.05 is below 727
        (800.0, [0, 1]),  # 0.36 + 0.67
        (1300.0, [0, 2]),  # 0.36 + 1.33
        (5000.0, [2, 2]),  # more than all can carry
    ],
)
def test_two_workers_run_the_plans_that_their_demand_asks_for(
    rate_per_s: float, plans: list[int]
) -> None:
    got = settled(fleet(), rate_per_s, Proteus())
    assert sorted(got, key=list) == [{p} for p in plans]


def test_a_slower_worker_is_known_to_carry_less() -> None:
    slow = replace(Units.alike(2), slower=np.array([1.0, 2.0]))
    # (0, 1) carries 0.36 + 0.33, (1, 0) 0.67 + 0.13: slowed, a batch on plan 0 has
    # but three rows. The first is the more accurate, 0.36 · 0.9 + 0.27 · 0.8.
    assert settled(fleet(units=slow), 600.0, Proteus()) == [{0}, {1}]


def test_a_worker_that_joins_is_given_a_plan_at_once() -> None:
    simulation = Simulation(fleet(3), poisson(800.0, 6.0, seed=0, lengths=ONE))
    simulation.employ(2)
    simulation.advance(4000.0, Proteus())
    simulation.employ(3)
    simulation.advance(math.inf, Proteus())
    late = simulation.batches()
    late = late[late["start_ms"] > 4100.0]
    assert set(late["plan"].tolist()) == {0}  # three of them carry 1.09
    assert set(late["worker"].tolist()) == {0, 1, 2}


def whose_turn(left_ms: float, busy: int = -1, waiting: int = 8) -> int:
    """Who is asked when so much time is left to all that wait; worker 1 runs plan 0, 0 plan 2."""
    service = fleet()
    inputs = make_inputs([service], [poisson(1.0, 9.0, seed=0, lengths=ONE)], [Proteus()])
    state = make_state(1, inputs)
    env, memo, units = state.env[0], state.memo[0], state.unit[0]
    env["active"], env["now_ms"], units["correction"] = 2, 1000.0, 1.0
    env["tail"], state.queue_ms[0, :waiting] = waiting, 950.0 + left_ms
    memo[4:6] = 1000.0, 2.0  # plans were given just now, for two
    memo[PLANS : PLANS + 2] = 2.0, 0.0
    if busy >= 0:
        units["free_ms"][busy] = 2000.0
    crew = Crew(inputs.worker[0], units, BY_ORDER)
    way = gives_way(
        busy == 0, env, 50.0, crew, Costs(inputs.believed, inputs.accuracy), state.queue_ms[0],
        inputs.params[0], memo,
    )  # fmt: skip
    asked = next_worker(1000.0, 2, crew)
    assert way == (asked != (busy == 0))
    return asked


def test_of_the_free_workers_the_most_accurate_that_drops_nothing_is_asked() -> None:
    assert whose_turn(50.0) == 1
    assert whose_turn(22.0) == 1  # 6 + 8 · 2 ms, just in time
    assert whose_turn(21.9) == 0
    assert whose_turn(50.0, busy=1) == 0
    assert whose_turn(21.9, busy=0) == 1  # it must drop some, but is the only one
    assert whose_turn(1.0) == 1  # all are lost with either
