"""The fast rule for requests of one length against the general one: the same decisions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies._asking import Asker, Line, Plans, Prepared
from policies.compiled import decide_prepared, prepare
from policies.params import RuleParams
from policies.presets import PRESETS
from policies.rule import Waiting
from policies.uniform import UniformTables, decide_uniform, tables_of

Decision = tuple[int, list[int], int, float]

SETTINGS = (
    *PRESETS,
    RuleParams.static(1, 4),
    RuleParams.static(0, 8, 3.0, delta=1.0),
    RuleParams("no-backlog", beta=0.0),
    RuleParams("tight", margin=0.2, wait_ms=5.0),
)


def tables(prepared: Prepared, greedy: bool) -> UniformTables:
    fastest, plan, ms_per_row, efficient_rows = (a[..., 0].copy() for a in prepared[:4])
    top, best = np.ones_like(plan), np.zeros_like(fastest)
    tables_of(fastest, plan, ms_per_row, efficient_rows, greedy, top, best)
    return UniformTables(
        fastest, plan, ms_per_row, efficient_rows, top, best, ms_per_row.shape[0] - 1
    )


def both(
    arrived: list[float],
    now: float,
    slo: float,
    workers: int,
    rate: float,
    cost: np.ndarray,
    tier: list[int],
    params: RuleParams,
) -> tuple[Decision, Decision]:
    """What the general rule and the fast one decide."""
    array = params.to_array()
    flags = np.ones(len(tier), np.bool_)
    prepared = prepare(Plans(cost, np.array([1.0]), np.array(tier), flags), array)
    at, n = np.array(arrived), len(arrived)
    members, dropped = np.zeros(cost.shape[1], np.int64), np.zeros(max(n, 1), np.int64)
    waiting = Waiting(max(n, 1))
    for at_ms in arrived:
        waiting.append(at_ms + slo, at_ms, 0)
    told = decide_prepared(now, waiting.view(), prepared, workers, rate, array, members, dropped)
    general = (told[0], members[: told[1]].tolist(), told[2], told[3])
    assert dropped[: told[2]].tolist() == list(range(told[2]))
    told = decide_uniform(
        now, Line(np.concatenate([[-1e9], at]), 1, n + 1, slo), Asker(0, float(workers), 1.0, rate),
        array, tables(prepared, params.margin == math.inf), members,
    )  # fmt: skip
    return general, (told[0], members[: told[1]].tolist(), told[2], told[3])


@st.composite
def cases(draw: st.DrawFn) -> dict[str, object]:
    """Queues of up to 60, one to four plans, costs that need not grow with the batch."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    plans, rows = draw(st.integers(1, 4)), draw(st.integers(1, 16))
    slo = float(rng.uniform(5, 60))
    cost = rng.uniform(0.5, 6, (plans, 1, 1)) + rng.uniform(0.1, 2, (plans, 1, 1)) * np.arange(
        1, rows + 1
    ).reshape(1, -1, 1)
    if draw(st.booleans()):
        cost *= rng.uniform(0.5, 1.5, cost.shape)
    return {
        "arrived": np.sort(rng.uniform(-slo * 1.2, 0, draw(st.integers(0, 60)))).tolist(),
        "now": 0.0,
        "slo": slo,
        "workers": draw(st.integers(1, 8)),
        "rate": float(rng.uniform(0, 5)),
        "cost": cost,
        "tier": rng.integers(0, plans, plans).tolist(),
        "params": draw(st.sampled_from(SETTINGS)),
    }


@settings(max_examples=1500, deadline=None)
@given(cases())
def test_the_fast_rule_decides_as_the_general_one(case: dict[str, object]) -> None:
    general, fast = both(**case)  # type: ignore[arg-type]
    assert fast[:3] == general[:3]
    assert fast[3] == pytest.approx(general[3])


def test_a_slower_worker_is_one_whose_costs_count_more() -> None:
    cost = np.linspace(4.0, 20.0, 8).reshape(1, 8, 1)
    array = RuleParams("default").to_array()
    plans = Plans(cost, np.array([1.0]), np.array([0]), np.ones(1, np.bool_))
    prepared = prepare(plans, array)
    slower = prepare(plans._replace(cost_ms=2.0 * cost), array)
    queue = np.linspace(0.0, 20.0, 30)
    told = []
    for pace, made in ((2.0, prepared), (1.0, slower)):
        members = np.zeros(8, np.int64)
        decision = decide_uniform(
            30.0,
            Line(queue, 0, 30, 50.0),
            Asker(0, 2.0, pace, 0.5),
            array,
            tables(made, False),
            members,
        )
        told.append((decision, members.tolist()))
    assert told[0] == told[1]
    assert told[0][0][1] > 0
    assert told[0][0][3] == math.inf
