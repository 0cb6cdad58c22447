"""The dispatch rule where every request has the same length: the same decisions, made faster.

With one padded length, one row per request and one deadline for all, the queue in order of
arrival is the queue in order of deadline, all work is equal, and what `policies.compiled.decide`
finds by sorting, a heap and a walk is a window of the queue:

    ┌ dropped ┬ deferred ┬ kept ──────────────┐
    0         lost       first                n

The simulator uses this where it applies, since a gym decides millions of times a second; a
differential test holds the two together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies._asking import Asker, Line
from policies._jit import jit
from policies._triage import CAUTION
from policies.params import ALPHA, BETA, DELTA, MARGIN, MAX_ROWS, WAIT_MS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class UniformTables(NamedTuple):
    """What `prepare` made of the only bucket, of T `tiers` in room for P, and what follows from it.

    `fastest` [P + 1, R] ms and `plan` [P + 1, R]; `ms_per_row`, `efficient_rows` [P + 1]; row T is
    over all tiers. `top` [P + 1, R]: the most efficient of 1..r + 1 rows; `efficiency` [P + 1, R]:
    its efficiency.
    """

    fastest: Floats
    plan: Ints
    ms_per_row: Floats
    efficient_rows: Ints
    top: Ints
    efficiency: Floats
    tiers: int


class _Kept(NamedTuple):
    """Places in the queue: the first that is not lost, the first kept, and the end."""

    lost: int
    first: int
    tail: int


@jit
def tables_of(
    fastest: Floats, plan: Ints, ms_per_row: Floats, efficient_rows: Ints, greedy: bool, top: Ints,
    best: Floats,
) -> None:  # fmt: skip
    """Fill `top` and `best` (`UniformTables.efficiency`); greedy takes as many as it can."""
    for t in range(fastest.shape[0]):
        for r in range(fastest.shape[1]):
            efficiency = (r + 1) * ms_per_row[t] / fastest[t, r]
            if r == 0 or greedy or efficiency > best[t, r - 1]:
                top[t, r], best[t, r] = r + 1, efficiency
            else:
                top[t, r], best[t, r] = top[t, r - 1], best[t, r - 1]


@jit
def _keep(
    slack_from: float, queue_ms: Floats, head: int, tail: int, own: float, need: float, step: float
) -> tuple[int, int]:
    """(first not lost, first kept): `slack_from` + queue_ms[i] is the slack of i, `own` the least
    that it takes, `need` what a batch takes, `step` what each one ahead adds."""
    lost = head
    while lost < tail and slack_from + queue_ms[lost] < own:
        lost += 1
    low, high = lost, tail
    while low < high:
        middle = (low + high) // 2
        if slack_from + queue_ms[middle] < need:
            low = middle + 1
        else:
            high = middle
    # Request i can be answered if at most (its spare time / step) are kept ahead of it; no i can
    # ask for more than that it be the first itself, so looking back ends at the first found.
    first, spare, i = low, slack_from - need, tail - 1
    while i > first:
        if step * (i - first) > spare + queue_ms[i]:
            first = min(i, first + int(np.ceil((step * (i - first) - spare - queue_ms[i]) / step)))
        i -= 1
    return lost, first


@jit
def _rows(
    ms: Floats, pace: float, margin: float, cap: int, slack_from: float, queue_ms: Floats,
    kept: _Kept,
) -> int:  # fmt: skip
    """How many may run together around the head, the kept, then those passed over, where a batch
    takes `ms` [R] times `pace`."""
    lost, first, tail = kept
    rows, most = 1, min(cap, tail - first)
    if margin == np.inf:
        return min(cap, tail - lost)
    limit = slack_from + queue_ms[first]
    while rows < most and pace * ms[rows] <= margin * limit:
        rows += 1
    if rows < most:  # those behind have no less slack than the head, and the others have less
        return rows
    i = lost
    while rows < cap and i < first:
        tighter = min(limit, slack_from + queue_ms[i])
        if pace * ms[rows] <= margin * tighter:
            rows, limit = rows + 1, tighter
        i += 1
    return rows


@jit
def decide_uniform(
    now_ms: float, line: Line, asker: Asker, params: Floats, tables: UniformTables, members: Ints
) -> tuple[int, int, int, float]:  # fmt: skip
    """What `decide_prepared` would do with a queue of equal requests, all refusable, and costs
    that are all known.

    Fills `members` with positions counted from `head`; returns `(plan, n_members, n_dropped,
    wake_ms)`, the dropped being the first ones.
    """
    fastest, ms_per_row = tables.fastest, tables.ms_per_row
    efficient_rows, tiers = tables.efficient_rows, tables.tiers
    queue_ms, head, tail, slo_ms = line
    _, workers, pace, rate_per_ms = asker
    cap = max(1, min(int(params[MAX_ROWS]), fastest.shape[1]))
    margin = params[MARGIN]
    greedy = margin == np.inf
    slack_from = slo_ms - now_ms
    own = pace * fastest[tiers, 0]
    together = pace * fastest[tiers, max(1, min(efficient_rows[tiers], tail - head)) - 1]
    need = params[DELTA] * max(own, together)
    step = CAUTION * params[BETA] / workers * pace * ms_per_row[tiers]
    lost, first = _keep(slack_from, queue_ms, head, tail, own, need, step)
    if lost == tail:
        return -1, 0, tail - head, np.inf
    if first == tail:  # all are passed over: the most urgent is served
        first = lost
    places = _Kept(lost, first, tail)
    slack = slack_from + queue_ms[first]
    waiting = params[BETA] * (tail - lost) + params[ALPHA] * rate_per_ms * max(slack, 0.0)

    total, chosen = 0, 0
    late, least = True, np.inf
    for t in range(tiers):
        rows = _rows(fastest[t], pace, margin, cap, slack_from, queue_ms, places)
        drain = pace * ms_per_row[t] * waiting / tables.efficiency[t, rows - 1]
        rows = tables.top[t, rows - 1]
        misses = not pace * fastest[t, rows - 1] <= slack
        if total == 0 or (late and not misses) or (late == misses and drain < least):
            total, chosen = rows, t
            late, least = misses, drain
        if not late and least <= workers * slack:
            break

    full = min(cap if greedy else efficient_rows[chosen], fastest.shape[1])
    if params[WAIT_MS] > 0.0 and total < full and slack >= own:
        start_by = queue_ms[first] + slo_ms - pace * fastest[chosen, full - 1]
        until = min(queue_ms[first] + params[WAIT_MS], start_by)
        if now_ms < until:
            return -1, 0, lost - head, until
    kept = min(total, tail - first)
    for k in range(kept):
        members[k] = first - head + k
    i, limit = lost, slack
    while kept < total:
        tighter = min(limit, slack_from + queue_ms[i])
        if greedy or pace * fastest[chosen, kept] <= margin * tighter:
            members[kept] = i - head
            kept, limit = kept + 1, tighter
        i += 1
    return tables.plan[chosen, total - 1], total, lost - head, np.inf
