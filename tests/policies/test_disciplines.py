"""SlackFit, its drain-aware variant, Clockwork and Clipper on queues worked out by hand.

Costs and the meaning of a row: `tests.policies.asking`. Proteus and BentoML, which wait:
`tests.policies.test_disciplines_waiting`.
"""

from __future__ import annotations

import numpy as np
import pytest

from policies.disciplines import learn
from policies.rivals import Clipper, Clockwork, DrainAware, SlackFit
from tests.policies.asking import ACCURACY, COST, NEVER, ask, fresh, slack

# -- SlackFit -----------------------------------------------------------------------------------
# Four buckets over [2, 10] ms (cost, plan and rows):
#   [2, 4): 2 p1x1, 3 p1x2    [4, 6): 4 p0x1, 4 p1x3, 5 p1x4    [6, 8): 6 p0x2    [8, 10]: rest


@pytest.mark.parametrize(
    ("left_ms", "expected"),
    [
        (20.0, (0, 4)),  # the last bucket: its largest batch
        (10.0, (0, 4)),  # which ends at 10
        (9.0, (0, 2)),  # [8, 10] does not lie within 9, though 8 (p0x3) would
        (8.0, (0, 2)),
        (6.0, (1, 4)),  # [4, 6): 4 rows rather than the more accurate single one
        (5.9, (1, 2)),
        (4.0, (1, 2)),
        (3.9, (1, 2)),  # less than the lowest bucket's end: what fits of it
        (2.5, (1, 1)),
        (1.0, (1, 1)),  # nothing fits: the quickest alone
        (-5.0, (1, 1)),
    ],
)
def test_slackfit_takes_the_highest_bucket_within_the_slack(
    left_ms: float, expected: tuple[int, int]
) -> None:
    queue = slack(left_ms, 20, 20, 20, 20)
    assert ask(SlackFit(buckets=4), queue) == (*expected, 0, NEVER)


def test_slackfit_chooses_by_latency_not_by_the_queue() -> None:
    assert ask(SlackFit(buckets=4), slack(20)) == (0, 1, 0, NEVER)
    assert ask(SlackFit(buckets=4), slack(6)) == (1, 1, 0, NEVER)


def test_slackfit_breaks_ties_of_batch_by_accuracy() -> None:
    alike = np.array([COST[1], COST[1]])
    queue = slack(20, 20, 20, 20)
    assert ask(SlackFit(buckets=4), queue, cost=alike)[0] == 0
    assert ask(SlackFit(buckets=4), queue, cost=alike, accuracy=ACCURACY[::-1].copy())[0] == 1


def test_slackfit_with_one_bucket_takes_the_largest_batch_that_fits() -> None:
    queue = slack(9, 20, 20, 20)
    assert ask(SlackFit(buckets=1), queue) == (1, 4, 0, NEVER)


def test_slackfit_spaces_buckets_over_batches_it_may_form() -> None:
    # Up to 2 rows: [2, 6] in four; the last, [5, 6], holds p0x2. With 5.5 left: [3, 4), [4, 5)
    # hold p1x2 and p0x1, so the single one is in the highest that fits.
    rival = SlackFit(buckets=4, max_rows=2)
    assert ask(rival, slack(20, 20, 20)) == (0, 2, 0, NEVER)
    assert ask(rival, slack(5.5, 20, 20)) == (0, 1, 0, NEVER)


def test_slackfit_with_costs_all_equal_and_unknown() -> None:
    queue = slack(20, 20, 20, 20)
    assert ask(SlackFit(), queue, cost=np.full((2, 4), 3.0)) == (0, 4, 0, NEVER)
    unknown = np.array([[4.0, 6.0, 8.0, np.inf], [2.0, 3.0, np.nan, np.nan]])
    # [2, 8] in three buckets of 2 ms; 8 ms: p0x3.
    assert ask(SlackFit(buckets=3), queue, cost=unknown) == (0, 3, 0, NEVER)


def test_early_drop_is_of_what_the_cheapest_cannot_answer() -> None:
    rival = SlackFit(buckets=4, early_drop=True)
    assert ask(rival, slack(1.9, 2.0, 20)) == (1, 1, 1, NEVER)  # 2 ms are enough for plan 1
    assert ask(rival, slack(-3, 1)) == (-1, 0, 2, NEVER)
    assert ask(SlackFit(buckets=4), slack(1.9, 2.0, 20))[2] == 0


# -- drain-aware SlackFit -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waiting", "left_ms", "workers", "expected"),
    [
        (1, 20.0, 1.0, (0, 1)),
        (8, 20.0, 1.0, (0, 4)),  # 8 / 4 · 10 = 20; by threes 21.3
        (9, 20.0, 1.0, (1, 4)),  # 9 / 4 · 10 = 22.5, plan 1: 11.25
        (16, 20.0, 2.0, (0, 4)),  # twice the workers, twice the queue
        (40, 20.0, 1.0, (1, 4)),  # nothing drains (plan 1: 50): most rows per ms
        (40, 4.5, 1.0, (1, 3)),  # of what fits: 0.25, 0.5, 0.67 and 3 / 4 = 0.75
        (3, 1.0, 1.0, (1, 3)),  # nothing fits: most rows per ms of all
    ],
)
def test_drain_aware_takes_the_most_accurate_that_drains(
    waiting: int, left_ms: float, workers: float, expected: tuple[int, int]
) -> None:
    rival = DrainAware(early_drop=False)
    queue = slack(*[left_ms] * waiting)
    assert ask(rival, queue, workers=workers) == (*expected, 0, NEVER)


def test_the_margin_is_on_the_batch_not_on_the_queue() -> None:
    # Of 10 ms a batch may cost 5: plan 0 alone (4), and two of those drain in 8 <= 10.
    assert ask(DrainAware(margin=0.5), slack(10, 10)) == (0, 1, 0, NEVER)
    assert ask(DrainAware(margin=1.0), slack(10, 10)) == (0, 2, 0, NEVER)


def test_drain_aware_ties_cap_and_drops() -> None:
    alike = np.array([[3.0, 5.0, 7.0, 9.0], COST[1]])
    same = np.array([0.9, 0.9])  # equally accurate: the larger batch
    assert ask(DrainAware(), slack(6, 6, 6), cost=alike, accuracy=same) == (1, 3, 0, NEVER)
    assert ask(DrainAware(max_rows=2), slack(20, 20, 20)) == (0, 2, 0, NEVER)
    assert ask(DrainAware(), slack(1, 20)) == (0, 1, 1, NEVER)
    assert ask(DrainAware(), slack(1)) == (-1, 0, 1, NEVER)
    # Where nothing fits a smaller batch may have the higher throughput: 2 / 3 > 4 / 9.
    odd = np.array([[4.0, 3.0, 8.0, 9.0]])
    late = ask(DrainAware(early_drop=False), slack(1, 1, 1, 1), cost=odd, accuracy=ACCURACY[:1])
    assert late == (0, 2, 0, NEVER)


# -- Clockwork ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left_ms", "waiting", "expected"),
    [
        (20.0, 3, (0, 3, 0)),  # to spare: 16, 14, 12
        (20.0, 9, (0, 4, 0)),
        (7.0, 4, (0, 2, 0)),  # to spare: 3, 1, -1
        (6.0, 4, (0, 2, 0)),  # 0 is in time
        (4.0, 4, (0, 1, 0)),
        (3.9, 4, (-1, 0, 4)),
    ],
)
def test_clockwork_takes_what_has_least_time_to_spare(
    left_ms: float, waiting: int, expected: tuple[int, int, int]
) -> None:
    assert ask(Clockwork(plan=0), slack(*[left_ms] * waiting)) == (*expected, NEVER)


def test_clockwork_drops_cap_and_ties() -> None:
    assert ask(Clockwork(plan=0), slack(3, 7, 20)) == (0, 2, 1, NEVER)
    assert ask(Clockwork(plan=0, max_rows=2), slack(20, 20, 20)) == (0, 2, 0, NEVER)
    flat = np.array([[4.0, 6.0, 6.0, 9.0]])
    assert ask(Clockwork(plan=0), slack(8, 20, 20, 20), cost=flat) == (0, 3, 0, NEVER)


def test_clockwork_believes_the_worst_of_the_last_ten() -> None:
    rival, memo = Clockwork(plan=0), fresh()

    def ran(ratio: float, times: int = 1) -> None:
        for _ in range(times):
            learn(rival.kind, rival.to_array(), 4, ratio, True, 0.0, memo)

    def taken(left_ms: float) -> tuple[int, int]:
        return ask(rival, slack(left_ms, 20, 20, 20), memo=memo)[1:3]

    ran(0.5)
    assert taken(7) == (4, 0)  # 0.5 · 10 = 5
    ran(1.5)
    assert taken(7) == (1, 0)  # 1.5 · 4 = 6, 1.5 · 6 = 9
    assert taken(5.9) == (3, 1)  # the others have 20: 1.5 · 8 = 12 for all three
    ran(1.0, times=9)
    assert taken(7) == (1, 0)  # the 1.5 is the tenth from the end
    ran(1.0)
    assert taken(7) == (2, 0)


# -- Clipper ------------------------------------------------------------------------------------


def test_clipper_adds_and_backs_off() -> None:
    rival, memo = Clipper(plan=1, step=1.5), fresh()

    def after(in_time: bool) -> int:
        learn(rival.kind, rival.to_array(), 4, 1.0, in_time, 0.0, memo)
        return ask(rival, slack(20, 20, 20, 20, 20), memo=memo)[1]

    assert ask(rival, slack(20, 20), memo=memo) == (1, 1, 0, NEVER)  # it begins with one
    assert after(True) == 2  # 2.5
    assert after(False) == 2  # 2.25
    assert after(True) == 3  # 3.75
    assert after(True) == 4  # 5.25, but there are no more than 4 rows
    assert after(False) == 3  # 3.6: from 4, not from 5.25
    assert [after(False) for _ in range(20)][-1] == 1
    assert memo[0] == 1.0


def test_clipper_drops_nothing_and_keeps_to_its_cap() -> None:
    rival, memo = Clipper(plan=0, step=9.0, max_rows=3), fresh()
    assert ask(rival, slack(-50, -40), memo=memo) == (0, 1, 0, NEVER)
    learn(rival.kind, rival.to_array(), 4, 1.0, True, 0.0, memo)
    assert ask(rival, slack(-50, -40), memo=memo) == (0, 2, 0, NEVER)
    assert ask(rival, slack(20, 20, 20, 20), memo=memo) == (0, 3, 0, NEVER)


def test_costs_are_those_of_the_worker_that_asks() -> None:
    # Half as fast: 8, 12, 16, 20 ms. With 13 left two rows fit; 7.9 is too late.
    assert ask(Clockwork(plan=0), slack(7.9, 13, 20, 20), pace=2.0) == (0, 2, 1, NEVER)
