"""Many load environments side by side: what every face of the gym stands on.

One call steps all of them in compiled code, in as many threads as there are cores; a finished
episode begins anew there. `env` and `vec_env` give it the faces of Gymnasium and stable-baselines3.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.observation import observation_names
from policies.params import RuleParams
from policies.presets import PRESETS
from sims.engine import environments as envs
from sims.engine.environments import Environments, ObservationBounds, Share, Stepped, Tick
from sims.engine.episodes import Draws, Piece, begin
from sims.engine.inputs import make_inputs
from sims.engine.state import EngineInputs, State, make_state, no_log
from sims.gym.domain import LoadDomain, capacity_per_s
from sims.service import Service
from sims.traces import Trace

__all__ = ["REWARD_SCALE", "TICK_MS", "LoadGym", "Stepped", "bounds", "presets_of"]

Array = NDArray[np.float32]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TICK_MS = 100.0
REWARD_SCALE = 20.0
"""Brings the advantage of a good tick to the order of 1 (feasibility study, decision 0006)."""
TRACE_EPISODES = 4.0
"""A trace of the gym is as long as this many episodes; each plays a piece of one."""


def bounds(presets: int) -> ObservationBounds:
    """Low and high of every entry of an observation, from the kind its name tells."""
    low, high = [], []
    for name in observation_names(presets):
        if name.startswith("log_"):
            signed = name in ("log_workers", "log_slo_ms", "log_correction")
            low.append(-20.0 if signed else 0.0)
            high.append(20.0)
        elif name.endswith("_over_slo"):
            low.append(-10.0 if name.startswith("head") else 0.0)
            high.append(10.0)
        else:
            low.append(0.0)
            high.append(10.0 if name.startswith("cost_ratio") or name == "unevenness" else 1.0)
    return ObservationBounds(np.array(low, np.float32), np.array(high, np.float32))


class LoadGym:
    """E environments over services and traces drawn from one domain.

    `services`, `traces`: how many of each are drawn when the gym is made; every episode takes a
    pair of them, a piece of the trace and a load. `against_default`: reward by state reset (see
    `sims.gym.env.LoadEnv`), else the tick's utility. Deterministic by `seed` whatever the threads.

    >>> gym = LoadGym(LoadDomain(seconds=1.0), 4, services=2, traces=2)
    >>> gym.reset().shape, gym.step(np.zeros(4, np.int64)).reward.tolist()
    ((4, 63), [0.0, 0.0, 0.0, 0.0])
    """

    render_mode = None
    """Nothing to look at; stable-baselines3 asks."""

    def __init__(
        self,
        domain: LoadDomain,
        environments: int,
        presets: Sequence[RuleParams] = PRESETS,
        *,
        seed: int = 0,
        services: int = 256,
        traces: int = 64,
        against_default: bool = True,
        threads: int | None = None,
    ) -> None:
        for name, value in (
            ("environments", environments), ("services", services), ("traces", traces),
        ):  # fmt: skip
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not presets:
            raise ValueError("presets must hold at least one setting, got none")
        self.domain, self.presets = domain, tuple(presets)
        self.environments = environments
        rng = np.random.default_rng(seed)
        drawn = [domain.draw_service(rng) for _ in range(services)]
        lengths = domain.lengths(rng)
        capacity = np.array([capacity_per_s(service, lengths) for service in drawn])
        rate_per_s = float(np.median(capacity)) * sum(domain.load) / 2
        seconds = TRACE_EPISODES * domain.seconds
        sources = [domain.draw_trace(rng, rate_per_s, seconds, lengths) for _ in range(traces)]
        tick = Tick(TICK_MS, against_default, REWARD_SCALE if against_default else 1.0)
        draws = Draws(capacity, np.array(domain.load, np.float64), domain.seconds)
        self._open(make_inputs(drawn, sources, self.presets), draws, tick, threads)
        self.seed(seed)

    def _open(self, inputs: EngineInputs, draws: Draws, tick: Tick, threads: int | None) -> None:
        e = self.environments
        count = max(1, min(threads or os.cpu_count() or 1, e // 8 or 1))
        edges = np.linspace(0, e, count + 1).astype(int).tolist()
        self._shares = [Share(edges[k], edges[k + 1], 2 * k) for k in range(count)]
        self._pool = ThreadPoolExecutor(count, "gym") if count > 1 else None
        self.low, self.high = known = bounds(len(self.presets))
        self._all = Environments(
            inputs,
            make_state(e, inputs),
            make_state(2 * count, inputs),
            no_log(),
            draws,
            known,
            tick,
        )

    def seed(self, seed: int) -> None:
        """The draws that the next `reset` begins with."""
        fresh = np.random.default_rng([seed, 0x10AD]).integers(0, 2**63, self.environments)
        self._all.state.env["random"] = fresh

    def reset(self) -> Array:
        """Begin an episode everywhere; the first observations, float32 [E, D]."""
        seen = np.empty((self.environments, self.low.size), np.float32)
        self._each(lambda share: envs.reset(self._all, share, seen))
        return seen

    def step(self, actions: Any) -> Stepped:
        """One tick of 100 ms everywhere under the presets `actions`, whole numbers [E]."""
        e, d = self.environments, self.low.size
        chosen = presets_of(actions, e, len(self.presets))
        stepped = Stepped(
            np.empty((e, d), np.float32), np.empty(e), np.empty(e, np.bool_),
            np.empty((e, d), np.float32), np.zeros((e, 4)),
        )  # fmt: skip
        self._each(lambda share: envs.step(self._all, share, chosen, stepped))
        return stepped

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _each(self, work: Callable[[Share], None]) -> None:
        """Share the environments out among the threads."""
        if self._pool is None:
            work(self._shares[0])
            return
        for pending in [self._pool.submit(work, share) for share in self._shares]:
            pending.result()


def presets_of(actions: Any, environments: int, presets: int) -> Ints:
    """Actions as indices int64 [E]: whole numbers of any numeric type, [E] or [E, 1]; 0-d for one.

    >>> presets_of(np.array([[3], [0]], np.uint8), 2, 15).tolist()
    [3, 0]
    """
    given = np.asarray(actions)
    shapes = [(environments,), (environments, 1), *([()] if environments == 1 else [])]
    if given.shape not in shapes:
        raise ValueError(f"actions must have shape ({environments},), got {given.shape}")
    if given.dtype.kind not in "iuf":
        raise ValueError(f"action must be a whole number, got {given.dtype} {given.flat[0]!r}")
    flat = given.reshape(environments)
    wrong = ~((flat >= 0) & (flat < presets))  # so that a NaN is wrong, too
    if wrong.any():
        raise ValueError(f"action must be in 0..{presets - 1}, got {flat[wrong][0]}")
    chosen = np.ascontiguousarray(flat, np.int64)
    if given.dtype.kind == "f" and (chosen != flat).any():
        raise ValueError(f"action must be a whole number, got {flat[chosen != flat][0]}")
    return chosen


def single(
    service: Service, trace: Trace, presets: Sequence[RuleParams]
) -> tuple[EngineInputs, State, State]:
    """The inputs of one service and one trace, its state at the trace's start, and scratch."""
    inputs = make_inputs([service], [trace], presets)
    state = make_state(1, inputs, room=max(16, len(trace)))
    begin(inputs, state, 0, Piece(0, 0, 0, len(trace), end_ms=trace.seconds * 1e3))
    return inputs, state, make_state(2, inputs, room=max(16, len(trace)))
