"""The allocation of plans to workers: by hand, and against every allocation there is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from policies._allocator import allocate

Floats = NDArray[np.float64]

TWO = np.array([[0.4, 0.8], [0.4, 0.8]])
"""Rows per ms of two equal workers; the second plan is the quicker one."""
ACCURACY = np.array([0.9, 0.8])


@pytest.mark.parametrize(
    ("demand", "plans"),
    [
        (0.0, [0, 0]),
        (0.3, [0, 0]),
        (0.8, [0, 0]),
        (0.81, [0, 1]),
        (1.0, [0, 1]),  # 0.4 · 0.9 + 0.6 · 0.8, above 1.0 · 0.8
        (1.2, [0, 1]),
        (1.3, [1, 1]),
        (1.6, [1, 1]),
        (9.0, [1, 1]),  # more than can be served
    ],
)
def test_as_many_accurate_workers_as_the_demand_allows(demand: float, plans: list[int]) -> None:
    assert sorted(allocate(TWO, ACCURACY, demand).tolist()) == plans


def test_the_quicker_of_uneven_workers_is_the_accurate_one_where_that_is_better() -> None:
    carries = np.array([[0.4, 0.8], [0.8, 1.6]])
    # (0, 1): 0.4 · 0.9 + 1.1 · 0.8 = 1.24; (1, 0): 0.8 · 0.9 + 0.7 · 0.8 = 1.28.
    assert allocate(carries, ACCURACY, 1.5).tolist() == [1, 0]
    assert allocate(carries, ACCURACY, 1.9).tolist() == [0, 1]  # (1, 0) carries only 1.6


def test_two_plans_apart_may_be_better_than_the_one_between() -> None:
    carries, accuracy = np.array([[0.4, 0.6, 1.2]] * 2), np.array([0.9, 0.8, 0.78])
    assert sorted(allocate(carries, accuracy, 1.1).tolist()) == [0, 2]  # not [1, 1]


def test_a_worker_gets_no_plan_it_cannot_run_in_time() -> None:
    carries = np.array([[0.0, 0.8], [0.4, 0.8]])
    for demand in (0.0, 0.1, 0.9, 1.5, 5.0):
        assert allocate(carries, ACCURACY, demand)[0] == 1


def test_of_plans_that_are_as_quick_the_more_accurate_one_serves_an_overload() -> None:
    assert allocate(np.array([[0.8, 0.8]]), np.array([0.7, 0.9]), 2.0).tolist() == [1]


def worth(carries: Floats, accuracy: Floats, plans: tuple[int, ...], demand: float) -> float:
    """Accuracy × rows per ms, the most accurate first; -1 where the demand is not met."""
    total = 0.0
    for w in sorted(range(len(plans)), key=lambda w: -accuracy[plans[w]]):
        served = min(demand, carries[w, plans[w]])
        total += served * accuracy[plans[w]]
        demand -= served
    return -1.0 if demand > 1e-12 else total


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("alike", [True, False])
def test_no_other_allocation_is_better(workers: int, alike: bool) -> None:
    rng = np.random.default_rng(workers)
    for _ in range(40):
        accuracy = rng.uniform(0.5, 1.0, 4)
        carries = np.sort(rng.uniform(0.2, 2.0, (workers, 4)), axis=1)[:, np.argsort(-accuracy)]
        carries[:] = carries[0] if alike else carries
        demand = rng.uniform(0.05, 1.0) * carries.max(axis=1).sum()
        told = tuple(allocate(carries, accuracy, demand).tolist())
        every = product(range(4), repeat=workers)
        best = max(worth(carries, accuracy, plans, demand) for plans in every)
        assert worth(carries, accuracy, told, demand) >= best - 1e-4 * demand


def test_a_large_uneven_fleet_is_close_to_what_fractions_of_workers_could_do() -> None:
    rng = np.random.default_rng(0)
    accuracy, one = np.array([0.8, 0.78, 0.74]), np.array([0.5, 1.0, 2.2])
    carries = one * rng.uniform(0.7, 1.4, (40, 1))
    for share in (0.3, 0.5, 0.7, 0.9):
        demand = share * carries[:, 2].sum()
        told = worth(carries, accuracy, tuple(allocate(carries, accuracy, demand)), demand)
        prices = np.linspace(0.5, 0.8, 3001)  # each is a bound (Lagrange)
        gains = np.maximum(0.0, accuracy - prices[:, None, None]) * carries
        bound = (prices * demand + gains.max(axis=2).sum(axis=1)).min()
        assert bound - 0.002 * demand <= told <= bound + 1e-9
