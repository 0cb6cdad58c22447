"""Sets of tiers: worth what they are worth together, within a budget of questions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from policies.strategic import choose_tiers


def coverage(tiers: frozenset[int]) -> float:
    """Two good tiers that do the same are worth no more than one of them."""
    covers = {1: {1, 2, 3, 4}, 2: {2, 3, 4, 5}, 3: {6, 7}, 4: {1}}
    return float(len(set().union(*(covers[tier] for tier in tiers))))


def test_the_set_counts_and_not_its_best_members() -> None:
    found = choose_tiers([1, 2, 3, 4], 2, coverage)
    assert found.tiers == (1, 3)
    assert found.utility == 6.0
    assert "2 added" in found.reason


def test_exchange_repairs_what_greedy_began_with() -> None:
    worth = {frozenset("a"): 3.0, frozenset("ab"): 4.0, frozenset("ac"): 4.5,
             frozenset("bc"): 9.0}  # fmt: skip
    found = choose_tiers("abc", 2, lambda tiers: worth.get(tiers, float(len(tiers))))
    assert found.tiers == ("b", "c")
    assert "1 exchanged" in found.reason


@pytest.mark.parametrize("seed", range(5))
def test_it_comes_near_the_best_set(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gain, clash = rng.random(8), rng.random((8, 8)) * 0.5

    def utility(tiers: frozenset[int]) -> float:
        pairs = itertools.combinations(sorted(tiers), 2)
        return float(sum(gain[i] for i in tiers) - sum(clash[i, j] for i, j in pairs))

    best = max(utility(frozenset(s)) for k in range(4) for s in itertools.combinations(range(8), k))
    found = choose_tiers(range(8), 3, utility)
    assert found.utility == utility(frozenset(found.tiers))
    assert found.utility >= 0.9 * best


def test_held_tiers_stay_and_nothing_useless_is_added() -> None:
    found = choose_tiers([1, 2, 3, 4], 3, coverage, held=[4])
    assert 4 in found.tiers
    assert len(choose_tiers([1, 4], 2, coverage).tiers) == 1
    assert choose_tiers([], 2, lambda tiers: 0.0).tiers == ()


def test_each_set_is_asked_for_once_and_no_more_than_the_budget() -> None:
    asked: list[frozenset[int]] = []

    def utility(tiers: frozenset[int]) -> float:
        asked.append(tiers)
        return coverage(tiers)

    choose_tiers([1, 2, 3, 4], 3, utility)
    assert len(set(asked)) == len(asked)
    asked.clear()
    found = choose_tiers([1, 2, 3, 4], 3, utility, budget=4)
    assert len(asked) == found.asked == 4
    assert found.tiers == (1,)
    assert "the budget" in found.reason


def test_a_utility_that_is_no_number_is_the_least() -> None:
    found = choose_tiers([1, 2], 1, lambda tiers: math.nan if 1 in tiers else float(len(tiers)))
    assert found.tiers == (2,)


@pytest.mark.parametrize(
    ("k", "held", "budget", "told"),
    [(0, [], 9, "k must be"), (1, [1, 2], 9, "the 2 tiers held, got 1"), (1, [], 0, "budget")],
)
def test_impossible_requests_are_refused(k: int, held: list[int], budget: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        choose_tiers([1, 2], k, coverage, held=held, budget=budget)
