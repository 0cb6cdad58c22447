"""Which plan carries the demand: the allocator of Proteus (Ahmad et al., ASPLOS 2024), compiled.

There a mixed-integer program spreads plans over the workers every 10 s; here one plan serves on
all of them, so that its program is a comparison of throughputs. The demand is an average over
about 20 s; it is asked again after the first second, when there is a demand to speak of.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies._jit import jit

Floats = NDArray[np.float64]

DEMAND_MS, ANEW_MS, FIRST_MS = 20e3, 10e3, 1e3
"""Memory of the demand, time between two choices, and before the second one."""

_DEMAND, _DEMAND_AT, _CHOSEN, _CHOSEN_AT = range(4)


@jit
def allocate(
    now_ms: float, workers: float, rate_per_ms: float, per_row: Floats, accuracy: Floats,
    headroom: float, memo: Floats,
) -> int:  # fmt: skip
    """The most accurate plan whose throughput in full batches reaches `headroom` times the demand;
    where none does, the quickest. `per_row` [P]: ms per row of a full batch, inf where unknown.
    `memo` [4]: zeros at first, at time 0.
    """
    fade = np.exp((memo[_DEMAND_AT] - now_ms) / DEMAND_MS)
    memo[_DEMAND] = memo[_DEMAND] * fade + rate_per_ms * (1.0 - fade)
    memo[_DEMAND_AT] = now_ms
    since = memo[_CHOSEN_AT]
    if since > 0.0 and now_ms - since < ANEW_MS and not since < FIRST_MS <= now_ms:
        return int(memo[_CHOSEN])
    # An average that started from nothing counts for as much as it has seen.
    known = 1.0 - np.exp(-now_ms / DEMAND_MS)
    demand = memo[_DEMAND] / known if known > 0.0 else rate_per_ms
    plan, fits = 0, False
    for p in range(per_row.shape[0]):
        carries = workers / per_row[p] >= headroom * demand
        better = carries and (not fits or accuracy[p] > accuracy[plan])
        faster = not fits and not carries and per_row[p] < per_row[plan]
        if better or faster:
            plan, fits = p, carries
    memo[_CHOSEN], memo[_CHOSEN_AT] = plan, max(now_ms, 1e-9)
    return plan
