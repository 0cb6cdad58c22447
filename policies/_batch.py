"""Requests that run together: the most efficient batch around the head.

Part of the compiled rule (`policies.compiled`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies._jit import jit
from policies._ordered import Ordered
from policies._triage import DROPPED

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@jit
def walk(bucket: Ints, state: Ints, buckets: int, by_arrival: bool, walk: Ints) -> int:
    """Who may fill a batch, in order: kept before deferred, longer before shorter, then urgency.

    In order of arrival (no grouping) length plays no part. Returns how many there are.
    """
    n = bucket.shape[0]
    start = np.zeros(2 * buckets + 1, np.int64)
    for i in range(n):
        if state[i] != DROPPED:
            bin_ = state[i] * buckets + (0 if by_arrival else buckets - 1 - bucket[i])
            start[bin_ + 1] += 1
    for b in range(2 * buckets):
        start[b + 1] += start[b]
    total = int(start[2 * buckets])
    for i in range(n):
        if state[i] != DROPPED:
            bin_ = state[i] * buckets + (0 if by_arrival else buckets - 1 - bucket[i])
            walk[start[bin_]] = i
            start[bin_] += 1
    return total


class Terms(NamedTuple):
    """What a batch may be: `greedy` takes all that may join, up to `cap` rows; where `grouped`,
    padded lengths [L] lie within `spread` of one another; a batch costs at most `margin` of the
    slack of its tightest member."""

    greedy: bool
    grouped: bool
    spread: float
    margin: float
    cap: int
    lengths: Floats


@jit
def _fill(
    head: int, narrowest: int, widest: int, walk: Ints, queue: Ordered, fastest: Floats,
    terms: Terms, members: Ints,
) -> tuple[int, int, int, float]:  # fmt: skip
    """Fill `members` around `head` from `walk`, its buckets narrowest..widest (-1: any).

    Returns (members, rows, bucket, efficiency) of the best: all when greedy, else the prefix of the
    highest efficiency.
    """
    bucket, rows, group, work = queue.bucket, queue.rows, queue.group, queue.work
    slack, own, lengths = queue.slack, queue.own, terms.lengths
    greedy, spread, margin, cap = terms.greedy, terms.spread, terms.margin, terms.cap
    members[0] = head
    count = 1
    total = rows[head]
    low = bucket[head]
    high = max(bucket[head], widest)
    tightest = slack[head] if slack[head] >= own[head] else np.inf
    done = work[head]
    ms = fastest[total - 1, high]
    best = (1, int(total), int(high), done / ms)
    for k in range(walk.shape[0]):
        i = walk[k]
        if total >= cap:
            break
        if i == head or group[i] != group[head] or total + rows[i] > cap:
            continue
        if bucket[i] < narrowest or (widest >= 0 and bucket[i] > widest):
            continue
        new_low = min(low, bucket[i])
        new_high = max(high, bucket[i])
        if lengths[new_high] > spread * lengths[new_low]:
            continue
        ms = fastest[total + rows[i] - 1, new_high]
        limit = tightest
        if slack[i] >= own[i]:
            limit = min(limit, slack[i])
        if ms == np.inf or not (greedy or ms <= margin * limit):
            continue
        low, high, tightest = new_low, new_high, limit
        members[count] = i
        count += 1
        total += rows[i]
        done += work[i]
        if greedy or done / ms > best[3]:
            best = (count, int(total), int(high), done / ms)
    return best


@jit
def best_batch(
    head: int, walk: Ints, queue: Ordered, fastest: Floats, present: Flags, terms: Terms,
    members: Ints,
) -> tuple[int, int, int, float]:  # fmt: skip
    """The most efficient batch around `head`, over every padded length it could take."""
    if not terms.grouped:
        return _fill(head, 0, -1, walk, queue, fastest, terms, members)
    lengths, spread, own_bucket = terms.lengths, terms.spread, queue.bucket[head]
    best = (0, 0, 0, -1.0)
    trial = np.empty_like(members)
    low = 0
    for u in range(own_bucket, lengths.shape[0]):
        if lengths[u] > spread * lengths[own_bucket]:
            break
        if not present[u]:
            continue
        while lengths[u] > spread * lengths[low]:
            low += 1
        found = _fill(head, low, u, walk, queue, fastest, terms, trial)
        if found[3] > best[3]:
            best = found
            members[: found[0]] = trial[: found[0]]
    return best
