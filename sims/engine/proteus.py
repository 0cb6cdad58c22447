"""Proteus over the workers of one simulated service: who runs which plan, and who is asked.

Part of the engine (`advance`). There a router sends every request to a worker's own queue, the
more accurate ones as many as they can carry. Here one queue serves all: of the free workers the
most accurate one is asked that need not drop anything, so that nothing is lost to a router's luck.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies._allocator import allocate
from policies._asking import Asker, Line
from policies._jit import jit
from policies._proteus import PLANS, demand_per_ms, due, largest_batch
from policies.disciplines import CAP_, FIRST_, PLAN_, PROTEUS, THIRD_, dispatch
from sims.engine.scene import Costs, Crew

Floats = NDArray[np.float64]


@jit
def gives_way(
    w: int, env: Any, slo_ms: float, crew: Crew, costs: Costs, queue_ms: Floats, params: Floats,
    memo: Floats,
) -> bool:  # fmt: skip
    """Whether not `w` but another free worker is to be asked, which is then the longest free.

    Plans are given anew when it is time. The queue is not empty, and there is one padded length.
    """
    if params[PLAN_] >= 0:
        return False
    units, workers = crew.units, crew.workers
    believed, accuracy = costs.believed, costs.accuracy
    line = Line(queue_ms, env.head, env.tail, slo_ms)
    arrived = env.answered + env.refused + (env.tail - env.head)
    demand = params[FIRST_] * demand_per_ms(env.now_ms, arrived, params[THIRD_], memo)
    if due(env.now_ms, env.active, params[THIRD_], memo):
        carries = np.zeros((env.active, accuracy.shape[0]))
        for v in range(env.active):
            cost, pace = believed[workers[v].kind], workers[v].slower * units[v].correction
            for p in range(accuracy.shape[0]):
                b = min(int(params[CAP_]), largest_batch(cost[p, :, 0], pace, slo_ms))
                if b > 0:
                    carries[v, p] = b / (cost[p, b - 1, 0] * pace)
        memo[PLANS : PLANS + env.active] = allocate(carries, accuracy, demand)
    best, fewest = w, np.inf
    for v in range(env.active):
        lost_from, lost_until = workers[v].lost_from_ms, workers[v].lost_until_ms
        if units[v].free_ms > env.now_ms or lost_from <= env.now_ms < lost_until:
            continue
        lost = dispatch(
            PROTEUS, env.now_ms, line, Asker(v, 1.0, workers[v].slower * units[v].correction, 0.0),
            believed[workers[v].kind, :, :, 0], accuracy, params, memo,
        )[2]  # fmt: skip
        better = accuracy[int(memo[PLANS + v])] > accuracy[int(memo[PLANS + best])]
        if lost < fewest or (lost == fewest and better):
            best, fewest = v, lost
    if best == w:
        return False
    for v in range(env.active):
        units[v].free_ms = max(0.0, units[v].free_ms)
    units[best].free_ms = -1.0
    return True
