"""Proteus (Ahmad et al., ASPLOS 2024): its batches, its demand, and when plans are given anew.

What the paper leaves open is as in the authors' program (UMass-LIDS/Proteus): batches no larger
than half the SLO allows, demand a moving average with weights 1 / 2.6 (`ewma_decay` 1.6) over
windows of a second, plans for ten. All compiled; times in ms.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies._jit import jit

Floats = NDArray[np.float64]

PLANS = 16
"""A discipline's memory holds behind this place the plan of each worker under Proteus."""
_SUM, _WEIGHT, _COUNTED, _COUNTED_AT, _SOLVED_AT, _SOLVED_FOR = range(6)
"""Before it: sums of the moving average, requests counted and when, when and for how many workers
plans were given last (0: never)."""
_KEPT = 1.0 - 1.0 / 2.6
_WINDOWS = 10.0
"""Windows between two allocations."""


@jit
def largest_batch(cost: Floats, pace: float, slo_ms: float) -> int:
    """The most rows within half the SLO; 0: not even one. `cost` [R] ms."""
    for b in range(cost.shape[0], 0, -1):
        if cost[b - 1] * pace <= 0.5 * slo_ms:
            return b
    return 0


@jit
def demand_per_ms(now_ms: float, arrived: float, every_ms: float, memo: Floats) -> float:
    """Bring the average up to date with how many have `arrived` so far, and tell it.

    A window ends with the first look after its end; before the first one, the mean so far.
    """
    window_ms = every_ms / _WINDOWS
    passed = now_ms - memo[_COUNTED_AT]
    if passed >= window_ms:
        kept = _KEPT ** (passed / window_ms)
        memo[_SUM] = memo[_SUM] * kept + arrived - memo[_COUNTED]
        memo[_WEIGHT] = memo[_WEIGHT] * kept + passed
        memo[_COUNTED], memo[_COUNTED_AT] = arrived, now_ms
    if memo[_WEIGHT] > 0.0:
        return float(memo[_SUM] / memo[_WEIGHT])
    return arrived / now_ms if now_ms > 0.0 else 0.0


@jit
def due(now_ms: float, workers: int, every_ms: float, memo: Floats) -> bool:
    """Whether plans are to be given anew: every `every_ms`, and when there are more or fewer
    workers. For want of a starting allocation, which the authors read from a file, also whenever
    the time has doubled until the first window is over. True is said once."""
    solved_at = memo[_SOLVED_AT]
    first = solved_at < every_ms / _WINDOWS
    again_at = 2.0 * solved_at if first else solved_at + every_ms
    if memo[_SOLVED_FOR] == workers and now_ms < again_at:
        return False
    memo[_SOLVED_AT], memo[_SOLVED_FOR] = now_ms, workers
    return True


@jit
def proteus(
    now_ms: float, arrived_ms: Floats, slo_ms: float, cost: Floats, plan: int, cap: int,
    caution: float,
) -> tuple[int, int, int, float]:  # fmt: skip
    """A batch of all q that wait starts at the last moment at which its head can make it, or as
    soon as it is full. The head is dropped while it is too late for that, unless it is a newcomer
    that made it so: then the q - 1 before it run. `cost` [P, R] ms; `cap`: rows at most, within
    half the SLO; `caution`: how many times a cost counts against a deadline, 1 as published.
    """
    cap = max(1, min(cap, largest_batch(cost[plan], 1.0, slo_ms)))
    n = arrived_ms.shape[0]
    for lost in range(n):
        q = min(n - lost, cap)
        deadline = arrived_ms[lost] + slo_ms
        start_by = deadline - caution * cost[plan, q - 1]
        if now_ms <= start_by:
            if q < cap and now_ms < start_by:
                return -1, 0, lost, start_by
            return plan, q, lost, np.inf
        newcomer = n - lost <= cap and arrived_ms[n - 1] >= now_ms
        if newcomer and q > 1 and now_ms <= deadline - caution * cost[plan, q - 2]:
            return plan, q - 1, lost, np.inf
    return -1, 0, n, np.inf
