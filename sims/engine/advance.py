"""The event-exact engine: queue, workers and clock of one simulated service, compiled.

It decides with the live dispatcher's own rule (`policies.compiled.decide_prepared`; its exact
short form `policies.uniform` where all requests are equal) at every instant at which the live one
would: when a worker is free and something waits, on an arrival, at a hold's end. One call plays
one environment, row `e` of a `State`; `sims.engine.environments` plays many.

    arrivals ─► queue (`_waiting`) ─► rule ─► worker (`_staff`) ─► slots, totals, log (`_account`)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies._jit import borrowed, jit
from policies.compiled import decide_prepared
from policies.disciplines import PROTEUS, RULE, dispatch, learn
from policies.params import WAIT_MS
from policies.uniform import Tables, decide_uniform
from sims.engine.counters import account, clear_slots, note
from sims.engine.proteus import gives_way
from sims.engine.queue import (
    NEAR,
    admit,
    fade,
    leave,
    make_room,
    refuse,
    refuse_some,
    span,
    to_front,
)
from sims.engine.state import BY_ORDER, Bank, Log, State
from sims.engine.workers import charge, hidden, next_worker, soonest

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


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
    placement = BY_ORDER if kind == PROTEUS else service.placement
    while True:
        clear_slots(env, slots)
        while not admit(env, at_ms, queue_ms, queue_id, env.now_ms):
            make_room(env, queue_ms, queue_id, slots, log, first)
        w = next_worker(env.now_ms, env.active, placement, units, workers)
        if env.tail > env.head and w >= 0 and env.now_ms >= env.hold_ms:
            unit, d = units[w], workers[w].kind
            if unit.ratio > 0.0:  # the batch it ran is over: learn from it
                unit.correction += service.learning * (unit.ratio - unit.correction)
                unit.ratio = 0.0
            pace = workers[w].slower * unit.correction
            alike = workers[env.active - 1].abilities / workers[w].ability
            rate = env.rate * fade(env.now_ms - env.rate_at_ms)
            if kind == RULE and not short[d]:
                t = tiers[d] + 1
                dropped = np.empty(env.tail - env.head, np.int64)
                plan, rows, lost, wake_ms = _decide_any(
                    env, pace, slo_ms, alike, rate, queue_ms, queue_id, cells, lengths, params,
                    fastest[d, :t], plans[d, :t], work[d, :t], good[d, :t], members, dropped,
                )  # fmt: skip
                refuse_some(
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
                    # Another worker's turn comes with the next round: changing `w` here would
                    # cost the rule a tenth of its speed.
                    if kind == PROTEUS and gives_way(
                        w, env, slo_ms, units, workers, believed, accuracy, queue_ms, params, memo
                    ):
                        continue
                    plan, rows, lost, wake_ms = dispatch(
                        kind, env.now_ms, queue_ms[env.head : env.tail], slo_ms, w, alike,
                        believed[d, :, :, 0], pace, accuracy, params, memo,
                    )  # fmt: skip
                    for k in range(rows):
                        members[k] = lost + k
                for k in range(lost):
                    refuse(env, slots, log, first, queue_id[env.head + k])
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
                took = took * hidden(env, service, factor, drift) + service.overhead_ms
                took += workers[w].link_ms
                expected = believed[d, plan, rows - 1, cell] * pace
                ratio = took / expected if 0.0 < expected < np.inf else 1.0
                took_all = took + charge(env, service, unit, used_ms[w], plan)
                finish = env.now_ms + took_all
                if env.now_ms < workers[w].lost_from_ms < finish:
                    finish = workers[w].lost_until_ms + took_all
                answered = finish + service.delay_ms
                low, high = span(members, rows)
                met = account(
                    env, slots, queue_ms, members, rows, low, high, answered, slo_ms,
                    accuracy[plan], ratio, tokens, rows * lengths[cell],
                )  # fmt: skip
                if logged:
                    note(
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
                leave(env, queue_ms, queue_id, members, rows, low, high)
            if env.head == env.tail or (env.head > NEAR and 2 * env.head >= env.tail):
                to_front(env, queue_ms, queue_id)
            if rows + lost > 0:
                continue
        following = np.inf
        if env.next < env.last:
            following = (at_ms[env.next] - env.origin_ms) * env.stretch
        if env.tail > env.head and w >= 0:
            following = min(following, max(env.hold_ms, env.now_ms))
        elif w < 0:
            free_at = soonest(env.now_ms, env.active, units, workers)
            following = free_at if env.tail > env.head else max(following, free_at)
        if following > until_ms or following == np.inf:
            break
        env.now_ms = max(env.now_ms, following)
    if until_ms < np.inf:
        env.now_ms = until_ms
        clear_slots(env, slots)
        while not admit(env, at_ms, queue_ms, queue_id, until_ms):
            make_room(env, queue_ms, queue_id, slots, log, first)
    else:  # played to the very end the clock stops with the last answer
        for v in range(service.workers):  # those no longer employed finish what they run
            env.now_ms = max(env.now_ms, units[v].free_ms)
