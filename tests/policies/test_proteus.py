"""Proteus by hand: when a batch starts, on which worker's plan, the demand, and when plans change.

Costs and SLO: `tests.policies.asking`; plan 0 takes 4, 6, 8, 10 ms for 1 to 4 rows, plan 1 half of
that, the SLO is 20 ms.
"""

from __future__ import annotations

import numpy as np
import pytest

from policies._proteus import PLANS, demand_per_ms, due, largest_batch
from policies.rivals import Proteus
from tests.policies.asking import COST, NEVER, ask, fresh

PROTEUS = Proteus(plan=0)

# -- when ------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("slo_ms", "pace", "rows"),
    [(20.0, 1.0, 4), (19.9, 1.0, 3), (20.0, 1.25, 3), (8.0, 1.0, 1), (7.9, 1.0, 0)],
)
def test_a_batch_takes_at_most_half_of_the_slo(slo_ms: float, pace: float, rows: int) -> None:
    assert largest_batch(COST[0], pace, slo_ms) == rows


def test_what_does_not_fit_half_of_the_slo_runs_alone() -> None:
    slow = 3.0 * COST  # 12 ms alone
    assert ask(PROTEUS, [100.0, 100.0], cost=slow) == (0, 1, 0, NEVER)


# -- with what ------------------------------------------------------------------------------------


def test_every_worker_batches_with_its_own_plan() -> None:
    memo = fresh()
    memo[PLANS : PLANS + 2] = 0, 1
    assert ask(Proteus(), [100.0], memo=memo, worker=0) == (-1, 0, 0, 116.0)  # 120 - 4
    assert ask(Proteus(), [100.0], memo=memo, worker=1) == (-1, 0, 0, 118.0)  # 120 - 2
    assert ask(Proteus(), [100.0] * 4, memo=memo, worker=1) == (1, 4, 0, NEVER)
    assert ask(PROTEUS, [100.0] * 4, memo=memo, worker=1) == (0, 4, 0, NEVER)  # a plan for all


# -- how much -------------------------------------------------------------------------------------


def test_demand_is_the_mean_until_the_first_window_is_over() -> None:
    memo = fresh()
    assert demand_per_ms(0.0, 1.0, 10e3, memo) == 0.0
    assert demand_per_ms(500.0, 100.0, 10e3, memo) == pytest.approx(0.2)
    assert demand_per_ms(1000.0, 300.0, 10e3, memo) == pytest.approx(0.3)
    assert demand_per_ms(1900.0, 9000.0, 10e3, memo) == pytest.approx(0.3)


def test_demand_is_an_average_that_forgets() -> None:
    memo, kept = fresh(), 1.6 / 2.6
    demand_per_ms(1000.0, 300.0, 10e3, memo)
    # A window of 1,000: (0.3 · 0.615 + 1) / (0.615 + 1).
    expected = (0.3 * kept + 1.0) / (kept + 1.0)
    assert demand_per_ms(2000.0, 1300.0, 10e3, memo) == pytest.approx(expected)
    # Three seconds without a look count as one window of three; the past fades three times.
    expected = 1000.0 * (0.3 * kept + 1.0) * kept**3 / (1000.0 * (kept + 1.0) * kept**3 + 3000.0)
    assert demand_per_ms(5000.0, 1300.0, 10e3, memo) == pytest.approx(expected)


def times_due(steps: list[tuple[float, int]], every_ms: float) -> list[float]:
    """When plans are given anew, of looks at (now_ms, workers)."""
    memo = np.zeros(PLANS)
    return [now_ms for now_ms, workers in steps if due(now_ms, workers, every_ms, memo)]


def test_plans_are_given_anew_every_ten_seconds_and_at_first_as_the_time_doubles() -> None:
    looks = [(100.0 * k, 2) for k in range(1, 250)]
    early = [100.0, 200.0, 400.0, 800.0, 1600.0]
    assert times_due(looks, 10e3) == [*early, 11_600.0, 21_600.0]
    assert times_due(looks[:30], 1e3) == [100.0, 1100.0, 2100.0]


def test_plans_are_given_anew_when_the_number_of_workers_changes() -> None:
    assert times_due([(5e3, 2), (6e3, 2), (7e3, 3), (8e3, 3), (9e3, 2)], 10e3) == [5e3, 7e3, 9e3]
