"""The event-exact engine: queue, workers and clock of one simulated service, compiled.

It decides with the live dispatcher's own rule at every instant at which the live one would: when a
worker is free and something waits, on an arrival, at a hold's end. One call plays one environment,
row `e` of a `State`; `sims.engine.environments` plays many.

    arrivals ─► queue (`queue`) ─► rule (`decisions`) ─► worker (`workers`, `batches`)
                                                              └─► slots, totals, log (`counters`)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from policies._jit import jit, jit_inlined
from policies.disciplines import PROTEUS
from sims.engine.batches import run
from sims.engine.counters import clear_slots
from sims.engine.decisions import decide
from sims.engine.proteus import gives_way
from sims.engine.queue import NEAR, admit, make_room, to_front
from sims.engine.scene import Scene, scene_of
from sims.engine.state import EngineInputs, Log, State
from sims.engine.workers import learn_cost, next_worker, soonest


@jit
def advance(inputs: EngineInputs, state: State, log: Log, e: int, until_ms: float) -> None:
    """Play environment `e` from its clock to `until_ms` under the preset in force."""
    scene = scene_of(inputs, state, log, e)
    while step(scene, until_ms):
        pass
    finish(scene, until_ms)


@jit_inlined
def step(scene: Scene, until_ms: float) -> bool:
    """Let arrivals join, then have a free worker serve or else time go on; False at the end."""
    join(scene)
    w = next_worker(scene.env.now_ms, scene.env.active, scene.crew)
    if is_asked(scene.env, w) and serve(scene, w):
        return True
    return wait(scene, w, until_ms)


@jit_inlined
def join(scene: Scene) -> None:
    """Queue who has arrived by now."""
    clear_slots(scene.env, scene.books.slots)
    while not admit(scene.env, scene.traffic.at_ms, scene.queue, scene.env.now_ms):
        make_room(scene.env, scene.queue, scene.books)


@jit
def is_asked(env: Any, w: int) -> bool:
    """Whether worker `w` (-1: none is free) is to decide now."""
    return bool(env.tail > env.head and w >= 0 and env.now_ms >= env.hold_ms)


@jit_inlined
def serve(scene: Scene, w: int) -> bool:
    """Have worker `w` decide and run what it decides; whether anything changed by that."""
    env = scene.env
    learn_cost(scene.service, scene.crew.units[w])
    if scene.setting.kind == PROTEUS and gives_way(
        w, env, scene.service.slo_ms, scene.crew, scene.costs, scene.queue.at_ms,
        scene.setting.params, scene.memo,
    ):  # fmt: skip
        return True
    plan, rows, lost, wake_ms = decide(scene, w)
    # Never to now: rounding in a worker's own milliseconds must not stop the clock.
    env.hold_ms = wake_ms if wake_ms > env.now_ms else env.now_ms + 1e-6
    if rows > 0:
        env.hold_ms = -np.inf
        run(scene, w, plan, rows)
    if env.head == env.tail or (env.head > NEAR and 2 * env.head >= env.tail):
        to_front(env, scene.queue)
    return bool(rows + lost > 0)


@jit_inlined
def wait(scene: Scene, w: int, until_ms: float) -> bool:
    """Move the clock to the next event; False where none comes by `until_ms`."""
    env = scene.env
    following = np.inf
    if env.next < env.last:
        following = (scene.traffic.at_ms[env.next] - env.origin_ms) * env.stretch
    if env.tail > env.head and w >= 0:
        following = min(following, max(env.hold_ms, env.now_ms))
    elif w < 0:
        free_at = soonest(env.now_ms, env.active, scene.crew)
        following = free_at if env.tail > env.head else max(following, free_at)
    if following > until_ms or following == np.inf:
        return False
    env.now_ms = max(env.now_ms, following)
    return True


@jit_inlined
def finish(scene: Scene, until_ms: float) -> None:
    """Set the clock to `until_ms`, or to the last answer where played to the very end."""
    env = scene.env
    if until_ms < np.inf:
        env.now_ms = until_ms
        join(scene)
        return
    for v in range(scene.service.workers):  # those no longer employed finish what they run
        env.now_ms = max(env.now_ms, scene.crew.units[v].free_ms)
