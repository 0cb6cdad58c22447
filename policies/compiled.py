"""The dispatch rule as one compiled function: what a free worker should run next.

    queue ──▶ triage ──▶ head ──▶ batch around it ──▶ tier and plan ──▶ run it, or hold it
              │
              └─ drop what can no longer be answered in time; pass over (defer) the dearest
                 work when not everything can be

The live dispatcher and the simulator call this very function (with the cost table prepared once,
`decide_prepared`), so what was simulated is what runs. Everything is an array, of records or plain,
or a tuple of arrays: no objects, no clock, no randomness.

**Triage.** In order of deadline, request i is kept while

    3 · beta · (work kept before it) / workers + delta · latency(its batch) <= slack(i)

where *work* is the cheapest cost per row of the request's bucket (what it costs in a good batch)
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

from policies._asking import Plans, Prepared, Requests
from policies._batch import Terms, best_batch, walk
from policies._jit import jit, jit_inlined
from policies._ordered import Ordered, by_deadline
from policies._tables import ranks, tables
from policies._triage import DEFERRED, DROPPED, KEPT, triage
from policies.params import ALPHA, BETA, DELTA, MARGIN, MAX_ROWS, PLANS, SPREAD, WAIT_MS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@jit
def prepare(plans: Plans, params: Floats) -> Prepared:
    """What of a decision depends only on the plans and the setting; see `tables`."""
    cost_ms = plans.cost_ms
    rank = np.empty(cost_ms.shape[0], np.int64)
    tiers = ranks(plans.tier, plans.allowed, int(params[PLANS]), rank)
    cap = max(1, min(int(params[MAX_ROWS]), cost_ms.shape[1]))
    fastest, plan, ms_per_row, efficient_rows = tables(cost_ms, rank, tiers, cap)
    return Prepared(fastest, plan, ms_per_row, efficient_rows, plans.lengths)


@jit
def decide_prepared(
    now_ms: float, queue: Requests, prepared: Prepared, workers: float, rate_per_ms: float,
    params: Floats, members: Ints, dropped: Ints,
) -> tuple[int, int, int, float]:  # fmt: skip
    """`decide` with what `prepare` made of the plans: both callers hold on to that.

    `prepared` may be a plain tuple: at a call from Python that is typed in half the time.
    """
    if queue.shape[0] == 0:
        return -1, 0, 0, np.inf
    prepared = Prepared(*prepared)
    terms = _terms(prepared, params)
    ordered = by_deadline(now_ms, queue, prepared, terms.spread)
    state = np.empty(queue.shape[0], np.int64)
    triage(ordered, workers, params[BETA], params[DELTA], state)
    head, n_dropped = _head(ordered.order, state, dropped)
    if head < 0:
        return -1, 0, n_dropped, np.inf
    if prepared.ms_per_row.shape[0] == 1:  # no tier: no plan may run
        members[0] = ordered.order[head]
        return 0, 1, n_dropped, np.inf
    batch, total, high, tier = _batch(
        head, ordered, state, prepared, terms, workers, rate_per_ms, params
    )
    start_ms = _hold(head, ordered, queue, prepared, terms, params[WAIT_MS], (total, high, tier))
    if now_ms < start_ms:
        return -1, 0, n_dropped, start_ms
    for k in range(batch.shape[0]):
        members[k] = ordered.order[batch[k]]
    return max(prepared.plan[tier, total - 1, high], 0), batch.shape[0], n_dropped, np.inf


@jit
def decide(
    now_ms: float, queue: Requests, plans: Plans, workers: float, rate_per_ms: float,
    params: Floats, members: Ints, dropped: Ints,
) -> tuple[int, int, int, float]:  # fmt: skip
    """What a worker that is free at `now_ms` should do with the queue of n requests.

    `workers` that serve this queue; `rate_per_ms`: recent arrivals per ms. `params`:
    `RuleParams.to_array()`.

    Out: `members` [>= R], `dropped` [>= n] are filled with indices into the queue. Returns
    `(plan, n_members, n_dropped, wake_ms)`: run members[:n_members] as one batch on `plan`, refuse
    dropped[:n_dropped]. With no members `plan` is -1: ask again at `wake_ms` (inf: when something
    arrives). Whoever is in neither list stays queued. Where no allowed plan has a known cost the
    head runs alone on plan 0.
    """
    prepared = prepare(plans, params)
    return decide_prepared(
        now_ms, queue, prepared, workers, rate_per_ms, params, members, dropped
    )  # fmt: skip


@jit_inlined
def _terms(prepared: Prepared, params: Floats) -> Terms:
    """What a batch may be under this setting."""
    greedy = params[MARGIN] == np.inf
    grouped = not (greedy or params[SPREAD] == np.inf)
    cap = max(1, min(int(params[MAX_ROWS]), prepared.fastest.shape[1]))
    return Terms(greedy, grouped, params[SPREAD], params[MARGIN], cap, prepared.lengths)


@jit
def _head(order: Ints, state: Ints, dropped: Ints) -> tuple[int, int]:
    """(who leads: the most urgent kept, or deferred, or -1; how many are dropped)."""
    n_dropped, head = 0, -1
    for i in range(state.shape[0]):
        if state[i] == DROPPED:
            dropped[n_dropped] = order[i]
            n_dropped += 1
        elif head < 0 or (state[i] == KEPT and state[head] == DEFERRED):
            head = i
    return head, n_dropped


@jit_inlined
def _batch(
    head: int, queue: Ordered, state: Ints, prepared: Prepared, terms: Terms, workers: float,
    rate_per_ms: float, params: Floats,
) -> tuple[Ints, int, int, int]:  # fmt: skip
    """The batch of the most accurate tier whose batch carries what is required, else of the fastest
    to drain: (members, rows, bucket, tier)."""
    n, buckets = queue.bucket.shape[0], prepared.lengths.shape[0]
    bucket, rows, work, slack = queue.bucket, queue.rows, queue.work, queue.slack[head]
    present = np.zeros(buckets, np.bool_)
    for i in range(n):
        present[bucket[i]] = True
    filling = np.empty(n, np.int64)
    filling = filling[: walk(bucket, state, buckets, not terms.grouped, filling)]
    best = np.empty(prepared.fastest.shape[1], np.int64)
    trial = np.empty_like(best)
    count, total, high, chosen = 0, 0, 0, 0
    late, least = True, np.inf
    for t in range(prepared.ms_per_row.shape[0] - 1):
        ms_per_row, fastest = prepared.ms_per_row[t], prepared.fastest[t]
        for i in range(n):
            work[i] = rows[i] * ms_per_row[bucket[i]] if ms_per_row[bucket[i]] < np.inf else 0.0
        found, found_rows, found_high, efficiency = best_batch(
            head, filling, queue, fastest, present, terms, trial
        )
        needed = _drain_ms(state, work, slack, rate_per_ms, params[BETA], params[ALPHA])
        drain = needed / efficiency if efficiency > 0.0 else np.inf
        misses = not fastest[found_rows - 1, found_high] <= slack
        if count == 0 or (late and not misses) or (late == misses and drain < least):
            count, total, high, chosen = found, found_rows, found_high, t
            best[:found] = trial[:found]
            late, least = misses, drain
        if not late and least <= workers * slack:
            break
    return best[:count], total, high, chosen


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


@jit_inlined
def _hold(
    head: int, ordered: Ordered, queue: Requests, prepared: Prepared, terms: Terms,
    wait_ms: float, batch: tuple[int, int, int],
) -> float:  # fmt: skip
    """Until when a batch of (rows, bucket, tier) is held for company: as long as neither the wait
    nor the head's slack runs out; -inf where it is not."""
    total, high, tier = batch
    max_rows = prepared.fastest.shape[1]
    full = min(terms.cap if terms.greedy else prepared.efficient_rows[tier, high], max_rows)
    if not (wait_ms > 0.0 and total < full and ordered.slack[head] >= ordered.own[head]):
        return -np.inf
    ms = prepared.fastest[tier, full - 1, high]
    if ms == np.inf:
        ms = prepared.fastest[tier, total - 1, high]
    first = queue[ordered.order[head]]
    return float(min(first.arrived_ms + wait_ms, first.deadline_ms - ms))
