"""The queue in order of deadline, with what its requests cost.

Part of the compiled rule (`policies.compiled`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies._asking import Prepared, Requests
from policies._jit import jit, jit_inlined
from policies._tables import mates

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Ordered(NamedTuple):
    """The queue in order of deadline, [n] each: `order` are places in the queue; `slack` is time
    left, `own` the cost alone, `work` the cost in a good batch, `batch_ms` what the batch takes
    that it can hope for. Those three are 0 where the cost is unknown: that is no evidence of being
    hopeless."""

    order: Ints
    slack: Floats
    bucket: Ints
    rows: Ints
    group: Ints
    refusable: Flags
    own: Floats
    work: Floats
    batch_ms: Floats


@jit_inlined
def by_deadline(now_ms: float, queue: Requests, prepared: Prepared, spread: float) -> Ordered:
    """The queue in order of deadline; from there on an index is a position in that order."""
    n = queue.shape[0]
    order = _order(queue)
    slack, refusable = np.empty(n), np.empty(n, np.bool_)
    bucket, rows, group = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    for i in range(n):
        request = queue[order[i]]
        slack[i] = request.deadline_ms - now_ms
        bucket[i], rows[i], group[i] = request.bucket, request.rows, request.group
        refusable[i] = request.refusable
    within = np.empty(prepared.lengths.shape[0], np.int64)
    mates(bucket, rows, prepared.lengths, spread, within)
    own, work, batch_ms = np.zeros(n), np.zeros(n), np.zeros(n)
    ordered = Ordered(order, slack, bucket, rows, group, refusable, own, work, batch_ms)
    last = prepared.ms_per_row.shape[0] - 1
    _price(
        ordered, within, prepared.fastest[last], prepared.ms_per_row[last],
        prepared.efficient_rows[last],
    )  # fmt: skip
    return ordered


@jit
def _order(queue: Requests) -> Ints:
    """Queue indices, earliest deadline first, ties in order of joining."""
    for i in range(1, queue.shape[0]):
        if queue[i].deadline_ms < queue[i - 1].deadline_ms:
            return np.argsort(queue["deadline_ms"], kind="mergesort")
    return np.arange(queue.shape[0])


@jit
def _price(
    queue: Ordered, within: Ints, fastest: Floats, ms_per_row: Floats, efficient_rows: Ints
) -> None:
    """Fill `own`, `work` and `batch_ms`. `within` [L]: rows queued of about that length."""
    bucket, rows = queue.bucket, queue.rows
    own, work, batch_ms = queue.own, queue.work, queue.batch_ms
    for i in range(bucket.shape[0]):
        c = bucket[i]
        alone = fastest[rows[i] - 1, c]
        if alone < np.inf:
            own[i] = alone
            work[i] = rows[i] * ms_per_row[c] if ms_per_row[c] < np.inf else alone
            together = fastest[max(1, min(efficient_rows[c], within[c])) - 1, c]
            batch_ms[i] = max(alone, together) if together < np.inf else alone
