"""The dispatch rule: hand-worked cases, and the compiled rule against the slow one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies._asking import Plans
from policies.params import RuleParams
from policies.rule import DispatchRule, Pick, Waiting, decide
from tests.policies.slow_rule import Item, State, decide_slowly

LENGTHS = [16.0, 32.0, 64.0]


def costs(fixed: float = 2.0, per_token: float = 0.125, max_rows: int = 8) -> list[list[float]]:
    """One plan: fixed + per_token · rows · length."""
    return [[fixed + per_token * r * n for n in LENGTHS] for r in range(1, max_rows + 1)]


def plain(**changes: object) -> RuleParams:
    """The rule with every weight at 1, so that cases can be worked by hand."""
    values: dict[str, object] = {"margin": 1.0, "alpha": 0.0, "delta": 1.0, "spread": 2.0}
    return RuleParams("case", **{**values, **changes})  # type: ignore[arg-type]


def pick(state: State) -> Pick:
    rule = DispatchRule(
        state.cost_ms,
        state.lengths,
        workers=state.workers,
        params=state.params,
        tier=state.tier,
        allowed=state.allowed,
    )
    return rule.pick(state.now_ms, queue(state.items), state.rate_per_ms)


def queue(items: tuple[Item, ...]) -> Waiting:
    waiting = Waiting(1)
    for item in items:
        waiting.append(
            item.deadline_ms,
            item.arrived_ms,
            item.bucket,
            rows=item.rows,
            group=item.group,
            refusable=item.refusable,
        )
    return waiting


def one_plan(items: list[Item], params: RuleParams, **changes: object) -> State:
    values: dict[str, object] = {
        "cost_ms": [costs()],
        "lengths": LENGTHS,
        "tier": [0],
        "allowed": [True],
        "workers": 1,
        "rate_per_ms": 0.0,
    }
    return State(tuple(items), params=params, **{**values, **changes})  # type: ignore[arg-type]


def test_an_empty_queue_waits_for_an_arrival() -> None:
    assert pick(one_plan([], plain())) == Pick(-1, (), (), math.inf)


def test_like_lengths_run_together_and_padding_is_not_paid_for() -> None:
    # 16 + 16 cost 6 ms together and 8 apart; taking the 64 in would cost 26 ms.
    items = [Item(50, 0, 0), Item(51, 0, 2), Item(52, 0, 0)]
    assert pick(one_plan(items, plain())).members == (0, 2)


def test_a_longer_member_is_taken_when_it_saves_more_than_the_padding() -> None:
    # Fixed costs of 20 ms: 16 and 32 together cost 28 ms, apart 22 + 24.
    items = [Item(90, 0, 0), Item(91, 0, 1)]
    state = one_plan(items, plain(delta=0.0), cost_ms=[costs(fixed=20.0)])
    assert set(pick(state).members) == {0, 1}
    assert pick(one_plan(items, plain(spread=1.5, delta=0.0))).members == (0,)  # may not


def test_a_batch_stays_within_the_slack_of_its_head() -> None:
    # 16 tokens: 1 row 4 ms, 2 rows 6, 3 rows 8, 4 rows 10.
    items = [Item(8.5, 0, 0), *(Item(60, 0, 0) for _ in range(5))]
    assert len(pick(one_plan(items, plain(delta=0.0))).members) == 3
    assert len(pick(one_plan(items, plain(delta=0.0, margin=0.75))).members) == 2


def test_a_batch_never_lowers_requests_per_ms() -> None:
    # 4 ms alone, 9 ms for two, 14 for three: batching hurts.
    cost_ms = [[[4.0 + 5.0 * r] * 3 for r in range(8)]]
    items = [Item(90, 0, 0)] * 4
    assert len(pick(one_plan(items, plain(), cost_ms=cost_ms)).members) == 1


def test_the_earliest_deadline_leads_whatever_the_order_of_joining() -> None:
    items = [Item(40, 0, 2), Item(30, 1, 0), Item(20, 2, 1)]
    assert pick(one_plan(items, plain(max_rows=1))).members == (2,)


def test_a_request_that_cannot_make_it_is_dropped_and_no_other() -> None:
    # 64 tokens cost 10 ms alone: hopeless with 9 left; 16 tokens cost 4.
    items = [Item(9, 0, 2), Item(9, 0, 0), Item(10, 0, 2)]
    got = pick(one_plan(items, plain()))
    assert got.dropped == (0,)
    assert got.members == (1,)


def test_the_dearest_is_passed_over_when_not_all_can_be_served() -> None:
    # Work ahead counts three times: 3 × 10 ms for the 64 tokens leave the short ones no time,
    # 3 × 4 ms for one short request leave the other enough.
    params = plain(max_rows=1)
    items = [Item(12, 0, 2), Item(23, 0, 0), Item(24, 0, 0)]
    got = pick(one_plan(items, params))
    assert got.members == (1,)
    assert got.dropped == ()  # it may still be lucky


def test_a_request_passed_over_is_served_when_nothing_else_waits_or_dropped_when_hopeless() -> None:
    params = plain(max_rows=1, delta=2.0)
    lone = [Item(12, 0, 2)]  # wants 2 × 10 ms, has 12
    assert pick(one_plan(lone, params)).members == (0,)
    assert pick(one_plan(lone, params, now_ms=2.5)).dropped == (0,)


def test_the_unrefusable_is_served_even_late_and_never_dropped() -> None:
    items = [Item(-5, -55, 2, refusable=False), Item(40, 0, 0)]
    got = pick(one_plan(items, plain()))
    assert got.dropped == ()
    assert got.members == (0,)


def test_a_late_unrefusable_head_does_not_make_its_members_late() -> None:
    # Four rows would cost 10 ms and end past the second request's 7 ms.
    items = [Item(-5, -55, 0, refusable=False), Item(7, 0, 0), Item(90, 0, 0), Item(90, 0, 0)]
    assert len(pick(one_plan(items, plain(delta=0.0))).members) == 2


def test_groups_never_mix() -> None:
    items = [Item(50, 0, 0, group=1), Item(50, 0, 0, group=2), Item(50, 0, 0, group=1)]
    assert pick(one_plan(items, plain())).members == (0, 2)


def test_requests_of_many_rows_fill_a_batch_by_rows() -> None:
    items = [Item(90, 0, 0, rows=3), Item(90, 0, 0, rows=4), Item(90, 0, 0, rows=1)]
    got = pick(one_plan(items, plain()))
    assert sum(items[i].rows for i in got.members) == 8
    over = [Item(90, 0, 0, rows=6), Item(90, 0, 0, rows=4)]
    assert pick(one_plan(over, plain())).members == (0,)


def test_a_request_larger_than_the_cap_runs_alone() -> None:
    items = [Item(90, 0, 0, rows=5), Item(90, 0, 0)]
    assert pick(one_plan(items, plain(max_rows=2))).members == (0,)


TWO_TIERS = {"cost_ms": [costs(per_token=0.25), costs(per_token=0.0625)], "tier": [0, 1],
             "allowed": [True, True]}  # fmt: skip


def test_the_accurate_tier_serves_while_it_carries_the_load_and_the_cheap_one_beyond() -> None:
    items = [Item(30, 0, 0) for _ in range(2)]
    assert pick(one_plan(items, plain(), **TWO_TIERS)).plan == 0
    many = [Item(30, 0, 0) for _ in range(9)]
    assert pick(one_plan(many, plain(), **TWO_TIERS)).plan == 1
    expecting = one_plan(items, plain(alpha=1.0), rate_per_ms=2.0, **TWO_TIERS)
    assert pick(expecting).plan == 1


def test_a_tier_that_cannot_meet_the_head_is_not_chosen() -> None:
    # 64 tokens: 18 ms on the accurate plan, 6 on the other; 10 ms are left.
    assert pick(one_plan([Item(10, 0, 2)], plain(), **TWO_TIERS)).plan == 1


def test_within_a_tier_the_plan_that_is_fastest_at_the_shape() -> None:
    small_first = costs(fixed=1.0, per_token=0.25)
    large_first = costs(fixed=6.0, per_token=0.0625)
    both = {"cost_ms": [small_first, large_first], "tier": [0, 0], "allowed": [True, True]}
    assert pick(one_plan([Item(90, 0, 0)], plain(), **both)).plan == 0
    assert pick(one_plan([Item(90, 0, 2)], plain(), **both)).plan == 1
    forbidden = {**both, "allowed": [True, False]}
    assert pick(one_plan([Item(90, 0, 2)], plain(), **forbidden)).plan == 0
    assert pick(one_plan([Item(90, 0, 2)], plain(plans=(0,)), **both)).plan == 0


@pytest.mark.parametrize("unknown", [math.nan, math.inf])
def test_unknown_costs_are_never_chosen_unless_all_are(unknown: float) -> None:
    blank = [[unknown] * 3 for _ in range(8)]
    both = {"cost_ms": [blank, costs()], "tier": [0, 0], "allowed": [True, True]}
    assert pick(one_plan([Item(90, 0, 1)], plain(), **both)).plan == 1
    items = [Item(90, 0, 1), Item(90, 0, 1)]
    got = pick(one_plan(items, plain(), cost_ms=[blank, blank], tier=[0, 1], allowed=[True, True]))
    assert (got.plan, got.members, got.dropped) == (0, (0,), ())
    none = one_plan(items, plain(), cost_ms=[costs()], allowed=[False])
    assert pick(none).plan == 0
    assert pick(none).members == (0,)


def test_static_fills_to_the_cap_in_order_of_arrival() -> None:
    items = [Item(50 + i, i, i % 3) for i in range(6)]
    assert pick(one_plan(items, RuleParams.static(0, 4))).members == (0, 1, 2, 3)
    grouped = RuleParams.static(0, 4, spread=1.0)
    assert pick(one_plan(items, grouped)).members == (0, 3)


def test_holding_ends_with_the_wait_the_slack_or_a_full_batch() -> None:
    params = RuleParams.static(0, 2, wait_ms=5.0)
    assert pick(one_plan([Item(50, 1, 0)], params, now_ms=2.0)) == Pick(-1, (), (), 6.0)
    assert pick(one_plan([Item(50, 1, 0)], params, now_ms=6.0)).members == (0,)
    assert pick(one_plan([Item(10, 1, 0)], params, now_ms=2.0)).wake_ms == 4.0  # 10 − 6 ms for two
    assert pick(one_plan([Item(50, 1, 0)] * 2, params, now_ms=2.0)).members == (0, 1)


buckets = st.integers(0, 2)
quarter_ms = st.integers(1, 240).map(lambda v: v / 4)


@st.composite
def states(draw: st.DrawFn) -> State:
    plans = draw(st.integers(1, 3))
    max_rows = draw(st.integers(1, 5))
    unknown = st.sampled_from([math.nan, math.inf])
    cost = st.one_of(quarter_ms, quarter_ms, quarter_ms, unknown)
    tables = [
        [[draw(cost) for _ in LENGTHS] for _ in range(max_rows)]
        if draw(st.integers(0, 3)) == 0
        else costs(draw(quarter_ms) / 4, draw(st.integers(1, 8)) / 32, max_rows)
        for _ in range(plans)
    ]
    items = draw(
        st.lists(
            st.builds(
                Item,
                st.integers(-40, 400).map(lambda v: v / 4),
                st.integers(-200, 0).map(lambda v: v / 4),
                buckets,
                st.integers(1, max_rows),
                st.sampled_from([0, 0, 0, 1]),
                st.sampled_from([True, True, True, False]),
            ),
            max_size=14,
        )
    )
    params = st.builds(
        RuleParams,
        st.just("random"),
        st.sampled_from([0.5, 0.75, 1.0, math.inf]),
        st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        st.sampled_from([0.0, 0.75, 2.0]),
        st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        st.sampled_from([1.0, 2.0, 4.0, math.inf]),
        st.integers(1, 6),
        st.sampled_from([0.0, 0.0, 4.0, 20.0]),
        st.sampled_from([(), (), (0,), (1,), (2,), (0, 1), (2, 0), (1, 2), (7,)]),
    )
    return State(
        tuple(items),
        tables,
        LENGTHS,
        [draw(st.integers(0, 2)) for _ in range(plans)],
        [draw(st.sampled_from([True, True, False])) for _ in range(plans)],
        draw(st.integers(1, 4)),
        draw(st.sampled_from([0.0, 0.25, 2.0])),
        draw(params),
    )


@settings(max_examples=400, deadline=None)
@given(states())
def test_the_compiled_rule_is_the_slow_rule(state: State) -> None:
    plan, members, dropped, wake_ms = decide_slowly(state)
    got = pick(state)
    assert (got.plan, list(got.members), list(got.dropped)) == (plan, members, dropped)
    assert got.wake_ms == wake_ms
    assert raw(state) == (plan, members, dropped, wake_ms)


def raw(state: State) -> tuple[int, list[int], list[int], float]:
    """The one-call form, from bare arrays."""
    members, dropped = np.empty(state.max_rows, np.int64), np.empty(len(state.items), np.int64)
    plans = Plans(
        np.array(state.cost_ms), np.array(state.lengths), np.array(state.tier),
        np.array(state.allowed),
    )  # fmt: skip
    plan, count, refused, wake_ms = decide(
        state.now_ms, queue(state.items).view(), plans, state.workers, state.rate_per_ms,
        state.params.to_array(), members, dropped,
    )  # fmt: skip
    return plan, members[:count].tolist(), dropped[:refused].tolist(), wake_ms


@settings(max_examples=200, deadline=None)
@given(states())
def test_whatever_the_state_the_answer_is_legal(state: State) -> None:
    got = pick(state)
    taken = [*got.members, *got.dropped]
    assert len(set(taken)) == len(taken)
    assert all(state.items[i].refusable for i in got.dropped)
    if got.members:
        rows = sum(state.items[i].rows for i in got.members)
        assert 0 <= got.plan < len(state.cost_ms)
        assert len({state.items[i].group for i in got.members}) == 1
        assert len(got.members) == 1 or rows <= state.cap
        lengths = [state.lengths[state.items[i].bucket] for i in got.members]
        assert max(lengths) <= state.params.spread * min(lengths)
    elif len(got.dropped) < len(state.items):
        assert state.now_ms < got.wake_ms < math.inf  # a hold always ends
    else:
        assert got.wake_ms == math.inf


@settings(max_examples=100, deadline=None)
@given(states())
def test_nobody_is_passed_over_for_ever(state: State) -> None:
    """Asked again and again as time passes, everyone is served or dropped."""
    items = list(state.items)
    now_ms = state.now_ms
    for _ in range(4 * len(items) + 4):
        if not items:
            break
        now = State(
            tuple(items), state.cost_ms, state.lengths, state.tier, state.allowed,
            state.workers, state.rate_per_ms, state.params, now_ms,
        )  # fmt: skip
        got = pick(now)
        gone = {*got.members, *got.dropped}
        now_ms = now_ms + 1.0 if gone else got.wake_ms
        items = [item for i, item in enumerate(items) if i not in gone]
    assert items == []


def test_waiting_keeps_its_columns_together() -> None:
    waiting = Waiting(1)
    for k in range(5):
        assert waiting.append(10.0 - k, float(k), k, rows=k + 1, group=k, refusable=k % 2 == 0) == k
    waiting.remove((0, 3))
    assert waiting.view().tolist() == [
        (9.0, 1.0, 1, 2, 1, False), (8.0, 2.0, 2, 3, 2, True), (6.0, 4.0, 4, 5, 4, True),
    ]  # fmt: skip
    assert waiting.head_slack_ms(1.0) == 5.0
    waiting.clear()
    assert (len(waiting), waiting.head_slack_ms(1.0)) == (0, math.inf)


def test_parameters_survive_json_and_refuse_nonsense() -> None:
    for params in (
        RuleParams("a"), RuleParams.static(2, 4, 5.0), RuleParams("b", spread=1, plans=(0, 2)),
    ):  # fmt: skip
        assert RuleParams.from_json(params.to_json()) == params
    assert RuleParams("a").to_array().tolist() == [0.7, 1.0, 0.75, 0.75, 1.6, 16.0, 0.0, 0.0]
    assert RuleParams("b", plans=(0, 2, 2)).to_array()[-1] == 5.0  # a bit for each
    for wrong, text in (
        ({"margin": 0.0}, "margin must be greater than 0, got 0.0"),
        ({"margin": math.nan}, "margin must be greater than 0, got nan"),
        ({"beta": -1.0}, "beta must be finite and at least 0, got -1.0"),
        ({"wait_ms": math.inf}, "wait_ms must be finite and at least 0, got inf"),
        ({"spread": 0.5}, "spread must be at least 1, got 0.5"),
        ({"max_rows": 0}, r"max_rows must be in 1\.\.1048576, got 0"),
        ({"plans": (0, -1)}, r"plans must be indices in 0\.\.51, got \(0, -1\)"),
        ({"plans": (52,)}, r"plans must be indices in 0\.\.51, got \(52,\)"),
    ):
        with pytest.raises(ValueError, match=text):
            RuleParams("wrong", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="params must have exactly the entries name, margin"):
        RuleParams.from_json({"name": "x"})
    with pytest.raises(ValueError, match=r"params\.beta must be float, got 'x'"):
        RuleParams.from_json({**RuleParams("a").to_json(), "beta": "x"})
    for plans in ("0", [True], [0.0], None):
        with pytest.raises(ValueError, match=r"params\.plans must be a list of indices, got"):
            RuleParams.from_json({**RuleParams("a").to_json(), "plans": plans})


@pytest.mark.parametrize(
    ("cost_ms", "lengths", "text"),
    [
        (np.ones((0, 1, 1)), [1], "cost_ms must be"),
        (np.zeros((1, 1, 1)), [1], "cost_ms must be greater than 0, got 0.0"),
        (np.ones((1, 1, 2)), [2, 1], "lengths must be 2 ascending positive lengths"),
        (np.ones((1, 1, 2)), [1], "lengths must be 2 ascending positive lengths"),
    ],
)
def test_a_rule_refuses_tables_that_make_no_sense(
    cost_ms: np.ndarray, lengths: list[int], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        DispatchRule(cost_ms, lengths, workers=1, params=RuleParams("a"))
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        DispatchRule(np.ones((1, 1, 1)), [1], workers=0, params=RuleParams("a"))


def test_a_rule_changes_its_setting() -> None:
    rule = DispatchRule([costs()], LENGTHS, workers=1, params=plain(max_rows=1))
    waiting = queue((Item(90, 0, 0),) * 3)
    assert len(rule.pick(0.0, waiting, 0.0).members) == 1
    rule.use(plain())
    assert len(rule.pick(0.0, waiting, 0.0).members) == 3


def test_a_repriced_rule_decides_as_one_made_from_the_new_prices() -> None:
    old, new = [costs(), costs(fixed=9.0)], np.stack([costs(fixed=9.0), costs()])
    rule = DispatchRule(old, LENGTHS, workers=1, params=plain())
    waiting = queue((Item(90, 0, 0),) * 3)
    repriced = rule.repriced(new, plain(max_rows=2))
    made = DispatchRule(new, LENGTHS, workers=1, params=plain(max_rows=2))
    assert repriced.pick(0.0, waiting, 0.0) == made.pick(0.0, waiting, 0.0)
    assert repriced.pick(0.0, waiting, 0.0).plan == 1
    before = rule.pick(0.0, waiting, 0.0)  # goes on as it was
    assert (before.plan, len(before.members)) == (0, 3)
    with pytest.raises(ValueError, match="must have shape"):
        rule.repriced(new[:1], plain())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": ""}, "name must be 1 to 100 printable characters"),
        ({"name": "\x1b[31mred"}, "name must be 1 to 100 printable characters"),
        ({"name": "a\nb"}, "name must be 1 to 100 printable characters"),
        ({"name": "x" * 101}, "name must be 1 to 100 printable characters"),
        ({"beta": 10**400}, "params.beta must be a number that a float holds"),
        ({"max_rows": 10**400}, r"max_rows must be in 1\.\.1048576, got 10{19}$"),
        ({"plans": [10**400]}, "plans must be"),
    ],
)
def test_parameters_from_a_file_may_hold_anything(changes: dict[str, object], why: str) -> None:
    values = {**RuleParams("fine").to_json(), **changes}
    with pytest.raises(ValueError, match=why):
        RuleParams.from_json(values)
