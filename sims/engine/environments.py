"""Many environments at once, compiled: draw, look, step. No Python per environment."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies._jit import borrowed, jit, jit_long
from policies.observation import SEEN, encode
from sims.engine.advance import advance
from sims.engine.observe import look
from sims.engine.state import Bank, Log, State

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Array = NDArray[np.float32]


@jit
def _random(env: Any) -> float:
    """Uniform in [0, 1): splitmix64 (Steele, Lea & Flood, OOPSLA 2014)."""
    env.random += np.uint64(0x9E3779B97F4A7C15)
    z = env.random
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) * 2.0**-53


@jit
def begin(
    bank: Bank, state: State, e: int, service: int, trace: int, start: int, last: int,
    origin_ms: float, stretch: float, end_ms: float,
) -> None:  # fmt: skip
    """Put environment e before an empty service, arrivals start..last - 1 of a trace ahead."""
    env = state.env[e]
    env.now_ms, env.rate, env.rate_at_ms, env.hold_ms = 0.0, 0.0, 0.0, -np.inf
    env.origin_ms, env.stretch, env.end_ms = origin_ms, stretch, end_ms
    first = bank.first[trace]
    env.start, env.next, env.last = first + start, first + start, first + last
    env.head, env.tail, env.batches, env.slot = 0, 0, 0, 0
    env.service, env.trace, env.preset = service, trace, 0
    env.active, env.switches, env.loads = bank.service[service].workers, 0, 0
    env.answered, env.met, env.refused, env.worth = 0.0, 0.0, 0.0, 0.0
    env.tokens, env.computed = 0.0, 0.0
    units = state.unit[e]
    for w in range(units.shape[0]):
        units[w].free_ms, units[w].correction, units[w].ratio = 0.0, 1.0, 0.0
        units[w].busy_ms, units[w].running = 0.0, -1
    state.used_ms[e] = -np.inf
    state.slots[e] = 0.0
    state.memo[e] = 0.0


@jit
def draw(
    bank: Bank, state: State, e: int, capacity_per_s: Floats, load: Floats, seconds: float
) -> None:
    """Begin an episode: any service, any piece of any trace, stretched to any load within `load`.

    `capacity_per_s` [S]: what each service could carry at best.
    """
    env = state.env[e]
    service = int(_random(env) * bank.service.shape[0])
    trace = int(_random(env) * bank.size.shape[0])
    wanted = load[0] + (load[1] - load[0]) * _random(env)
    first, size = bank.first[trace], bank.size[trace]
    at_ms = bank.at_ms[first : first + size]
    natural_ms = at_ms[size - 1] - at_ms[0]
    natural_per_s = 1e3 * (size - 1) / natural_ms if natural_ms > 0.0 else 1.0
    stretch = natural_per_s / max(wanted * capacity_per_s[service], 1e-3)
    spare_ms = max(0.0, natural_ms - seconds * 1e3 / stretch)
    from_ms = at_ms[0] + _random(env) * spare_ms
    start = np.searchsorted(at_ms, from_ms)
    last = max(np.searchsorted(at_ms, from_ms + seconds * 1e3 / stretch), start + 1)
    begin(bank, state, e, service, trace, start, last, from_ms, stretch, seconds * 1e3)


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
def observe_row(bank: Bank, state: State, e: int, low: Array, high: Array, seen: Array) -> None:
    """The policy's view of environment e, within the bounds of the observation space."""
    raw = np.empty(SEEN)
    look(bank, state, e, raw)
    encode(raw, state.env[e].preset, seen)
    for k in range(seen.shape[0]):
        seen[k] = min(high[k], max(low[k], seen[k]))


@jit
def advantage(
    bank: Bank, state: State, scratch: State, log: Log, e: int, f: int, action: int, tick_ms: float
) -> float:
    """Play one tick under `action`; its worth against preset 0 by state reset.

    [action for a tick, preset 0 for a tick] minus [preset 0 for two ticks], from the same state
    and arrivals, over the requests that could have been answered. `scratch`: two rows, f and f + 1.
    """
    env, then, after = state.env[e], scratch.env[f], scratch.env[f + 1]
    if action == 0:
        env.preset = 0
        advance(bank, state, log, e, env.now_ms + tick_ms)
        return 0.0
    copy_state(state, e, scratch, f)
    waiting, arrived = env.tail - env.head, env.next
    end_ms = env.now_ms + 2 * tick_ms
    env.preset = action
    advance(bank, state, log, e, env.now_ms + tick_ms)
    copy_state(state, e, scratch, f + 1)
    then.preset, after.preset = 0, 0
    advance(bank, scratch, log, f, end_ms)
    advance(bank, scratch, log, f + 1, end_ms)
    return float((after.worth - then.worth) / max(1, waiting + after.next - arrived))


@jit_long
def step(
    bank: Bank, state: State, scratch: State, nothing: Log, low_e: int, high_e: int, f: int,
    actions: Ints, against_default: bool, scale: float, tick_ms: float, capacity_per_s: Floats,
    load: Floats, seconds: float, low: Array, high: Array, seen: Array, rewards: Floats,
    done: NDArray[np.bool_], last_seen: Array, told: Floats,
) -> None:  # fmt: skip
    """One tick of environments low_e..high_e - 1; those at their end begin another episode.

    `rewards`: against preset 0 by state reset, or the worth of the tick over its arrivals. Where
    `done`, `last_seen` holds the episode's last observation and `told` [E, 4] its requests
    offered, answered, answered in time, and the worth of those.
    """
    bank, state, scratch = borrowed(bank), borrowed(state), borrowed(scratch)
    nothing, seen, last_seen = borrowed(nothing), borrowed(seen), borrowed(last_seen)
    low, high = borrowed(low), borrowed(high)
    for e in range(low_e, high_e):
        env = state.env[e]
        if against_default:
            gained = advantage(bank, state, scratch, nothing, e, f, actions[e], tick_ms)
        else:
            worth, arrived = env.worth, env.next
            env.preset = actions[e]
            advance(bank, state, nothing, e, env.now_ms + tick_ms)
            gained = (env.worth - worth) / max(1, env.next - arrived)
        rewards[e] = scale * gained
        observe_row(bank, state, e, low, high, seen[e])
        done[e] = env.now_ms >= env.end_ms - 1e-6
        if done[e]:
            last_seen[e] = seen[e]
            told[e, 0], told[e, 1] = env.next - env.start, env.answered
            told[e, 2], told[e, 3] = env.met, env.worth
            draw(bank, state, e, capacity_per_s, load, seconds)
            observe_row(bank, state, e, low, high, seen[e])


@jit_long
def reset(
    bank: Bank, state: State, low_e: int, high_e: int, capacity_per_s: Floats, load: Floats,
    seconds: float, low: Array, high: Array, seen: Array,
) -> None:  # fmt: skip
    """Draw every environment of the range anew."""
    bank, state, seen = borrowed(bank), borrowed(state), borrowed(seen)
    for e in range(low_e, high_e):
        draw(bank, state, e, capacity_per_s, load, seconds)
        observe_row(bank, state, e, low, high, seen[e])


@jit_long
def play(bank: Bank, state: State, log: Log, low_e: int, high_e: int, until_ms: float) -> None:
    """Play a range of environments on to `until_ms` under their presets."""
    bank, state, log = borrowed(bank), borrowed(state), borrowed(log)
    for e in range(low_e, high_e):
        advance(bank, state, log, e, until_ms)


@jit_long
def observe_all(
    bank: Bank, state: State, low_e: int, high_e: int, low: Array, high: Array, seen: Array
) -> None:
    """The policy's view of a range of environments."""
    bank, state = borrowed(bank), borrowed(state)
    for e in range(low_e, high_e):
        observe_row(bank, state, e, low, high, seen[e])
