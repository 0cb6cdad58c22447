"""Many environments at once, compiled: draw, observe, step. No Python per environment."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies._jit import borrowed, jit, jit_inlined, jit_long
from policies.observation import SIGNALS, encode
from sims.engine.advance import advance
from sims.engine.episodes import Draws, draw
from sims.engine.observe import fill_signals
from sims.engine.state import EngineInputs, Log, State

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Array = NDArray[np.float32]


class ObservationBounds(NamedTuple):
    """Least and most of every entry of an observation, [D]."""

    low: Array
    high: Array


class Tick(NamedTuple):
    """How long a tick is, and whether it earns its advantage over preset 0 or its utility per
    arrival, times `scale`."""

    ms: float
    against_default: bool
    scale: float


class Environments(NamedTuple):
    """E environments of a gym, and what all of them go by. `scratch`: two rows for each share."""

    inputs: EngineInputs
    state: State
    scratch: State
    log: Log
    draws: Draws
    bounds: ObservationBounds
    tick: Tick


class Share(NamedTuple):
    """Those of the environments that one thread steps: first..end - 1, and its scratch row."""

    first: int
    end: int
    scratch: int


class Stepped(NamedTuple):
    """What a step of E environments gave.

    `seen` float32 [E, D]: after it, of the next episode where `done`. `reward` [E]. `last_seen`
    [E, D] and `totals` [E, 4] (requests offered, answered, answered in time, utility of those): of
    the episodes that ended.
    """

    seen: Array
    reward: Floats
    done: NDArray[np.bool_]
    last_seen: Array
    totals: Floats


@jit
def copy_state(source: State, e: int, target: State, f: int) -> None:
    """Make row f of `target` the moment that row e of `source` is in (the window's slots apart)."""
    target.env[f] = source.env[e]
    for w in range(source.unit.shape[1]):
        target.unit[f, w] = source.unit[e, w]
    target.used_ms[f] = source.used_ms[e]
    target.memo[f] = source.memo[e]
    head, tail = source.env[e].head, source.env[e].tail
    target.queue_ms[f, head:tail] = source.queue_ms[e, head:tail]
    target.queue_id[f, head:tail] = source.queue_id[e, head:tail]


@jit
def observe_row(
    inputs: EngineInputs, state: State, e: int, bounds: ObservationBounds, seen: Array
) -> None:
    """The policy's view of environment e, within the bounds of the observation space."""
    raw = np.empty(SIGNALS)
    fill_signals(inputs, state, e, raw)
    encode(raw, state.env[e].preset, seen)
    for k in range(seen.shape[0]):
        seen[k] = min(bounds.high[k], max(bounds.low[k], seen[k]))


@jit
def advantage(
    inputs: EngineInputs, state: State, scratch: State, log: Log, e: int, f: int, action: int,
    tick_ms: float,
) -> float:  # fmt: skip
    """Play one tick under `action`; its utility against preset 0 by state reset.

    [action for a tick, preset 0 for a tick] minus [preset 0 for two ticks], from the same state
    and arrivals, over the requests that could have been answered. `scratch`: two rows, f and f + 1.
    """
    env, then, after = state.env[e], scratch.env[f], scratch.env[f + 1]
    if action == 0:
        env.preset = 0
        advance(inputs, state, log, e, env.now_ms + tick_ms)
        return 0.0
    copy_state(state, e, scratch, f)
    waiting, arrived = env.tail - env.head, env.next
    end_ms = env.now_ms + 2 * tick_ms
    env.preset = action
    advance(inputs, state, log, e, env.now_ms + tick_ms)
    copy_state(state, e, scratch, f + 1)
    then.preset, after.preset = 0, 0
    advance(inputs, scratch, log, f, end_ms)
    advance(inputs, scratch, log, f + 1, end_ms)
    return float((after.utility_sum - then.utility_sum) / max(1, waiting + after.next - arrived))


@jit_long
def step(environments: Environments, share: Share, actions: Ints, stepped: Stepped) -> None:
    """One tick of a share under the presets `actions` [E]; who is at its end begins anew."""
    environments, stepped = borrowed(environments), borrowed(stepped)
    inputs, state, bounds = environments.inputs, environments.state, environments.bounds
    for e in range(share.first, share.end):
        env = state.env[e]
        stepped.reward[e] = _earn(environments, e, share.scratch, actions[e])
        observe_row(inputs, state, e, bounds, stepped.seen[e])
        stepped.done[e] = env.now_ms >= env.end_ms - 1e-6
        if stepped.done[e]:
            stepped.last_seen[e] = stepped.seen[e]
            totals = stepped.totals[e]
            totals[0], totals[1] = env.next - env.start, env.answered
            totals[2], totals[3] = env.met, env.utility_sum
            draw(inputs, state, e, environments.draws)
            observe_row(inputs, state, e, bounds, stepped.seen[e])


@jit_inlined
def _earn(environments: Environments, e: int, f: int, action: int) -> float:
    """Play one tick of environment e under `action`; its reward."""
    inputs, state, tick = environments.inputs, environments.state, environments.tick
    if tick.against_default:
        scratch, log = environments.scratch, environments.log
        return tick.scale * advantage(inputs, state, scratch, log, e, f, action, tick.ms)
    env = state.env[e]
    utility_sum, arrived = env.utility_sum, env.next
    env.preset = action
    advance(inputs, state, environments.log, e, env.now_ms + tick.ms)
    return float(tick.scale * ((env.utility_sum - utility_sum) / max(1, env.next - arrived)))


@jit_long
def reset(environments: Environments, share: Share, seen: Array) -> None:
    """Draw every environment of the share anew."""
    environments, seen = borrowed(environments), borrowed(seen)
    inputs, state = environments.inputs, environments.state
    for e in range(share.first, share.end):
        draw(inputs, state, e, environments.draws)
        observe_row(inputs, state, e, environments.bounds, seen[e])


@jit_long
def play(
    inputs: EngineInputs, state: State, log: Log, low_e: int, high_e: int, until_ms: float
) -> None:
    """Play a range of environments on to `until_ms` under their presets."""
    inputs, state, log = borrowed(inputs), borrowed(state), borrowed(log)
    for e in range(low_e, high_e):
        advance(inputs, state, log, e, until_ms)


@jit_long
def observe_all(
    inputs: EngineInputs,
    state: State,
    low_e: int,
    high_e: int,
    bounds: ObservationBounds,
    seen: Array,
) -> None:
    """The policy's view of a range of environments."""
    inputs, state = borrowed(inputs), borrowed(state)
    for e in range(low_e, high_e):
        observe_row(inputs, state, e, bounds, seen[e])
