"""Batches of one simulated service, compiled: what one really costs, and what comes of it.

Part of the engine (`sims.engine.advance`).
"""

from __future__ import annotations

import numpy as np

from policies._jit import jit_inlined
from policies.disciplines import RULE, learn
from sims.engine.counters import StartedBatch, account, note
from sims.engine.queue import leave, span
from sims.engine.scene import Scene
from sims.engine.workers import charge, disturbance


@jit_inlined
def run(scene: Scene, w: int, plan: int, rows: int) -> None:
    """Have worker `w` run the queue positions members[:rows] as one batch on `plan`."""
    env, members, slo_ms = scene.env, scene.members, scene.service.slo_ms
    batch = _batch(scene, w, plan, rows)
    met = account(env, scene.books.slots, scene.queue.at_ms, members, batch, slo_ms)
    if scene.books.log.end_ms.shape[0] > 0:
        note(env, scene.queue.id, members, scene.books.log, scene.books.first, batch)
    if scene.setting.kind != RULE:
        waited_ms = env.now_ms - scene.queue.at_ms[env.head + members[0]]
        learn(
            scene.setting.kind, scene.setting.params, members.shape[0], batch.ratio, met == rows,
            waited_ms, scene.memo,
        )  # fmt: skip
    env.batches += 1
    unit = scene.crew.units[w]
    unit.free_ms = batch.finish_ms
    unit.ratio = batch.ratio * unit.correction
    unit.busy_ms += batch.took_ms
    leave(env, scene.queue, members, rows, batch.low, batch.high)


@jit_inlined
def _batch(scene: Scene, w: int, plan: int, rows: int) -> StartedBatch:
    """What the batch computes, what it was believed to cost, and when it will be over."""
    env, service, costs, truth = scene.env, scene.service, scene.costs, scene.truth
    worker, unit = scene.crew.workers[w], scene.crew.units[w]
    bucket, tokens = _shape(scene, rows)
    pace = worker.slower * unit.correction
    took = truth.cost_ms[worker.kind, plan, rows - 1, bucket] * worker.slower
    took = took * disturbance(env, service, truth.factor, truth.drift) + service.overhead_ms
    took += worker.link_ms
    expected = costs.believed[worker.kind, plan, rows - 1, bucket] * pace
    ratio = took / expected if 0.0 < expected < np.inf else 1.0
    took_all = took + charge(env, service, unit, truth.used_ms[w], plan)
    finish = env.now_ms + took_all
    if env.now_ms < worker.lost_from_ms < finish:  # it runs again afterwards
        finish = worker.lost_until_ms + took_all
    low, high = span(scene.members, rows)
    return StartedBatch(
        w, plan, rows, bucket, low, high, tokens, rows * scene.traffic.lengths[bucket],
        costs.accuracy[plan], expected, took_all, ratio, finish, finish + service.delay_ms,
    )  # fmt: skip


@jit_inlined
def _shape(scene: Scene, rows: int) -> tuple[int, float]:
    """(bucket of the longest member, real positions) of the members."""
    env, length, buckets = scene.env, scene.traffic.length, scene.traffic.bucket
    alone = scene.traffic.lengths.shape[0] == 1
    bucket, tokens = 0, float(rows * length[0])
    if length.shape[0] > 1:
        tokens = 0.0
        for k in range(rows):
            i = scene.queue.id[env.head + scene.members[k]]
            tokens += length[i]
            if not alone:
                bucket = max(bucket, buckets[i])
    elif not alone:
        bucket = int(buckets[0])
    return bucket, tokens
