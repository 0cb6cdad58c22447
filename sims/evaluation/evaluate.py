"""Many policies on the same arrivals: what each made of every episode, in pairs.

episodes (service, trace) ──┐
                            ├──▶ play ──▶ Scores [policies, episodes]
policies (fixed or asked) ──┘
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from policies.base import Choice, Policy
from policies.observation import SIGNALS
from policies.params import RuleParams
from policies.presets import DEFAULT, PRESETS
from sims.engine import environments as envs
from sims.engine.episodes import Piece, begin
from sims.engine.inputs import Setting, make_inputs, tables_for
from sims.engine.observe import fill_signals
from sims.engine.signals import signals_of
from sims.engine.state import EngineInputs, State, make_state, no_log
from sims.gym.load_gym import TICK_MS, bounds
from sims.service import Service
from sims.traces import Trace

__all__ = ["AnyPolicy", "Episode", "Scores", "VectorPolicy", "evaluate"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Array = NDArray[np.float32]

Episode = tuple[Service, Trace]


@runtime_checkable
class VectorPolicy(Protocol):
    """A policy for many environments at once: observations in, presets out."""

    @property
    def name(self) -> str: ...

    def actions(self, seen: Array) -> Ints:
        """Indices into the presets, int64 [E], for observations float32 [E, D]."""
        ...


AnyPolicy = Setting | VectorPolicy | Policy
"""What can be in charge: one setting throughout, a chooser of presets, or any policy."""

_MOST_KNOWN = 256
"""Settings of a policy whose tables are kept; one that invents others every tick starts over."""


@dataclass(frozen=True)
class Scores:
    """What came of it, [policies, episodes] each; `names` of the policies in order.

    `utility`: summed accuracy of the answers in time over all requests offered. `met`: answers in
    time over all offered. `switches`: of plans. `used` [policies, episodes, W]: share of the
    episode each worker was busy, NaN where there is no such worker.
    """

    names: tuple[str, ...]
    utility: Floats
    met: Floats
    switches: Ints
    used: Floats


def evaluate(
    episodes: Sequence[Episode],
    policies: Sequence[AnyPolicy],
    presets: Sequence[RuleParams] = PRESETS,
) -> Scores:
    """Play every episode under every policy: settings throughout, the others asked every 100 ms.

    A policy that is no `VectorPolicy` is asked for each episode by itself, as the live controller
    asks it, and may choose any setting of the rule. The episodes' services share their tables. Each
    episode is played until its last answer.
    """
    services, traces = zip(*episodes, strict=True)
    settings = [policy for policy in policies if not isinstance(policy, (VectorPolicy, Policy))]
    inputs = make_inputs(services, traces, [*presets, *settings])
    scores = _Board(policies, episodes)
    place = len(presets)
    for row, policy in enumerate(policies):
        if isinstance(policy, VectorPolicy):
            state = _under_vector_policy(inputs, traces, policy, len(presets))
        elif isinstance(policy, Policy):
            state = _under_policy(inputs, traces, services[0], policy)
        else:
            state = _under_setting(inputs, traces, place)
            place += 1
        scores.note(row, state)
    return scores.total()


class _Board:
    """Collects the scores row by row."""

    def __init__(self, policies: Sequence[AnyPolicy], episodes: Sequence[Episode]) -> None:
        shape = (len(policies), len(episodes))
        self._names = tuple(policy.name for policy in policies)
        self._utility, self._met = np.zeros(shape), np.zeros(shape)
        self._switches = np.zeros(shape, np.int64)
        self._workers = np.array([service.workers for service, _ in episodes])
        self._used = np.full((*shape, int(self._workers.max())), np.nan)

    def note(self, row: int, state: State) -> None:
        env = state.env
        offered = np.maximum(1, env["next"] - env["start"])
        self._utility[row], self._met[row] = env["utility_sum"] / offered, env["met"] / offered
        self._switches[row] = env["switches"]
        for e, workers in enumerate(self._workers.tolist()):
            busy = state.unit["busy_ms"][e, :workers]
            self._used[row, e, :workers] = busy / max(float(env["now_ms"][e]), 1e-9)

    def total(self) -> Scores:
        return Scores(self._names, self._utility, self._met, self._switches, self._used)


def _begun(inputs: EngineInputs, traces: Sequence[Trace]) -> State:
    state = make_state(len(traces), inputs)
    for e, trace in enumerate(traces):
        begin(inputs, state, e, Piece(e, e, 0, len(trace)))
    return state


def _under_setting(inputs: EngineInputs, traces: Sequence[Trace], preset: int) -> State:
    state = _begun(inputs, traces)
    state.env["preset"] = preset
    _play(inputs, state, len(traces), np.inf)
    return state


def _under_vector_policy(
    inputs: EngineInputs, traces: Sequence[Trace], policy: VectorPolicy, presets: int
) -> State:
    state = _begun(inputs, traces)
    known = bounds(presets)
    seen = np.empty((len(traces), known.low.size), np.float32)
    for tick in range(_ticks(traces)):
        envs.observe_all(inputs, state, 0, len(traces), known, seen)
        actions = policy.actions(seen)
        if actions.shape != (len(traces),) or actions.min() < 0 or actions.max() >= presets:
            raise ValueError(
                f"{policy.name}: actions must be int64 [{len(traces)}] in 0..{presets - 1}, "
                f"got {actions!r}"
            )
        state.env["preset"] = actions
        _play(inputs, state, len(traces), TICK_MS * (tick + 1))
    _play(inputs, state, len(traces), np.inf)
    return state


def _under_policy(
    inputs: EngineInputs, traces: Sequence[Trace], service: Service, policy: Policy
) -> State:
    """The tables of what the policy chooses are made when it first does."""
    state, raw = _begun(inputs, traces), np.empty(SIGNALS)
    choices = [Choice(DEFAULT, "start")] * len(traces)
    known: dict[RuleParams, int] = {}
    for tick in range(_ticks(traces)):
        for e in range(len(traces)):
            fill_signals(inputs, state, e, raw)
            choices[e] = policy.choose(signals_of(raw, tick * TICK_MS / 1e3), choices[e])
        chosen = [choice.params for choice in choices]
        if not known.keys() >= set(chosen):
            kept = known if len(known) < _MOST_KNOWN else {}
            known = {params: k for k, params in enumerate(dict.fromkeys((*kept, *chosen)))}
            inputs = inputs._replace(**tables_for(service, list(known)))
        state.env["preset"] = [known[params] for params in chosen]
        _play(inputs, state, len(traces), TICK_MS * (tick + 1))
    _play(inputs, state, len(traces), np.inf)
    return state


def _ticks(traces: Sequence[Trace]) -> int:
    return int(np.ceil(max(trace.seconds for trace in traces) * 1e3 / TICK_MS))


def _play(inputs: EngineInputs, state: State, count: int, until_ms: float) -> None:
    _each(count, lambda low, high: envs.play(inputs, state, no_log(), low, high, until_ms))


def _each(count: int, work: Callable[[int, int], None]) -> None:
    """Share 0..count out among the cores."""
    shares = max(1, min(os.cpu_count() or 1, count))
    edges = np.linspace(0, count, shares + 1).astype(int).tolist()
    if shares == 1:
        work(0, count)
        return
    list(_POOL.map(work, edges[:-1], edges[1:]))


_POOL = ThreadPoolExecutor(os.cpu_count() or 1, "evaluate")
