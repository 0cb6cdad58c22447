"""Episodes of one simulated service, compiled: drawn, and begun."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies._jit import jit
from sims.engine.state import EngineInputs, State

Floats = NDArray[np.float64]


class Piece(NamedTuple):
    """Which service faces which arrivals: `start`..`last` - 1 of a trace, arrival i at
    (at_ms[i] - origin_ms) * stretch, until `end_ms`."""

    service: int
    trace: int
    start: int
    last: int
    origin_ms: float = 0.0
    stretch: float = 1.0
    end_ms: float = np.inf


class Draws(NamedTuple):
    """What episodes are drawn from: any service of the inputs, any piece of `seconds` of any trace,
    stretched to any load within `load` [2] of `capacity_per_s` [S], what a service could carry at
    best."""

    capacity_per_s: Floats
    load: Floats
    seconds: float


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
def begin(inputs: EngineInputs, state: State, e: int, piece: Piece) -> None:
    """Put environment e before an empty service, the arrivals of its piece ahead."""
    env = state.env[e]
    env.now_ms, env.rate, env.rate_at_ms, env.hold_ms = 0.0, 0.0, 0.0, -np.inf
    env.origin_ms, env.stretch, env.end_ms = piece.origin_ms, piece.stretch, piece.end_ms
    first = inputs.first[piece.trace]
    env.start, env.next, env.last = first + piece.start, first + piece.start, first + piece.last
    env.head, env.tail, env.batches, env.slot = 0, 0, 0, 0
    env.service, env.trace, env.preset = piece.service, piece.trace, 0
    env.active, env.switches, env.loads = inputs.service[piece.service].workers, 0, 0
    env.answered, env.met, env.refused, env.utility_sum = 0.0, 0.0, 0.0, 0.0
    env.tokens, env.computed = 0.0, 0.0
    units = state.unit[e]
    for w in range(units.shape[0]):
        units[w].free_ms, units[w].correction, units[w].ratio = 0.0, 1.0, 0.0
        units[w].busy_ms, units[w].running = 0.0, -1
    state.used_ms[e] = -np.inf
    state.slots[e] = 0.0
    state.memo[e] = 0.0


@jit
def draw(inputs: EngineInputs, state: State, e: int, draws: Draws) -> None:
    """Begin an episode."""
    load, seconds = draws.load, draws.seconds
    env = state.env[e]
    service = int(_random(env) * inputs.service.shape[0])
    trace = int(_random(env) * inputs.size.shape[0])
    wanted = load[0] + (load[1] - load[0]) * _random(env)
    first, size = inputs.first[trace], inputs.size[trace]
    at_ms = inputs.at_ms[first : first + size]
    natural_ms = at_ms[size - 1] - at_ms[0]
    natural_per_s = 1e3 * (size - 1) / natural_ms if natural_ms > 0.0 else 1.0
    stretch = natural_per_s / max(wanted * draws.capacity_per_s[service], 1e-3)
    spare_ms = max(0.0, natural_ms - seconds * 1e3 / stretch)
    from_ms = at_ms[0] + _random(env) * spare_ms
    start = np.searchsorted(at_ms, from_ms)
    last = max(np.searchsorted(at_ms, from_ms + seconds * 1e3 / stretch), start + 1)
    piece = Piece(service, trace, start, last, from_ms, stretch, seconds * 1e3)
    begin(inputs, state, e, piece)
