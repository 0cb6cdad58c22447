"""Costs of shapes: the cost table read once per table and setting.

Part of the compiled rule (`policies.compiled`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies._jit import jit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

EFFICIENT_SHARE = 0.9
"""A batch is efficient from this share of its bucket's best rows/ms on: 0.7 and 0.95 answered 3 %
and 0.5 % fewer requests in time under overload (decision 0005)."""


@jit
def ranks(tier: Ints, allowed: Flags, only: int, rank: Ints) -> int:
    """Fill rank[p] = 0 (most accurate) .. tiers-1, or -1 where p may not run; return tiers.

    `only`: bits of the plans to use, 0 for any; where none of them is allowed, any that is.
    """
    plans = tier.shape[0]
    usable = np.zeros(plans, np.bool_)
    some = False
    for p in range(plans):
        usable[p] = allowed[p] and (only >> p) & 1 == 1
        some = some or usable[p]
    if not some:
        usable[:] = allowed
    tiers = 0
    rank[:] = -1
    while True:
        lowest = -1
        for p in range(plans):
            if usable[p] and rank[p] < 0 and (lowest < 0 or tier[p] < tier[lowest]):
                lowest = p
        if lowest < 0:
            return tiers
        for p in range(plans):
            if usable[p] and tier[p] == tier[lowest]:
                rank[p] = tiers
        tiers += 1


@jit
def tables(cost_ms: Floats, rank: Ints, tiers: int, cap: int) -> tuple[Floats, Ints, Floats, Ints]:
    """Per tier and over all of them (last index): fastest cost and plan at each shape, the work
    per row of each bucket, and its efficient number of rows."""
    plans, max_rows, buckets = cost_ms.shape
    fastest = np.full((tiers + 1, max_rows, buckets), np.inf)
    plan = np.full((tiers + 1, max_rows, buckets), -1, np.int64)
    ms_per_row = np.full((tiers + 1, buckets), np.inf)
    efficient_rows = np.ones((tiers + 1, buckets), np.int64)
    for c in range(buckets):
        for p in range(plans):
            if rank[p] < 0:
                continue
            for r in range(max_rows):
                ms = cost_ms[p, r, c]
                if ms < fastest[rank[p], r, c]:  # false for NaN and inf
                    fastest[rank[p], r, c] = ms
                    plan[rank[p], r, c] = p
                if ms < fastest[tiers, r, c]:
                    fastest[tiers, r, c] = ms
                    plan[tiers, r, c] = p
        for t in range(tiers + 1):
            for r in range(cap):
                ms_per_row[t, c] = min(ms_per_row[t, c], fastest[t, r, c] / (r + 1))
            while (
                efficient_rows[t, c] < cap
                and ms_per_row[t, c]
                < EFFICIENT_SHARE * fastest[t, efficient_rows[t, c] - 1, c] / efficient_rows[t, c]
            ):
                efficient_rows[t, c] += 1
    return fastest, plan, ms_per_row, efficient_rows


@jit
def mates(bucket: Ints, rows: Ints, lengths: Floats, spread: float, within: Ints) -> None:
    """within[c]: rows queued whose padded length is within `spread` below or at bucket c."""
    buckets = lengths.shape[0]
    count = np.zeros(buckets, np.int64)
    for i in range(bucket.shape[0]):
        count[bucket[i]] += rows[i]
    low = 0
    running = 0
    for c in range(buckets):
        running += count[c]
        while lengths[c] > spread * lengths[low]:
            running -= count[low]
            low += 1
        within[c] = running
