"""Decisions of one simulated service, compiled: the rule, its exact short form, or a rival.

    worker ─► decide ┬ `policies.compiled.decide_prepared`   any queue
                     ├ `policies.uniform.decide_uniform`     where all requests are equal
                     └ `policies.disciplines.dispatch`       the published rivals

Part of the engine (`sims.engine.advance`).
"""

from __future__ import annotations

import numpy as np

from policies._asking import REQUEST, Asker, Line, Prepared, Requests
from policies._jit import jit_inlined
from policies.compiled import decide_prepared
from policies.disciplines import RULE, dispatch
from policies.params import WAIT_MS
from policies.uniform import UniformTables, decide_uniform
from sims.engine.queue import fade, refuse_first, refuse_some
from sims.engine.scene import Dispatching, Scene


@jit_inlined
def decide(scene: Scene, w: int) -> tuple[int, int, int, float]:
    """Ask for worker `w`, and refuse who is lost: (plan, members, refused, wake_ms).

    Fills `scene.members` with queue positions, counted from the head without those refused.
    """
    setting, asker = scene.setting, _asker(scene, w)
    if setting.kind == RULE and not setting.short[scene.crew.workers[w].kind]:
        return _by_rule(scene, w, asker)
    if setting.kind == RULE:
        plan, rows, lost, wake_ms = _by_uniform_rule(scene, w, asker)
    else:
        plan, rows, lost, wake_ms = _by_rival(scene, w, asker)
    if lost > 0:
        refuse_first(scene.env, scene.queue, scene.books, lost)
    return plan, rows, lost, wake_ms


@jit_inlined
def _asker(scene: Scene, w: int) -> Asker:
    env, workers = scene.env, scene.crew.workers
    return Asker(
        w,
        workers[env.active - 1].abilities / workers[w].ability,
        workers[w].slower * scene.crew.units[w].correction,
        env.rate * fade(env.now_ms - env.rate_at_ms),
    )


@jit_inlined
def _by_rule(scene: Scene, w: int, asker: Asker) -> tuple[int, int, int, float]:
    """The general rule. For a worker at another pace the same question is asked with time
    measured in that worker's own milliseconds."""
    env, queue, setting, pace = scene.env, scene.queue, scene.setting, asker.pace
    d = scene.crew.workers[w].kind
    t = setting.tiers[d] + 1
    prepared = Prepared(
        setting.fastest[d, :t], setting.plan[d, :t], setting.ms_per_row[d, :t],
        setting.efficient_rows[d, :t], scene.traffic.lengths,
    )  # fmt: skip
    params = setting.params
    if pace != 1.0 and params[WAIT_MS] > 0.0:
        params = params.copy()
        params[WAIT_MS] /= pace
    requests = _requests(scene, pace)
    dropped = np.empty(requests.shape[0], np.int64)
    plan, rows, lost, wake_ms = decide_prepared(
        env.now_ms / pace, requests, prepared, asker.workers, asker.rate_per_ms * pace, params,
        scene.members, dropped,
    )  # fmt: skip
    refuse_some(env, queue, scene.books, dropped, lost, scene.members, rows)
    return plan, rows, lost, wake_ms * pace


@jit_inlined
def _requests(scene: Scene, pace: float) -> Requests:
    """The queue as the rule reads it, in milliseconds of a worker at that pace."""
    env, buckets = scene.env, scene.traffic.bucket
    requests = np.empty(env.tail - env.head, REQUEST)
    within_ms = scene.service.slo_ms / pace
    for k in range(requests.shape[0]):
        request = requests[k]
        request.arrived_ms = scene.queue.at_ms[env.head + k] / pace
        request.deadline_ms = request.arrived_ms + within_ms
        request.bucket = (
            buckets[scene.queue.id[env.head + k]] if buckets.shape[0] > 1 else buckets[0]
        )
        request.rows, request.group, request.refusable = 1, 0, True
    return requests


@jit_inlined
def _line(scene: Scene) -> Line:
    env = scene.env
    return Line(scene.queue.at_ms, env.head, env.tail, scene.service.slo_ms)


@jit_inlined
def _by_uniform_rule(scene: Scene, w: int, asker: Asker) -> tuple[int, int, int, float]:
    tables = _tables(scene.setting, scene.crew.workers[w].kind)
    plan, rows, lost, wake_ms = decide_uniform(
        scene.env.now_ms, _line(scene), asker, scene.setting.params, tables, scene.members
    )
    for k in range(rows):
        scene.members[k] -= lost
    return plan, rows, lost, wake_ms


@jit_inlined
def _tables(setting: Dispatching, d: int) -> UniformTables:
    """The tables of one kind of device, were all requests equal."""
    return UniformTables(
        setting.fastest[d, :, :, 0], setting.plan[d, :, :, 0], setting.ms_per_row[d, :, 0],
        setting.efficient_rows[d, :, 0], setting.top[d], setting.efficiency[d], setting.tiers[d],
    )  # fmt: skip


@jit_inlined
def _by_rival(scene: Scene, w: int, asker: Asker) -> tuple[int, int, int, float]:
    costs, setting = scene.costs, scene.setting
    table = costs.believed[scene.crew.workers[w].kind, :, :, 0]
    plan, rows, lost, wake_ms = dispatch(
        setting.kind, scene.env.now_ms, _line(scene), asker, table, costs.accuracy,
        setting.params, scene.memo,
    )  # fmt: skip
    for k in range(rows):
        scene.members[k] = k
    return plan, rows, lost, wake_ms
