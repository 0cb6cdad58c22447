"""From services, traces and settings to arrays: what fits together, and what they hold."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies.params import RuleParams
from policies.presets import DEFAULT
from policies.rivals import Clipper, Clockwork, SlackFit
from sims.engine.inputs import make_inputs
from sims.service import Disturbances, Service, Switching, Units
from sims.simulation import Simulation
from sims.traces import Trace

ROWS = np.arange(1, 5)[None, :, None]
TWO = Service(2.0 + 2.0 * ROWS * np.array([1.0, 2.0]), np.array([16.0, 32.0]), 20.0, 1)
ONE = Service(np.full((3, 4, 1), 5.0), np.array([16.0]), 20.0, 1)


def trace_of(*lengths: int) -> Trace:
    return Trace(np.arange(len(lengths)) * 1e-3, np.array(lengths, np.int32), "hand")


@pytest.mark.parametrize(
    ("empty", "text"),
    [
        (0, "services must hold at least one, got none"),
        (1, "traces must hold at least one, got none"),
        (2, "settings must hold at least one, got none"),
    ],
)
def test_of_each_there_must_be_one(empty: int, text: str) -> None:
    given: list[Any] = [[ONE], [trace_of(1)], [DEFAULT]]
    given[empty] = []
    with pytest.raises(ValueError, match=text):
        make_inputs(*given)


@pytest.mark.parametrize(
    "changes",
    [
        {"cost_ms": 2 * ONE.cost_ms, "true_ms": ONE.cost_ms},
        {"true_ms": 2 * ONE.cost_ms},
        {"lengths": np.array([32.0])},
        {"tier": np.array([0, 1, 2])},
        {"accuracy": np.array([1.0, 0.9, 0.8])},
        {"pattern": np.ones((4, 1, 4))},
    ],
)
def test_services_of_other_tables_need_a_bank_of_their_own(changes: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError,
        match="services must share cost_ms, true_ms, lengths, tier, accuracy and pattern",
    ):
        make_inputs([ONE, replace(ONE, **changes)], [trace_of(1)], [DEFAULT])
    same = {name: np.copy(getattr(replace(ONE, **changes), name)) for name in changes}
    make_inputs([replace(ONE, **changes), replace(ONE, **same)], [trace_of(1)], [DEFAULT])


def test_services_may_differ_in_all_else() -> None:
    other = replace(
        ONE, workers=3, slo_ms=50.0, switching=Switching(1.0, 2.0, 2), learning=0.5,
        units=replace(Units.alike(3), slower=np.array([1.0, 2.0, 4.0]), placement="use"),
        hidden=Disturbances(np.array([1.0, 2.0]), np.array([1.0, 3.0]), 100.0),
    )  # fmt: skip
    inputs = make_inputs([ONE, other], [trace_of(1, 1), trace_of(1)], [DEFAULT])
    assert inputs.service["workers"].tolist() == [1, 3]
    assert inputs.service["slo_ms"].tolist() == [20.0, 50.0]
    assert inputs.worker.shape == (2, 3)
    assert inputs.worker["ability"][1].tolist() == [1.0, 0.5, 0.25]
    assert inputs.worker["abilities"][1].tolist() == [1.0, 1.5, 1.75]
    assert inputs.factor.tolist() == [[1.0, 1.0], [1.0, 2.0]]
    assert inputs.drift.tolist() == [[1.0, 1.0], [1.0, 3.0]]
    assert (inputs.first.tolist(), inputs.size.tolist()) == ([0, 2], [2, 1])


def test_hidden_disturbances_have_one_size() -> None:
    hidden = (Disturbances(np.ones(2)), Disturbances(np.ones(3)))
    services = [replace(ONE, hidden=one) for one in hidden]
    with pytest.raises(ValueError, match=r"factor and drift must have one size .* got 2 beside 3"):
        make_inputs(services, [trace_of(1)], [DEFAULT])


def test_a_trace_too_long_for_the_grid_is_refused() -> None:
    text = r"trace lengths must be at most 32 \(the last padded length\), got 33; extend the grid"
    with pytest.raises(ValueError, match=text):
        Simulation(TWO, trace_of(16, 33))
    Simulation(TWO, trace_of(16, 32))


def test_only_the_rule_serves_requests_of_different_lengths() -> None:
    text = r"slackfit-16 must serve requests of one padded length, got 2; only the rule batches"
    with pytest.raises(ValueError, match=text):
        make_inputs([TWO], [trace_of(16)], [DEFAULT, SlackFit()])
    simulation = Simulation(TWO, trace_of(16))
    with pytest.raises(ValueError, match=text):
        simulation.advance(1.0, SlackFit())


def test_a_discipline_must_use_a_plan_there_is() -> None:
    with pytest.raises(ValueError, match=r"clockwork-p3: plan must be in 0\.\.2, got 3"):
        make_inputs([ONE], [trace_of(1)], [Clockwork(3)])
    make_inputs([ONE], [trace_of(1)], [Clipper(2), SlackFit()])


def test_the_short_rule_is_for_one_length_and_known_costs() -> None:
    """One entry per setting and kind of device; what a setting never uses may be unknown."""
    cost_ms = np.stack([ONE.cost_ms, ONE.cost_ms])
    cost_ms[1, 2], cost_ms[1, :, 3] = np.nan, np.inf
    kinds = replace(ONE, cost_ms=cost_ms, true_ms=np.ones_like(cost_ms))
    settings = [
        DEFAULT,
        RuleParams("three", max_rows=3),
        RuleParams.static(2, 2),
        RuleParams("all", margin=math.inf),
    ]
    short = make_inputs([kinds], [trace_of(1)], settings).short
    assert short.tolist() == [[True, False], [True, True], [True, False], [True, False]]
    assert not make_inputs([TWO], [trace_of(1)], [DEFAULT]).short.any()
