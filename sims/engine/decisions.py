"""Decisions of one simulated service, compiled: the rule, its exact short form, or a rival.

    worker ─► decide ┬ `policies.compiled.decide_prepared`   any queue
                     ├ `policies.uniform.decide_uniform`     where all requests are equal
                     └ `policies.disciplines.dispatch`       the published rivals

Part of the engine (`sims.engine.advance`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from policies._jit import jit_inlined
from policies.compiled import decide_prepared
from policies.disciplines import RULE, dispatch
from policies.params import WAIT_MS
from policies.uniform import Tables, decide_uniform
from sims.engine.queue import fade, refuse_first, refuse_some
from sims.engine.scene import Scene, Setting


class Asking(NamedTuple):
    """Who asks: what its costs count (`pace`), how many workers like it there are, and the recent
    arrivals per ms."""

    pace: float
    workers: float
    rate_per_ms: float


@jit_inlined
def decide(scene: Scene, w: int) -> tuple[int, int, int, float]:
    """Ask for worker `w`, and refuse who is lost: (plan, members, refused, wake_ms).

    Fills `scene.members` with queue positions, counted from the head without those refused.
    """
    setting, asking = scene.setting, _asking(scene, w)
    if setting.kind == RULE and not setting.short[scene.crew.workers[w].kind]:
        return _by_rule(scene, w, asking)
    if setting.kind == RULE:
        plan, rows, lost, wake_ms = _by_uniform_rule(scene, w, asking)
    else:
        plan, rows, lost, wake_ms = _by_rival(scene, w, asking)
    if lost > 0:
        refuse_first(scene.env, scene.queue, scene.books, lost)
    return plan, rows, lost, wake_ms


@jit_inlined
def _asking(scene: Scene, w: int) -> Asking:
    env, workers = scene.env, scene.crew.workers
    return Asking(
        workers[w].slower * scene.crew.units[w].correction,
        workers[env.active - 1].abilities / workers[w].ability,
        env.rate * fade(env.now_ms - env.rate_at_ms),
    )


@jit_inlined
def _by_rule(scene: Scene, w: int, asking: Asking) -> tuple[int, int, int, float]:
    """The general rule. For a worker at another pace the same question is asked with time
    measured in that worker's own milliseconds."""
    env, queue, setting, pace = scene.env, scene.queue, scene.setting, asking.pace
    d = scene.crew.workers[w].kind
    t = setting.tiers[d] + 1
    arrived = queue.at_ms[env.head : env.tail] / pace
    n = arrived.shape[0]
    params = setting.params
    if pace != 1.0 and params[WAIT_MS] > 0.0:
        params = params.copy()
        params[WAIT_MS] /= pace
    cells, cell = scene.traffic.cell, np.empty(n, np.int64)
    for k in range(n):
        cell[k] = cells[queue.id[env.head + k]] if cells.shape[0] > 1 else cells[0]
    dropped = np.empty(n, np.int64)
    plan, rows, lost, wake_ms = decide_prepared(
        env.now_ms / pace, arrived + scene.service.slo_ms / pace, arrived, cell,
        np.ones(n, np.int64), np.zeros(n, np.int64), np.ones(n, np.bool_), scene.traffic.lengths,
        asking.workers, asking.rate_per_ms * pace, params, setting.fastest[d, :t],
        setting.plan[d, :t], setting.unit[d, :t], setting.good[d, :t], scene.members, dropped,
    )  # fmt: skip
    refuse_some(env, queue, scene.books, dropped, lost, scene.members, rows)
    return plan, rows, lost, wake_ms * pace


@jit_inlined
def _by_uniform_rule(scene: Scene, w: int, asking: Asking) -> tuple[int, int, int, float]:
    env, d = scene.env, scene.crew.workers[w].kind
    plan, rows, lost, wake_ms = decide_uniform(
        env.now_ms, scene.queue.at_ms, env.head, env.tail, scene.service.slo_ms, asking.workers,
        asking.rate_per_ms, scene.setting.params, _tables(scene.setting, d),
        scene.setting.tiers[d], asking.pace, scene.members,
    )  # fmt: skip
    for k in range(rows):
        scene.members[k] -= lost
    return plan, rows, lost, wake_ms


@jit_inlined
def _tables(setting: Setting, d: int) -> Tables:
    """The tables of one kind of device, were all requests equal."""
    return Tables(
        setting.fastest[d, :, :, 0], setting.plan[d, :, :, 0], setting.unit[d, :, 0],
        setting.good[d, :, 0], setting.top[d], setting.efficiency[d],
    )  # fmt: skip


@jit_inlined
def _by_rival(scene: Scene, w: int, asking: Asking) -> tuple[int, int, int, float]:
    env, costs = scene.env, scene.costs
    plan, rows, lost, wake_ms = dispatch(
        scene.setting.kind, env.now_ms, scene.queue.at_ms[env.head : env.tail],
        scene.service.slo_ms, w, asking.workers,
        costs.believed[scene.crew.workers[w].kind, :, :, 0], asking.pace, costs.accuracy,
        scene.setting.params, scene.memo,
    )  # fmt: skip
    for k in range(rows):
        scene.members[k] = k
    return plan, rows, lost, wake_ms
