"""The event-exact engine: queue, workers and clock of one simulated service, compiled.

It calls the live dispatcher's own `policies.compiled.decide_prepared` at every instant at which
the live one would ask: when a worker is free and something waits, on an arrival, at a hold's end.
State is a few small arrays, so a moment can be copied, played forward and restored exactly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies._jit import jit
from policies.compiled import decide_prepared, prepare

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

NOW, RATE, RATE_AT, HOLD = range(4)
"""Scalars of the clock: time, arrivals per ms and when last brought up to date, hold's end."""
NEXT, QUEUED, BATCHES = range(3)
"""Counters: next arrival, requests in the queue, batches started."""

WAITING, SERVED, REFUSED = 0, 1, 2

START, FINISH, EXPECTED, TOKENS = range(4)
"""Columns of the batch log, float64."""
RAN, ROWS, CELL = range(3)
"""Columns of the batch log, int64: plan, rows, cell."""

RATE_WINDOW_MS = 40.0
"""Memory of the arrival rate the rule sees (the rule's published tuning used the same)."""


@jit
def admit(clock: Floats, count: Ints, queue: Ints, arrivals_ms: Floats, now_ms: float) -> None:
    """Queue every arrival up to `now_ms` and bring the arrival rate up to date."""
    n = arrivals_ms.shape[0]
    while count[NEXT] < n and arrivals_ms[count[NEXT]] <= now_ms:
        at = arrivals_ms[count[NEXT]]
        clock[RATE] *= np.exp((clock[RATE_AT] - at) / RATE_WINDOW_MS)
        clock[RATE] += 1.0 / RATE_WINDOW_MS
        clock[RATE_AT] = at
        queue[count[QUEUED]] = count[NEXT]
        count[QUEUED] += 1
        count[NEXT] += 1
        clock[HOLD] = -np.inf  # an arrival may end a hold


@jit
def _leave(queue: Ints, count: Ints, outcome: NDArray[np.int8]) -> None:
    """Close the gaps of requests that are no longer waiting."""
    left = 0
    for k in range(count[QUEUED]):
        if outcome[queue[k]] == WAITING:
            queue[left] = queue[k]
            left += 1
    count[QUEUED] = left


@jit
def advance(
    until_ms: float,
    arrivals_ms: Floats,
    deadline_ms: Floats,
    length: Ints,
    cell: Ints,
    believed_ms: Floats,
    true_ms: Floats,
    factor: Floats,
    overhead_ms: float,
    lengths: Floats,
    tier: Ints,
    allowed: Flags,
    params: Floats,
    clock: Floats,
    count: Ints,
    free_ms: Floats,
    queue: Ints,
    end_ms: Floats,
    outcome: NDArray[np.int8],
    ran: NDArray[np.int32],
    log: Floats,
    log_shape: Ints,
) -> None:
    """Play the service from clock[NOW] to `until_ms`.

    Arrivals [N] ascending. The rule sees `believed_ms` [P, R, L]; batch k really takes
    true_ms · factor[k mod len] + overhead_ms. `free_ms` [W]: when each worker is free again. Per
    request: `end_ms`, `outcome`, `ran` (plan). Per batch: `log`, `log_shape`.
    """
    n = arrivals_ms.shape[0]
    workers = free_ms.shape[0]
    members = np.empty(believed_ms.shape[1], np.int64)
    fastest, runs, unit, good = prepare(believed_ms, tier, allowed, params)
    while True:
        now = clock[NOW]
        admit(clock, count, queue, arrivals_ms, now)
        worker = 0
        for w in range(1, workers):
            if free_ms[w] < free_ms[worker]:
                worker = w
        q = count[QUEUED]
        if q > 0 and free_ms[worker] <= now and now >= clock[HOLD]:
            waiting = queue[:q]
            dropped = np.empty(q, np.int64)
            rate = clock[RATE] * np.exp((clock[RATE_AT] - now) / RATE_WINDOW_MS)
            plan, n_members, n_dropped, wake_ms = decide_prepared(
                now, deadline_ms[waiting], arrivals_ms[waiting], cell[waiting],
                np.ones(q, np.int64), np.zeros(q, np.int64), np.ones(q, np.bool_),
                lengths, workers, rate, params, fastest, runs, unit, good, members, dropped,
            )  # fmt: skip
            for k in range(n_dropped):
                i = waiting[dropped[k]]
                outcome[i] = REFUSED
                end_ms[i] = now
            clock[HOLD] = wake_ms
            if n_members > 0:
                clock[HOLD] = -np.inf
                b = count[BATCHES]
                padded = 0
                tokens = 0
                for k in range(n_members):
                    padded = max(padded, cell[waiting[members[k]]])
                    tokens += length[waiting[members[k]]]
                took = true_ms[plan, n_members - 1, padded] * factor[b % factor.shape[0]]
                finish = now + took + overhead_ms
                for k in range(n_members):
                    i = waiting[members[k]]
                    outcome[i] = SERVED
                    end_ms[i] = finish
                    ran[i] = plan
                free_ms[worker] = finish
                log[b, START] = now
                log[b, FINISH] = finish
                log[b, EXPECTED] = believed_ms[plan, n_members - 1, padded]
                log[b, TOKENS] = tokens
                log_shape[b, RAN] = plan
                log_shape[b, ROWS] = n_members
                log_shape[b, CELL] = padded
                count[BATCHES] = b + 1
            if n_members > 0 or n_dropped > 0:
                _leave(queue, count, outcome)
                continue
        following = arrivals_ms[count[NEXT]] if count[NEXT] < n else np.inf
        if q > 0:
            following = min(following, max(free_ms[worker], clock[HOLD]))
        if following > until_ms or following == np.inf:
            # Played to the very end (until = inf) the clock stops with the last answer.
            clock[NOW] = until_ms if until_ms < np.inf else max(now, free_ms.max())
            return
        clock[NOW] = max(now, following)


@jit
def look(
    horizon_ms: float,
    tail_ms: float,
    arrivals_ms: Floats,
    deadline_ms: Floats,
    length: Ints,
    lengths: Floats,
    clock: Floats,
    count: Ints,
    free_ms: Floats,
    queue: Ints,
    end_ms: Floats,
    outcome: NDArray[np.int8],
    log: Floats,
    log_shape: Ints,
    seen: Floats,
) -> None:
    """Fill `seen` [37] with what the live window would tell now; order: see `Simulation.signals`.

    `tail_ms`: no request ends later than this after its deadline.
    """
    now = clock[NOW]
    since = now - horizon_ms
    seen[:] = 0.0
    seen[0] = 1e3 * clock[RATE] * np.exp((clock[RATE_AT] - now) / RATE_WINDOW_MS)
    offered, tokens, gaps, squares, last = 0, 0, 0.0, 0.0, 0.0
    i = count[NEXT] - 1
    while i >= 0 and arrivals_ms[i] > since:
        ago = now - arrivals_ms[i]
        if ago < 1000.0:
            seen[1 + 9 - int(ago // 100.0)] += 1.0
        if ago < 100.0:
            seen[11 + 9 - int(ago // 10.0)] += 1.0
        if offered > 0:
            gaps += last - arrivals_ms[i]
            squares += (last - arrivals_ms[i]) ** 2
        last = arrivals_ms[i]
        offered += 1
        tokens += length[i]
        i -= 1
    seen[21] = 1.0
    if offered >= 3 and gaps > 0.0:
        mean = gaps / (offered - 1)
        seen[21] = max(0.0, squares / (offered - 1) / mean**2 - 1.0)
    seen[22] = count[QUEUED]
    seen[23] = deadline_ms[0] - arrivals_ms[0]
    for k in range(count[QUEUED]):
        slack = deadline_ms[queue[k]] - now
        if k == 0 or slack < seen[23]:
            seen[23] = slack
    seen[24] = (free_ms > now).sum() / free_ms.shape[0]
    seen[36] = tokens / offered if offered > 0 else 0.0

    latency = np.empty(max(1, count[NEXT]))
    answered, met, refused = 0, 0, 0
    i = count[NEXT] - 1
    while i >= 0 and deadline_ms[i] + tail_ms > since:
        if outcome[i] != WAITING and since < end_ms[i] <= now:
            if outcome[i] == REFUSED:
                refused += 1
            else:
                latency[answered] = end_ms[i] - arrivals_ms[i]
                answered += 1
                met += end_ms[i] <= deadline_ms[i]
        i -= 1
    seen[25] = answered / (min(horizon_ms, max(now, horizon_ms / 10.0)) / 1e3)
    seen[26] = answered + refused
    if answered + refused > 0:
        seen[27] = met / (answered + refused)
        seen[28] = refused / (answered + refused)
    if answered > 0:
        seen[29] = np.quantile(latency[:answered], 0.5)
        seen[30] = np.quantile(latency[:answered], 0.99)

    batches, ratios, real, computed = 0, 0.0, 0.0, 0.0
    b = count[BATCHES] - 1
    while b >= 0 and log[b, START] + tail_ms > since:
        if since < log[b, FINISH] <= now:
            ratio = (log[b, FINISH] - log[b, START]) / log[b, EXPECTED]
            if not 0.0 < ratio < np.inf:
                ratio = 1.0
            batches += 1
            ratios += ratio
            seen[33] = max(seen[33], ratio)
            real += log[b, TOKENS]
            computed += log_shape[b, ROWS] * lengths[log_shape[b, CELL]]
        b -= 1
    seen[31] = batches
    seen[32] = ratios / batches if batches > 0 else 1.0
    seen[33] = seen[33] if batches > 0 else 1.0
    seen[34] = (computed - real) / computed if computed > 0.0 else 0.0


@jit
def worth(
    first: int,
    last: int,
    end_ms: Floats,
    deadline_ms: Floats,
    outcome: NDArray[np.int8],
    ran: NDArray[np.int32],
    accuracy: Floats,
) -> float:
    """Summed accuracy of the answers in time among requests first..last-1, once dispatched."""
    total = 0.0
    for i in range(first, last):
        if outcome[i] == SERVED and end_ms[i] <= deadline_ms[i]:
            total += accuracy[ran[i]]
    return total
