"""Dominated plans are let go; of equals one stays; quality tiers are not compared upwards."""

from __future__ import annotations

import numpy as np

from evolve.control_plane.residency import worth_keeping

ORIGINAL = np.full((2, 2), 10.0)


def keep(
    *plans: np.ndarray, tiers: list[int] | None = None, slo_ms: float = 100.0, limit: int = 16
) -> tuple[int, ...]:
    cost = np.stack([ORIGINAL, *plans])
    return worth_keeping(cost, tiers or [0] * len(cost), slo_ms=slo_ms, limit=limit)


def keep_of(*plans: np.ndarray) -> tuple[int, ...]:
    cost = np.stack([np.full_like(plans[0], 10.0), *plans])
    return worth_keeping(cost, [0] * len(cost), slo_ms=100.0, limit=16)


def test_a_plan_that_wins_somewhere_is_kept() -> None:
    left = np.array([[4.0, 8.0], [4.0, 8.0]])
    right = np.array([[8.0, 4.0], [8.0, 4.0]])
    assert keep(left, right) == (0, 1, 2)


def test_a_plan_that_wins_nowhere_goes() -> None:
    assert keep(ORIGINAL / 2, ORIGINAL / 1.5) == (0, 1)
    assert keep(ORIGINAL * 2) == (0,)


def test_a_plan_that_is_hardly_better_is_not_worth_its_memory() -> None:
    good = np.full((4, 8), 5.0)
    hardly, notably = good.copy(), good.copy()
    hardly[0, :4] = 4.6  # 8 % at an eighth of the shapes: 1 % of the time
    notably[0, 0] = 4.4  # 12 % at one, which may be the shape of every request
    hardly[3], notably[3] = 6.0, 6.0
    assert keep_of(good, hardly) == (0, 1)
    assert keep_of(good, notably) == (0, 1, 2)
    everywhere = good * 0.95
    everywhere[3, 7] = 6.0  # where the other saves a sixth
    assert keep_of(good, everywhere) == (0, 1, 2)


def test_of_plans_that_can_stand_for_each_other_the_best_stays() -> None:
    """Built first, second, third: each is within 10 % of the next, the last one the fastest."""
    first, second = np.full((4, 8), 5.2), np.full((4, 8), 5.2)
    first[0], second[1] = 4.9, 4.9
    assert keep_of(first, second, np.full((4, 8), 4.85)) == (0, 3)


def test_of_two_equals_the_first_built_stays() -> None:
    assert keep(ORIGINAL / 2, ORIGINAL / 2) == (0, 1)


def test_a_slower_plan_of_a_better_tier_is_kept() -> None:
    """tier 2 is faster than tier 1, but answers less exactly."""
    assert keep(ORIGINAL / 2, ORIGINAL / 4, tiers=[0, 1, 2]) == (0, 1, 2)
    assert keep(ORIGINAL / 4, ORIGINAL / 2, tiers=[0, 1, 2]) == (0, 1)


def test_shapes_beyond_the_slo_are_no_reason_to_stay() -> None:
    wins_only_late = np.array([[20.0, 1000.0], [20.0, 1000.0]])
    slow = np.array([[5.0, 2000.0], [5.0, 2000.0]])
    assert keep(slow, wins_only_late, slo_ms=50.0) == (0, 1)


def test_the_limit_lets_the_least_useful_go() -> None:
    much = np.array([[1.0, 10.0], [10.0, 10.0]])
    little = np.array([[10.0, 10.0], [10.0, 8.0]])
    assert keep(little, much, limit=1) == (0, 2)


def test_unknown_costs_are_never_worth_keeping() -> None:
    assert keep(np.full((2, 2), np.inf)) == (0,)
