"""Allocation of plans to workers: that of Proteus (Ahmad et al., ASPLOS 2024), compiled.

There a mixed-integer program chooses a variant for every worker and the share of the demand it
gets, so that effective accuracy, Σ accuracy · served, is greatest while all of the demand is
served; where that cannot be, the demand is lowered until it can. This solves the same program
exactly, by branch and bound: with plans given, the best shares are known (the most accurate first),
and a price per row served (Lagrange's) bounds what the workers not yet decided may add.

>>> carries = np.array([[1.0, 4.0], [1.0, 4.0]])  # rows per ms, two workers, two plans
>>> allocate(carries, np.array([0.9, 0.7]), 3.0).tolist()  # one of each: 1 · 0.9 + 2 · 0.7
[0, 1]
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies._jit import jit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_GAP = 1e-4
"""Allocations closer than this in effective accuracy are the same."""
_NODES = 100_000
"""Partial allocations looked at, some 5 ms; then the best so far. (The authors' own program stops
within half of the best value, `MIPGap`.)"""
_HALVINGS = 40


@jit
def allocate(carries: Floats, accuracy: Floats, demand: float) -> Ints:
    """The plan of each worker, int64 [W].

    `carries` [W, P]: rows per ms of a worker with a plan, 0 where it cannot run it in time.
    `demand`: rows per ms to be served, headroom included; of more than all can carry, as much as
    can be. Ties go to the more accurate plans.
    """
    workers, plans = carries.shape
    most = np.zeros(workers + 1)  # that workers w.. carry
    quickest = np.zeros(workers, np.int64)
    for w in range(workers - 1, -1, -1):
        for p in range(plans):
            q = quickest[w]
            same = carries[w, p] == carries[w, q]
            if carries[w, p] > carries[w, q] or (same and accuracy[p] > accuracy[q]):
                quickest[w] = p
        most[w] = most[w + 1] + carries[w, quickest[w]]
    if most[0] <= demand:
        return quickest
    price = _price(carries, accuracy, demand)
    gain, order = np.zeros((workers, plans)), np.zeros((workers, plans), np.int64)
    gains = np.zeros(workers + 1)  # that workers w.. add at most
    best_first = np.argsort(-accuracy, kind="mergesort")
    for w in range(workers - 1, -1, -1):
        for p in range(plans):
            gain[w, p] = max(0.0, accuracy[p] - price) * carries[w, p]
        order[w] = best_first[np.argsort(-gain[w][best_first], kind="mergesort")]
        gains[w] = gains[w + 1] + gain[w, order[w, 0]]
    carried, gained = np.zeros(workers + 1), np.zeros(workers + 1)  # by workers ..w - 1
    place, plan = np.full(workers, -1), np.zeros(workers, np.int64)
    found = _rounded(carries, accuracy, price, demand)
    value, w, nodes = _served(carries, accuracy, best_first, found, demand), 0, 0
    while w >= 0 and nodes < _NODES:
        nodes += 1
        place[w] += 1
        p = order[w, min(place[w], plans - 1)]
        carried[w + 1] = carried[w] + carries[w, p]
        gained[w + 1] = gained[w] + gain[w, p]
        bound = price * demand + gained[w + 1] + gains[w + 1]
        if place[w] == plans or bound <= value + _GAP * demand:
            w -= 1  # nor do the plans behind it in `order` add more
            continue
        if carried[w + 1] + most[w + 1] < demand or carries[w, p] == 0.0 < most[w] - most[w + 1]:
            continue
        plan[w] = p
        if w < workers - 1:
            alike = np.all(carries[w + 1] == carries[w])  # of equals, one order will do
            place[w + 1] = place[w] - 1 if alike else -1
            w += 1
            continue
        reached = _served(carries, accuracy, best_first, plan, demand)
        if reached > value + _GAP * demand:
            value, found = reached, plan.copy()
    return found


@jit
def _price(carries: Floats, accuracy: Floats, demand: float) -> float:
    """Where the bound `price · demand + Σ_w max_p (accuracy - price)⁺ · carries` is least."""
    high = np.max(accuracy)
    low, step = high - 1.0, 1.0
    for _ in range(60):
        if _carried(carries, _gainful(carries, accuracy, low)) >= demand:
            break
        step *= 2.0
        low -= step
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if _carried(carries, _gainful(carries, accuracy, middle)) >= demand:
            low = middle
        else:
            high = middle
    return float(low)


@jit
def _gainful(carries: Floats, accuracy: Floats, price: float) -> Ints:
    """What gains most at this price, worker by worker; where nothing gains, the most accurate."""
    plan = np.zeros(carries.shape[0], np.int64)
    for w in range(carries.shape[0]):
        most, best = -1.0, -np.inf
        for p in range(carries.shape[1]):
            gain = max(0.0, (accuracy[p] - price) * carries[w, p])
            if carries[w, p] > 0.0 and (gain > most or (gain == most and accuracy[p] > best)):
                most, best, plan[w] = gain, accuracy[p], p
    return plan


@jit
def _carried(carries: Floats, plan: Ints) -> float:
    total = 0.0
    for w in range(plan.shape[0]):
        total += carries[w, plan[w]]
    return total


@jit
def _rounded(carries: Floats, accuracy: Floats, price: float, demand: float) -> Ints:
    """A good allocation to begin with: just below the price at which demand is not met, as many as
    may do what gains most just above it."""
    plan = _gainful(carries, accuracy, price)
    above = _gainful(carries, accuracy, price + 1e-6)
    total = _carried(carries, plan)
    for w in range(plan.shape[0]):
        changed = total + carries[w, above[w]] - carries[w, plan[w]]
        if changed >= demand:
            plan[w], total = above[w], changed
    return plan


@jit
def _served(
    carries: Floats, accuracy: Floats, best_first: Ints, plan: Ints, demand: float
) -> float:
    """Effective accuracy × rows per ms, the most accurate workers as busy as can be."""
    value = 0.0
    for p in best_first:
        carried = 0.0
        for w in range(plan.shape[0]):
            if plan[w] == p:
                carried += carries[w, p]
        served = min(demand, carried)
        value += accuracy[p] * served
        demand -= served
    return value
