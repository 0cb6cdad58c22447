"""The workers of one simulated service, compiled: who is next, what a batch really costs there.

Part of the engine (`sims.engine.advance`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies._jit import jit
from sims.engine.scene import Crew
from sims.engine.state import BY_SPEED, BY_USE

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@jit
def next_worker(now_ms: float, active: int, crew: Crew) -> int:
    """The free worker to serve next, or -1."""
    units, workers, by = crew.units, crew.workers, crew.placement
    best, least = -1, np.inf
    for w in range(active):
        free = units[w].free_ms
        if free > now_ms or workers[w].lost_from_ms <= now_ms < workers[w].lost_until_ms:
            continue
        key = free
        if by == BY_SPEED:
            key = -workers[w].ability
        elif by == BY_USE:
            key = units[w].busy_ms
        if key < least:
            best, least = w, key
    return best


@jit
def soonest(now_ms: float, active: int, crew: Crew) -> float:
    """When the first worker will be free."""
    units, workers = crew.units, crew.workers
    soonest = np.inf
    for w in range(active):
        free = max(now_ms, units[w].free_ms)
        if workers[w].lost_from_ms <= free < workers[w].lost_until_ms:
            free = workers[w].lost_until_ms
        soonest = min(soonest, free)
    return soonest


@jit
def learn_cost(service: Any, unit: Any) -> None:
    """Learn from the batch that a worker ran last, once it is over."""
    if unit.ratio > 0.0:
        unit.correction += service.learning * (unit.ratio - unit.correction)
        unit.ratio = 0.0


@jit
def charge(env: Any, service: Any, unit: Any, used_ms: Floats, plan: int) -> float:
    """What it costs a worker to run `plan` next: nothing, a switch, or loading it anew."""
    before = unit.running
    cold = used_ms[plan] == -np.inf
    used_ms[plan] = env.now_ms
    if before == plan:
        return 0.0
    unit.running = plan
    if before >= 0:
        env.switches += 1
    if cold:
        warm, oldest = 0, -1
        for p in range(used_ms.shape[0]):
            if used_ms[p] > -np.inf:
                warm += 1
                if p != plan and (oldest < 0 or used_ms[p] < used_ms[oldest]):
                    oldest = p
        if warm > service.resident:
            used_ms[oldest] = -np.inf
            env.loads += 1
            return float(service.load_ms)
    return float(service.switch_ms) if before >= 0 else 0.0


@jit
def disturbance(env: Any, service: Any, factor: Floats, drift: Floats) -> float:
    """What multiplies the cost of the batch that starts now, unknown to any table."""
    hidden = factor[env.batches % factor.shape[0]]
    knots = drift.shape[0]
    if knots > 1:
        at = env.now_ms / service.drift_every_ms
        k = int(at)
        hidden *= drift[k % knots] * (1.0 - (at - k)) + drift[(k + 1) % knots] * (at - k)
    return float(hidden)
