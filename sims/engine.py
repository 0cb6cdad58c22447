"""The event-exact engine: queue, workers and clock of one simulated service, compiled.

It decides with the live dispatcher's own rule (`policies.compiled.decide_prepared`; its exact
short form `policies.uniform` where all requests are equal) at every instant at which the live one
would: when a worker is free and something waits, on an arrival, at a hold's end. One call plays
one environment, row `e` of a `State`; `sims.vector` plays many.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies._jit import borrowed, jit
from policies.compiled import decide_prepared
from policies.disciplines import RULE, dispatch, learn
from policies.params import WAIT_MS
from policies.uniform import Tables, decide_uniform
from sims.state import (
    BINS,
    BINS_PER_SLO,
    BY_SPEED,
    BY_USE,
    COMPUTED,
    DROPPED,
    ENDED,
    LATENCY,
    MET,
    RAN,
    RATIOS,
    REFUSED,
    SERVED,
    SLOT_MS,
    SLOTS,
    TOKENS,
    WINDOW,
    WORST,
    WORTH,
    Bank,
    Log,
    Records,
    State,
)  # fmt: skip

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NEAR = 64
"""A queue further from the front of its room than this, and than it is long, moves there: a gym of
a thousand environments otherwise wanders through all their rooms, and no cache holds those."""
RATE_WINDOW_MS = 40.0
"""Memory of the arrival rate the rule sees (the rule's published tuning used the same)."""


@jit
def _fade(ms: float) -> float:
    """exp(-ms / RATE_WINDOW_MS); for short times its series, within 3e-7."""
    gap = ms * (1.0 / RATE_WINDOW_MS)
    if gap < 0.05:
        return 1.0 - gap * (1.0 - gap * (0.5 - gap * (1.0 / 6.0)))
    return float(np.exp(-gap))


@jit
def _admit(env: Any, at_ms: Floats, queue_ms: Floats, queue_id: Ints, until_ms: float) -> bool:
    """Queue the arrivals up to `until_ms`; False where the queue's room ran out before."""
    i, last, tail = env.next, env.last, env.tail
    origin, stretch = env.origin_ms, env.stretch
    if i >= last or (at_ms[i] - origin) * stretch > until_ms:
        return True
    rate, rate_at = env.rate, env.rate_at_ms
    room = queue_ms.shape[0]
    while i < last and tail < room:
        at = (at_ms[i] - origin) * stretch
        if at > until_ms:
            break
        rate = rate * _fade(at - rate_at) + 1.0 / RATE_WINDOW_MS
        rate_at = at
        queue_ms[tail] = at
        queue_id[tail] = i
        tail += 1
        i += 1
    env.rate, env.rate_at_ms, env.next, env.tail = rate, rate_at, i, tail
    env.hold_ms = -np.inf  # an arrival may end a hold
    return bool(tail < room or i == last or (at_ms[i] - origin) * stretch > until_ms)


@jit
def _refuse(env: Any, slots: Floats, log: Log, first: int, request: int) -> None:
    slots[int(env.now_ms / SLOT_MS) % SLOTS, REFUSED] += 1.0
    env.refused += 1.0
    if log.end_ms.shape[0] > 0:
        log.outcome[request - first] = DROPPED
        log.end_ms[request - first] = env.now_ms


@jit
def _to_front(env: Any, queue_ms: Floats, queue_id: Ints) -> None:
    """Move the queue to the front of its room."""
    head, n = env.head, env.tail - env.head
    for k in range(n):
        queue_ms[k] = queue_ms[head + k]
        queue_id[k] = queue_id[head + k]
    env.head, env.tail = 0, n


@jit
def _make_room(
    env: Any, queue_ms: Floats, queue_id: Ints, slots: Floats, log: Log, first: int
) -> None:
    """Move the queue to the front of its room; of a full one the oldest eighth is refused."""
    room = queue_ms.shape[0]
    while env.head < room // 8:
        _refuse(env, slots, log, first, queue_id[env.head])
        env.head += 1
    _to_front(env, queue_ms, queue_id)


@jit
def _leave(env: Any, queue_ms: Floats, queue_id: Ints, members: Ints, n: int) -> None:
    """Take n queue positions, counted from the head, out; the others close up."""
    head, tail = env.head, env.tail
    low, high = members[0], 0
    for k in range(n):
        low, high = min(low, members[k]), max(high, members[k])
    if high - low == n - 1 and tail - head - high - 1 < low:  # those behind move down
        for read in range(head + high + 1, tail):
            queue_id[read - n] = queue_id[read]
            queue_ms[read - n] = queue_ms[read]
        env.tail = tail - n
        return
    if high >= n:  # not simply the first n: those before move up
        for k in range(n):
            queue_id[head + members[k]] = -1
        write = head + high
        for read in range(head + high, head - 1, -1):
            if queue_id[read] >= 0:
                queue_id[write] = queue_id[read]
                queue_ms[write] = queue_ms[read]
                write -= 1
    env.head = head + n


@jit
def _refuse_some(
    env: Any, queue_ms: Floats, queue_id: Ints, slots: Floats, log: Log, first: int, dropped: Ints,
    lost: int, members: Ints, rows: int,
) -> None:  # fmt: skip
    """Refuse these queue positions wherever they stand; `members` then count without them."""
    for k in range(lost):
        _refuse(env, slots, log, first, queue_id[env.head + dropped[k]])
    for k in range(rows):
        before = 0
        for j in range(lost):
            before += dropped[j] < members[k]
        members[k] -= before
    if lost > 0:
        _leave(env, queue_ms, queue_id, dropped, lost)


@jit
def _next_worker(now_ms: float, active: int, by: int, units: Records, workers: Records) -> int:
    """The free worker to serve next, or -1."""
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
def _soonest(now_ms: float, active: int, units: Records, workers: Records) -> float:
    """When the first worker will be free."""
    soonest = np.inf
    for w in range(active):
        free = max(now_ms, units[w].free_ms)
        if workers[w].lost_from_ms <= free < workers[w].lost_until_ms:
            free = workers[w].lost_until_ms
        soonest = min(soonest, free)
    return soonest


@jit
def _charge(env: Any, service: Any, unit: Any, used_ms: Floats, plan: int) -> float:
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
def _hidden(env: Any, service: Any, factor: Floats, drift: Floats) -> float:
    """What multiplies the cost of the batch that starts now, unknown to any table."""
    hidden = factor[env.batches % factor.shape[0]]
    knots = drift.shape[0]
    if knots > 1:
        at = env.now_ms / service.drift_every_ms
        k = int(at)
        hidden *= drift[k % knots] * (1.0 - (at - k)) + drift[(k + 1) % knots] * (at - k)
    return float(hidden)


@jit
def _account(
    env: Any, slots: Floats, queue_ms: Floats, members: Ints, rows: int, finish_ms: float,
    slo_ms: float, worth: float, ratio: float, tokens: float, computed: float,
) -> int:  # fmt: skip
    """Count a batch in the slot in which it ends, and in the episode's totals; those in time."""
    now_slot = int(env.now_ms / SLOT_MS)
    slot = slots[int(min(finish_ms / SLOT_MS, now_slot + SLOTS - WINDOW - 3)) % SLOTS]
    met = 0
    scale = BINS_PER_SLO / slo_ms
    for k in range(rows):
        latency = finish_ms - queue_ms[env.head + members[k]]
        met += latency <= slo_ms
        slot[LATENCY + int(min(BINS - 1.0, latency * scale))] += 1.0
    slot[ENDED] += rows
    slot[MET] += met
    slot[WORTH] += met * worth
    slot[RAN] += 1.0
    slot[RATIOS] += ratio
    slot[WORST] = max(slot[WORST], ratio)
    slot[TOKENS] += tokens
    slot[COMPUTED] += computed
    env.answered += rows
    env.met += met
    env.worth += met * worth
    env.tokens += tokens
    env.computed += computed
    return met


@jit
def _note(
    env: Any, queue_id: Ints, members: Ints, rows: int, log: Log, first: int, plan: int,
    finish_ms: float, answered_ms: float, expected_ms: float, tokens: float, cell: int, worker: int,
) -> None:  # fmt: skip
    """Write a batch and its requests into the log."""
    for k in range(rows):
        i = queue_id[env.head + members[k]] - first
        log.outcome[i] = SERVED
        log.end_ms[i] = answered_ms
        log.ran[i] = plan
    row = log.batch[env.batches]
    row.start_ms, row.finish_ms = env.now_ms, finish_ms
    row.expected_ms, row.tokens = expected_ms, tokens
    row.plan, row.rows, row.cell, row.worker = plan, rows, cell, worker


@jit
def _decide_any(
    env: Any, pace: float, slo_ms: float, workers: float, rate: float, queue_ms: Floats,
    queue_id: Ints, cells: NDArray[np.int32], lengths: Floats, params: Floats, fastest: Floats,
    plans: Ints, unit: Floats, good: Ints, members: Ints, dropped: Ints,
) -> tuple[int, int, int, float]:  # fmt: skip
    """The general rule. For a worker at another pace the same question is asked with time
    measured in that worker's own milliseconds."""
    arrived = queue_ms[env.head : env.tail] / pace
    n = arrived.shape[0]
    if pace != 1.0 and params[WAIT_MS] > 0.0:
        params = params.copy()
        params[WAIT_MS] /= pace
    cell = np.empty(n, np.int64)
    for k in range(n):
        cell[k] = cells[queue_id[env.head + k]] if cells.shape[0] > 1 else cells[0]
    plan, taken, lost, wake_ms = decide_prepared(
        env.now_ms / pace, arrived + slo_ms / pace, arrived, cell, np.ones(n, np.int64),
        np.zeros(n, np.int64), np.ones(n, np.bool_), lengths, workers, rate * pace, params,
        fastest, plans, unit, good, members, dropped,
    )  # fmt: skip
    return plan, taken, lost, wake_ms * pace


@jit
def _clear_slots(env: Any, slots: Floats) -> None:
    """Make room in the ring: what left the window becomes the future."""
    now_slot = int(env.now_ms / SLOT_MS)
    while env.slot < now_slot:
        env.slot += 1
        if env.slot > WINDOW + 1:
            slots[(env.slot - WINDOW - 2) % SLOTS] = 0.0


@jit
def _uniform(bank: Bank, preset: int, kind: int) -> Tables:
    """The tables of one kind of worker under one setting, were all requests equal."""
    return Tables(
        borrowed(bank.fastest[preset, kind, :, :, 0]), borrowed(bank.plan[preset, kind, :, :, 0]),
        borrowed(bank.unit[preset, kind, :, 0]), borrowed(bank.good[preset, kind, :, 0]),
        borrowed(bank.top[preset, kind]), borrowed(bank.efficiency[preset, kind]),
    )  # fmt: skip


@jit
def advance(bank: Bank, state: State, log: Log, e: int, until_ms: float) -> None:
    """Play environment `e` from its clock to `until_ms` under the preset in force."""
    env = state.env[e]
    service = bank.service[env.service]
    workers, units = borrowed(bank.worker[env.service]), borrowed(state.unit[e])
    factor, drift = borrowed(bank.factor[env.service]), borrowed(bank.drift[env.service])
    used_ms, slots = borrowed(state.used_ms[e]), borrowed(state.slots[e])
    memo, members = borrowed(state.memo[e]), borrowed(state.members[e])
    queue_ms, queue_id = borrowed(state.queue_ms[e]), borrowed(state.queue_id[e])
    at_ms, cells, length = borrowed(bank.at_ms), borrowed(bank.cell), borrowed(bank.length)
    lengths, accuracy = borrowed(bank.lengths), borrowed(bank.accuracy)
    believed, true = borrowed(bank.believed), borrowed(bank.true)
    params, kind = borrowed(bank.params[env.preset]), bank.kind[env.preset]
    fastest, plans = borrowed(bank.fastest[env.preset]), borrowed(bank.plan[env.preset])
    work, good = borrowed(bank.unit[env.preset]), borrowed(bank.good[env.preset])
    tiers, short = borrowed(bank.tiers[env.preset]), borrowed(bank.short[env.preset])
    log = Log(borrowed(log.end_ms), borrowed(log.outcome), borrowed(log.ran), borrowed(log.batch))
    first, slo_ms = bank.first[env.trace], service.slo_ms
    logged, alone = log.end_ms.shape[0] > 0, lengths.shape[0] == 1
    at_hand, tables = 0, _uniform(bank, env.preset, 0)
    while True:
        _clear_slots(env, slots)
        while not _admit(env, at_ms, queue_ms, queue_id, env.now_ms):
            _make_room(env, queue_ms, queue_id, slots, log, first)
        w = _next_worker(env.now_ms, env.active, service.placement, units, workers)
        if env.tail > env.head and w >= 0 and env.now_ms >= env.hold_ms:
            unit, d = units[w], workers[w].kind
            if unit.ratio > 0.0:  # the batch it ran is over: learn from it
                unit.correction += service.learning * (unit.ratio - unit.correction)
                unit.ratio = 0.0
            pace = workers[w].slower * unit.correction
            alike = workers[env.active - 1].abilities / workers[w].ability
            rate = env.rate * _fade(env.now_ms - env.rate_at_ms)
            if kind == RULE and not short[d]:
                t = tiers[d] + 1
                dropped = np.empty(env.tail - env.head, np.int64)
                plan, rows, lost, wake_ms = _decide_any(
                    env, pace, slo_ms, alike, rate, queue_ms, queue_id, cells, lengths, params,
                    fastest[d, :t], plans[d, :t], work[d, :t], good[d, :t], members, dropped,
                )  # fmt: skip
                _refuse_some(
                    env, queue_ms, queue_id, slots, log, first, dropped, lost, members, rows
                )
            else:
                if kind == RULE:
                    if d != at_hand:
                        at_hand, tables = d, _uniform(bank, env.preset, d)
                    plan, rows, lost, wake_ms = decide_uniform(
                        env.now_ms, queue_ms, env.head, env.tail, slo_ms, alike, rate, params,
                        tables, tiers[d], pace, members,
                    )  # fmt: skip
                else:
                    plan, rows, lost, wake_ms = dispatch(
                        kind, env.now_ms, queue_ms[env.head : env.tail], slo_ms, alike, rate,
                        believed[d, :, :, 0], pace, accuracy, params, memo,
                    )  # fmt: skip
                    for k in range(rows):
                        members[k] = lost + k
                for k in range(lost):
                    _refuse(env, slots, log, first, queue_id[env.head + k])
                for k in range(rows):
                    members[k] -= lost
                env.head += lost
            # Never to now: rounding in a worker's own milliseconds must not stop the clock.
            env.hold_ms = wake_ms if wake_ms > env.now_ms else env.now_ms + 1e-6
            if rows > 0:
                env.hold_ms = -np.inf
                cell, tokens = 0, float(rows * length[0])
                if length.shape[0] > 1:
                    tokens = 0.0
                    for k in range(rows):
                        i = queue_id[env.head + members[k]]
                        tokens += length[i]
                        if not alone:
                            cell = max(cell, cells[i])
                elif not alone:
                    cell = int(cells[0])
                took = true[d, plan, rows - 1, cell] * workers[w].slower
                took = took * _hidden(env, service, factor, drift) + service.overhead_ms
                took += workers[w].link_ms
                expected = believed[d, plan, rows - 1, cell] * pace
                ratio = took / expected if 0.0 < expected < np.inf else 1.0
                took_all = took + _charge(env, service, unit, used_ms[w], plan)
                finish = env.now_ms + took_all
                if env.now_ms < workers[w].lost_from_ms < finish:
                    finish = workers[w].lost_until_ms + took_all
                answered = finish + service.delay_ms
                met = _account(
                    env, slots, queue_ms, members, rows, answered, slo_ms, accuracy[plan], ratio,
                    tokens, rows * lengths[cell],
                )  # fmt: skip
                if logged:
                    _note(
                        env, queue_id, members, rows, log, first, plan, finish, answered,
                        expected, tokens, cell, w,
                    )  # fmt: skip
                if kind != RULE:
                    waited = env.now_ms - queue_ms[env.head + members[0]]
                    learn(kind, params, members.shape[0], ratio, met == rows, waited, memo)
                env.batches += 1
                unit.free_ms = finish
                unit.ratio = ratio * unit.correction
                unit.busy_ms += took_all
                _leave(env, queue_ms, queue_id, members, rows)
            if env.head == env.tail or (env.head > NEAR and 2 * env.head >= env.tail):
                _to_front(env, queue_ms, queue_id)
            if rows + lost > 0:
                continue
        following = np.inf
        if env.next < env.last:
            following = (at_ms[env.next] - env.origin_ms) * env.stretch
        if env.tail > env.head and w >= 0:
            following = min(following, max(env.hold_ms, env.now_ms))
        elif w < 0:
            soonest = _soonest(env.now_ms, env.active, units, workers)
            following = soonest if env.tail > env.head else max(following, soonest)
        if following > until_ms or following == np.inf:
            break
        env.now_ms = max(env.now_ms, following)
    if until_ms < np.inf:
        env.now_ms = until_ms
        _clear_slots(env, slots)
        while not _admit(env, at_ms, queue_ms, queue_id, until_ms):
            _make_room(env, queue_ms, queue_id, slots, log, first)
    else:  # played to the very end the clock stops with the last answer
        for v in range(service.workers):  # those no longer employed finish what they run
            env.now_ms = max(env.now_ms, units[v].free_ms)
