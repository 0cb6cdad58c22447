"""The dispatch rule as one compiled function: what a free worker should run next.

    queue ──▶ triage ──▶ head ──▶ batch around it ──▶ tier and plan ──▶ run it, or hold it
              │
              └─ drop what can no longer be answered in time; pass over (defer) the dearest
                 work when not everything can be

The live dispatcher and the simulator call this very function (with the cost table prepared once,
`decide_prepared`), so what was simulated is what runs. Everything is a plain array: no objects,
no clock, no randomness.

**Triage.** In order of deadline, request i is kept while

    3 · beta · (work kept before it) / workers + delta · latency(its batch) <= slack(i)

where *work* is the cheapest cost per row of the request's cell (what it costs in a good batch)
and *its batch* the smallest batch that reaches `EFFICIENT_SHARE` of the best rows/ms, no larger
than the queue can fill. When i does not fit, the dearest kept request is deferred instead: for
one machine this yields the largest possible number of answers in time (J. M. Moore, "An n job,
one machine sequencing algorithm for minimizing the number of late jobs", 1968). A deferred
request is still served, as filling or when nothing else waits, until it is hopeless; a hopeless
one is dropped, or, when it must not be refused, served in its turn.

**Batch.** The head is the kept request with the earliest deadline. Members are requests of its
group whose padded lengths lie within `spread` of one another. The batch is the one with the
highest *efficiency*, the work of its members over its cost, so padding and rows that do not pay
are never taken, among those whose cost fits the tightest member's slack × margin.

**Tier.** The most accurate tier t whose batch carries what is required,

    (beta · work queued + alpha · work arriving within the head's slack) / (workers · slack)
        <= efficiency(batch of t)

or else the tier that drains fastest; within a tier the plan that is fastest at that shape.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies._batch import best_batch, walk
from policies._jit import jit
from policies._tables import mates, ranks, tables
from policies._triage import DEFERRED, DROPPED, KEPT, triage
from policies.params import ALPHA, BETA, DELTA, MARGIN, MAX_ROWS, PLANS, SPREAD, WAIT_MS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@jit
def _by_deadline(deadline_ms: Floats) -> Ints:
    """Queue indices, earliest deadline first, ties in order of joining."""
    for i in range(1, deadline_ms.shape[0]):
        if deadline_ms[i] < deadline_ms[i - 1]:
            return np.argsort(deadline_ms, kind="mergesort")
    return np.arange(deadline_ms.shape[0])


@jit
def _prices(
    cell: Ints, rows: Ints, within: Ints, fastest: Floats, unit: Floats, good: Ints
) -> tuple[Floats, Floats, Floats]:
    """Per request: cost alone, work, and latency of the batch it can hope for.

    All 0 where the cost is unknown: that is no evidence of being hopeless.
    """
    n = cell.shape[0]
    own = np.zeros(n)
    work = np.zeros(n)
    batch_ms = np.zeros(n)
    for i in range(n):
        c = cell[i]
        alone = fastest[rows[i] - 1, c]
        if alone < np.inf:
            own[i] = alone
            work[i] = rows[i] * unit[c] if unit[c] < np.inf else alone
            together = fastest[max(1, min(good[c], within[c])) - 1, c]
            batch_ms[i] = max(alone, together) if together < np.inf else alone
    return own, work, batch_ms


@jit
def _drain_ms(
    state: Ints, work: Floats, slack: float, rate_per_ms: float, beta: float, alpha: float
) -> float:
    """Work to be carried within the head's slack, were every batch perfect (one worker)."""
    queued = 0.0
    number = 0
    for i in range(state.shape[0]):
        if state[i] != DROPPED:  # who is passed over is waiting as well
            queued += work[i]
            number += 1
    return beta * queued + alpha * rate_per_ms * max(slack, 0.0) * queued / number


@jit
def prepare(
    cost_ms: Floats, tier: Ints, allowed: Flags, params: Floats
) -> tuple[Floats, Ints, Floats, Ints]:
    """What of a decision depends only on the cost table and the setting; see `tables`."""
    rank = np.empty(cost_ms.shape[0], np.int64)
    tiers = ranks(tier, allowed, int(params[PLANS]), rank)
    cap = max(1, min(int(params[MAX_ROWS]), cost_ms.shape[1]))
    return tables(cost_ms, rank, tiers, cap)


@jit
def decide_prepared(
    now_ms: float,
    deadline_ms: Floats,
    arrived_ms: Floats,
    cell: Ints,
    rows: Ints,
    group: Ints,
    refusable: Flags,
    lengths: Floats,
    workers: float,
    rate_per_ms: float,
    params: Floats,
    fastest: Floats,
    plan: Ints,
    unit: Floats,
    good: Ints,
    members: Ints,
    dropped: Ints,
) -> tuple[int, int, int, float]:
    """`decide` with what `prepare` made of the cost table: both callers hold on to that."""
    n = deadline_ms.shape[0]
    if n == 0:
        return -1, 0, 0, np.inf
    tiers = unit.shape[0] - 1
    max_rows, cells = fastest.shape[1:]
    spread = params[SPREAD]
    margin = params[MARGIN]
    greedy = margin == np.inf
    grouped = not (greedy or spread == np.inf)
    cap = max(1, min(int(params[MAX_ROWS]), max_rows))

    # The queue in order of deadline: from here on an index is a position in that order.
    order = _by_deadline(deadline_ms)
    slack = deadline_ms[order] - now_ms
    cell = cell[order]
    rows = rows[order]
    group = group[order]
    refusable = refusable[order]
    present = np.zeros(cells, np.bool_)
    for i in range(n):
        present[cell[i]] = True

    within = np.empty(cells, np.int64)
    mates(cell, rows, lengths, spread, within)
    own, work, batch_ms = _prices(cell, rows, within, fastest[tiers], unit[tiers], good[tiers])

    state = np.empty(n, np.int64)
    triage(slack, own, work, batch_ms, refusable, workers, params[BETA], params[DELTA], state)
    n_dropped = 0
    head = -1
    for i in range(n):
        if state[i] == DROPPED:
            dropped[n_dropped] = order[i]
            n_dropped += 1
        elif head < 0 or (state[i] == KEPT and state[head] == DEFERRED):
            head = i
    if head < 0:
        return -1, 0, n_dropped, np.inf
    if tiers == 0:
        members[0] = order[head]
        return 0, 1, n_dropped, np.inf

    # The most accurate tier whose batch carries what is required, else the fastest to drain.
    filling = np.empty(n, np.int64)
    filling = filling[: walk(cell, state, cells, not grouped, filling)]
    trial = np.empty(max_rows, np.int64)
    best = np.empty(max_rows, np.int64)
    count, total, high, chosen = 0, 0, 0, 0
    late, least = True, np.inf
    for t in range(tiers):
        for i in range(n):
            work[i] = rows[i] * unit[t, cell[i]] if unit[t, cell[i]] < np.inf else 0.0
        found, found_rows, found_high, efficiency = best_batch(
            head, greedy, grouped, filling, group, cell, rows, slack, own, work, fastest[t],
            lengths, present, spread, margin, cap, trial,
        )  # fmt: skip
        needed = _drain_ms(state, work, slack[head], rate_per_ms, params[BETA], params[ALPHA])
        drain = needed / efficiency if efficiency > 0.0 else np.inf
        misses = not fastest[t, found_rows - 1, found_high] <= slack[head]
        if count == 0 or (late and not misses) or (late == misses and drain < least):
            count, total, high, chosen = found, found_rows, found_high, t
            best[:found] = trial[:found]
            late, least = misses, drain
        if not late and least <= workers * slack[head]:
            break

    # Hold for company, as long as neither the wait nor the head's slack runs out.
    full = min(cap if greedy else good[chosen, high], max_rows)
    if params[WAIT_MS] > 0.0 and total < full and slack[head] >= own[head]:
        ms = fastest[chosen, full - 1, high]
        if ms == np.inf:
            ms = fastest[chosen, total - 1, high]
        start_by = deadline_ms[order[head]] - ms
        until = min(arrived_ms[order[head]] + params[WAIT_MS], start_by)
        if now_ms < until:
            return -1, 0, n_dropped, until
    for k in range(count):
        members[k] = order[best[k]]
    return max(plan[chosen, total - 1, high], 0), count, n_dropped, np.inf


@jit
def decide(
    now_ms: float,
    deadline_ms: Floats,
    arrived_ms: Floats,
    cell: Ints,
    rows: Ints,
    group: Ints,
    refusable: Flags,
    cost_ms: Floats,
    lengths: Floats,
    tier: Ints,
    allowed: Flags,
    workers: int,
    rate_per_ms: float,
    params: Floats,
    members: Ints,
    dropped: Ints,
) -> tuple[int, int, int, float]:
    """What a worker that is free at `now_ms` should do with the queue of n requests.

    Per request [n]: `deadline_ms`, `arrived_ms` (same clock as `now_ms`, any order), `cell` (index
    into `lengths`), `rows` (1..R), `group` (only equal groups share a batch), `refusable`.
    `cost_ms` [P, R, L]: cost of plan p at r + 1 rows padded to lengths[l]; NaN and inf are
    "unknown". `lengths` [L] ascending. `tier` [P]: 0 is the most accurate. `allowed` [P].
    `rate_per_ms`: recent arrivals per ms. `params`: `RuleParams.to_array()`.

    Out: `members` [>= R], `dropped` [>= n] are filled with indices into the queue. Returns
    `(plan, n_members, n_dropped, wake_ms)`: run members[:n_members] as one batch on `plan`, refuse
    dropped[:n_dropped]. With no members `plan` is -1: ask again at `wake_ms` (inf: when something
    arrives). Whoever is in neither list stays queued. Where no allowed plan has a known cost the
    head runs alone on plan 0.
    """
    fastest, plan, unit, good = prepare(cost_ms, tier, allowed, params)
    return decide_prepared(
        now_ms, deadline_ms, arrived_ms, cell, rows, group, refusable, lengths, workers,
        rate_per_ms, params, fastest, plan, unit, good, members, dropped,
    )  # fmt: skip
