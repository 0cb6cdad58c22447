"""Proteus and BentoML, which let a batch wait, on queues worked out by hand.

Costs and SLO: `tests.policies.asking`; plan 0 takes 4, 6, 8, 10 ms for 1 to 4 rows, the SLO is
20 ms.
"""

from __future__ import annotations

import numpy as np
import pytest

from policies.disciplines import learn
from policies.rivals import BentoML, Proteus
from tests.policies.asking import NEVER, ask, fresh, slack

PROTEUS = Proteus(plan=0)
BENTO = BentoML(plan=0)

# -- Proteus: when ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrived_ms", "now_ms", "expected"),
    [
        ([100.0], 100.0, (-1, 0, 0, 116.0)),  # 120 - 4
        ([100.0], 116.0, (0, 1, 0, NEVER)),
        ([100.0], 116.1, (-1, 0, 1, NEVER)),
        ([100.0, 104.0], 104.0, (-1, 0, 0, 114.0)),  # 120 - 6
        ([100.0, 101.0, 102.0, 103.0], 103.0, (0, 4, 0, NEVER)),  # full
        ([100.0, 101.0, 102.0, 103.0, 104.0], 104.0, (0, 4, 0, NEVER)),
        # Three at 113 take 8 ms: 121 > 120, the head goes; two may wait until 121 - 6.
        ([100.0, 101.0, 102.0], 113.0, (-1, 0, 1, 115.0)),
        # As before, but it is the newcomer that is one too many: two are done by 119.
        ([100.0, 101.0, 113.0], 113.0, (0, 2, 0, NEVER)),
        # Two would be done by 121: the head goes after all, the others just make it.
        ([100.0, 101.0, 115.0], 115.0, (0, 2, 1, NEVER)),
        # Six: by fours, 10 ms. The first two have less.
        ([90.0, 99.0, 103.0, 103.5, 104.0, 104.5], 110.0, (0, 4, 2, NEVER)),
    ],
)
def test_proteus_starts_at_the_last_moment_or_when_full(
    arrived_ms: list[float], now_ms: float, expected: tuple[int, int, int, float]
) -> None:
    assert ask(PROTEUS, arrived_ms, now_ms) == expected


def test_proteus_when_woken_is_never_too_late_by_rounding() -> None:
    rng = np.random.default_rng(0)
    for arrived in rng.uniform(0.0, 1e5, 200):
        wake_ms = ask(PROTEUS, [arrived], arrived)[3]
        assert ask(PROTEUS, [arrived], wake_ms) == (0, 1, 0, NEVER)


def test_proteus_may_be_told_to_count_costs_more_than_once() -> None:
    rival = Proteus(plan=0, caution=1.5)
    assert ask(rival, [100.0]) == (-1, 0, 0, 114.0)  # 120 - 1.5 · 4


# -- Proteus: with what ---------------------------------------------------------------------------
# Full batches: plan 0 carries 4 / 10 = 0.4 per ms and worker, plan 1 0.8; headroom 1.05.


@pytest.mark.parametrize(
    ("rate_per_ms", "workers", "plan"),
    [
        (0.38, 1.0, 0),  # 0.399
        (0.39, 1.0, 1),  # 0.4095
        (0.76, 2.0, 0),
        (9.0, 1.0, 1),  # nothing carries it: the quickest
    ],
)
def test_proteus_takes_the_most_accurate_plan_that_carries_the_demand(
    rate_per_ms: float, workers: float, plan: int
) -> None:
    told = ask(Proteus(), slack(20, 20, 20, 20), 100.0, rate_per_ms=rate_per_ms, workers=workers)
    assert told == (plan, 4, 0, NEVER)


def plans(steps: list[tuple[float, float]]) -> list[int]:
    """The plan at each (now_ms, rate_per_ms), of one memory."""
    memo = fresh()
    return [
        ask(Proteus(), [now_ms] * 4, now_ms, rate_per_ms=rate, memo=memo)[0]
        for now_ms, rate in steps
    ]


def test_proteus_chooses_anew_every_ten_seconds() -> None:
    # At 12 s, after 2 s of 0.3 and 10 s of 5: well above what plan 0 carries.
    steps = [(2_000.0, 0.3), (11_900.0, 5.0), (12_000.0, 5.0), (12_001.0, 0.0)]
    assert plans(steps) == [0, 0, 1, 1]


def test_proteus_goes_by_the_average_demand() -> None:
    # 0.45 for the last of 20 s: 0.2 + 0.25 · (1 - e^-0.005) / (1 - e^-1) = 0.202, plan 0 carries it
    # though it would not carry 0.45.
    assert plans([(10_000.0, 0.2), (19_900.0, 0.2), (20_000.0, 0.45)]) == [0, 0, 0]
    # What was never seen counts for nothing: 10 s of 0.5 are 0.5, not 0.5 · (1 - e^-0.5).
    assert plans([(10_000.0, 0.5)]) == [1]


def test_proteus_chooses_again_after_its_first_second() -> None:
    assert plans([(1.0, 0.0), (999.0, 2.0), (1_000.0, 2.0), (2_000.0, 0.0)]) == [0, 0, 1, 1]
    assert plans([(0.0, 0.5)]) == [1]  # no time to average over: the rate itself


# -- BentoML --------------------------------------------------------------------------------------
# a = (10 - 4) / 3 = 2, b = 4 - 2 = 2 ms.


def waits(*waited_ms: float) -> list[float]:
    return [100.0 - one for one in waited_ms]


def remembering(wait_ms: float) -> np.ndarray:
    memo = fresh()
    learn(BENTO.kind, BENTO.to_array(), 4, 1.0, True, wait_ms, memo)
    return memo


@pytest.mark.parametrize(
    ("waited_ms", "batch"),
    [
        ([0.0], 0),  # 1 · (0 + 1 + 2) = 3 <= 0.95 · 10
        ([6.5], 0),  # 9.5
        ([6.6], 1),
        ([9.0, 4.0, 0.0], 0),  # 3 · 3 = 9
        ([9.0, 4.0, 0.2], 3),  # 9.6
        ([9.0, 4.0, 0.2, 0.0], 4),  # full
    ],
)
def test_bentoml_waits_as_long_as_batches_usually_do(waited_ms: list[float], batch: int) -> None:
    told = ask(BENTO, waits(*waited_ms), memo=remembering(10.0))
    assert told == ((0, batch, 0, NEVER) if batch else (-1, 0, 0, 101.0))


def test_bentoml_does_not_wait_before_it_knows_how_long() -> None:
    assert ask(BENTO, waits(0.0)) == (0, 1, 0, NEVER)


@pytest.mark.parametrize(
    ("waited_ms", "expected"),
    [
        ([13.9, 1.0], (0, 2, 0)),  # 13.9 + 2 · 2 + 2 = 19.9
        ([14.0, 1.0], (0, 1, 1)),  # 20 is not below the SLO
        ([6.0] * 6, (0, 4, 1)),  # 6 + 2 · 6 + 2 = 20: it counts all that wait, not the batch
        ([19.9], (0, 1, 0)),  # a lone one is served as long as its wait is below
        ([20.0], (-1, 0, 1)),
        ([30.0, 20.0], (-1, 0, 2)),
    ],
)
def test_bentoml_cancels_what_would_be_late(
    waited_ms: list[float], expected: tuple[int, int, int]
) -> None:
    assert ask(BENTO, waits(*waited_ms)) == (*expected, NEVER)


def test_bentoml_averages_over_fifty_batches() -> None:
    memo = fresh()
    seen = []
    for wait_ms in [10.0, 20.0, 0.0, *[10.0] * 47, 60.0]:
        learn(BENTO.kind, BENTO.to_array(), 4, 1.0, True, wait_ms, memo)
        seen.append(float(memo[12]))
    assert seen[:3] == pytest.approx([10.0, 15.0, 10.0])
    assert seen[-2:] == pytest.approx([10.0, 11.0])  # + (60 - 10) / 50


def test_bentoml_with_room_for_one_and_costs_that_shrink() -> None:
    assert ask(BentoML(plan=0, max_rows=1), waits(0, 0), memo=remembering(10.0)) == (0, 1, 0, NEVER)
    odd = np.array([[6.0, 5.0, 4.0, 3.0]])  # a line cannot fall: a = 0, b = 6
    assert ask(BENTO, waits(13.9, 0), cost=odd) == (0, 2, 0, NEVER)
    assert ask(BENTO, waits(14.0, 0), cost=odd) == (0, 1, 1, NEVER)


def test_what_the_others_do_not_learn_leaves_no_trace() -> None:
    memo = fresh()
    learn(PROTEUS.kind, PROTEUS.to_array(), 4, 2.0, False, 9.0, memo)
    assert not memo.any()
