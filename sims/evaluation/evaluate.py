"""Many drivers on the same arrivals: what each made of every episode, in pairs.

episodes (service, trace) ──┐
                            ├──▶ play ──▶ Scores [drivers, episodes]
drivers (settings, policies)┘
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
from policies.observation import SEEN
from policies.params import RuleParams
from policies.presets import DEFAULT, PRESETS
from sims.engine import environments as vector
from sims.engine.episodes import Piece, begin
from sims.engine.inputs import Setting, make_bank, tables_for
from sims.engine.observe import look
from sims.engine.signals import signals_of
from sims.engine.state import Bank, State, make_state, no_log
from sims.gym.load_gym import TICK_MS, bounds
from sims.service import Service
from sims.traces import Trace

__all__ = ["Chooser", "Driver", "Episode", "Scores", "contest"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Array = NDArray[np.float32]

Episode = tuple[Service, Trace]


@runtime_checkable
class Chooser(Protocol):
    """A policy for many environments at once: observations in, presets out."""

    @property
    def name(self) -> str: ...

    def actions(self, seen: Array) -> Ints:
        """Indices into the presets, int64 [E], for observations float32 [E, D]."""
        ...


Driver = Setting | Chooser | Policy
"""What can be in charge: one setting throughout, a chooser of presets, or any policy."""

_MOST_KNOWN = 256
"""Settings of a policy whose tables are kept; one that invents others every tick starts over."""


@dataclass(frozen=True)
class Scores:
    """What came of it, [drivers, episodes] each; `names` of the drivers in order.

    `utility`: summed accuracy of the answers in time over all requests offered. `met`: answers in
    time over all offered. `switches`: of plans. `used` [drivers, episodes, W]: share of the
    episode each worker was busy, NaN where there is no such worker.
    """

    names: tuple[str, ...]
    utility: Floats
    met: Floats
    switches: Ints
    used: Floats


def contest(
    episodes: Sequence[Episode],
    drivers: Sequence[Driver],
    presets: Sequence[RuleParams] = PRESETS,
) -> Scores:
    """Play every episode under every driver: settings throughout, the others asked every 100 ms.

    A policy that is no `Chooser` is asked for each episode by itself, as the live controller asks
    it, and may choose any setting of the rule. The episodes' services share their tables. Each
    episode is played until its last answer.
    """
    services, traces = zip(*episodes, strict=True)
    settings = [driver for driver in drivers if not isinstance(driver, (Chooser, Policy))]
    bank = make_bank(services, traces, [*presets, *settings])
    scores = _Board(drivers, episodes)
    place = len(presets)
    for row, driver in enumerate(drivers):
        if isinstance(driver, Chooser):
            state = _under_chooser(bank, traces, driver, len(presets))
        elif isinstance(driver, Policy):
            state = _under_policy(bank, traces, services[0], driver)
        else:
            state = _under_setting(bank, traces, place)
            place += 1
        scores.note(row, state)
    return scores.total()


class _Board:
    """Collects the scores row by row."""

    def __init__(self, drivers: Sequence[Driver], episodes: Sequence[Episode]) -> None:
        shape = (len(drivers), len(episodes))
        self._names = tuple(driver.name for driver in drivers)
        self._utility, self._met = np.zeros(shape), np.zeros(shape)
        self._switches = np.zeros(shape, np.int64)
        self._workers = np.array([service.workers for service, _ in episodes])
        self._used = np.full((*shape, int(self._workers.max())), np.nan)

    def note(self, row: int, state: State) -> None:
        env = state.env
        offered = np.maximum(1, env["next"] - env["start"])
        self._utility[row], self._met[row] = env["worth"] / offered, env["met"] / offered
        self._switches[row] = env["switches"]
        for e, workers in enumerate(self._workers.tolist()):
            busy = state.unit["busy_ms"][e, :workers]
            self._used[row, e, :workers] = busy / max(float(env["now_ms"][e]), 1e-9)

    def total(self) -> Scores:
        return Scores(self._names, self._utility, self._met, self._switches, self._used)


def _begun(bank: Bank, traces: Sequence[Trace]) -> State:
    state = make_state(len(traces), bank)
    for e, trace in enumerate(traces):
        begin(bank, state, e, Piece(e, e, 0, len(trace)))
    return state


def _under_setting(bank: Bank, traces: Sequence[Trace], preset: int) -> State:
    state = _begun(bank, traces)
    state.env["preset"] = preset
    _play(bank, state, len(traces), np.inf)
    return state


def _under_chooser(bank: Bank, traces: Sequence[Trace], chooser: Chooser, presets: int) -> State:
    state = _begun(bank, traces)
    known = bounds(presets)
    seen = np.empty((len(traces), known.low.size), np.float32)
    for tick in range(_ticks(traces)):
        vector.observe_all(bank, state, 0, len(traces), known, seen)
        actions = chooser.actions(seen)
        if actions.shape != (len(traces),) or actions.min() < 0 or actions.max() >= presets:
            raise ValueError(
                f"{chooser.name}: actions must be int64 [{len(traces)}] in 0..{presets - 1}, "
                f"got {actions!r}"
            )
        state.env["preset"] = actions
        _play(bank, state, len(traces), TICK_MS * (tick + 1))
    _play(bank, state, len(traces), np.inf)
    return state


def _under_policy(bank: Bank, traces: Sequence[Trace], service: Service, policy: Policy) -> State:
    """The tables of what the policy chooses are made when it first does."""
    state, raw = _begun(bank, traces), np.empty(SEEN)
    choices = [Choice(DEFAULT, "start")] * len(traces)
    known: dict[RuleParams, int] = {}
    for tick in range(_ticks(traces)):
        for e in range(len(traces)):
            look(bank, state, e, raw)
            choices[e] = policy.choose(signals_of(raw, tick * TICK_MS / 1e3), choices[e])
        chosen = [choice.params for choice in choices]
        if not known.keys() >= set(chosen):
            kept = known if len(known) < _MOST_KNOWN else {}
            known = {params: k for k, params in enumerate(dict.fromkeys((*kept, *chosen)))}
            bank = bank._replace(**tables_for(service, list(known)))
        state.env["preset"] = [known[params] for params in chosen]
        _play(bank, state, len(traces), TICK_MS * (tick + 1))
    _play(bank, state, len(traces), np.inf)
    return state


def _ticks(traces: Sequence[Trace]) -> int:
    return int(np.ceil(max(trace.seconds for trace in traces) * 1e3 / TICK_MS))


def _play(bank: Bank, state: State, count: int, until_ms: float) -> None:
    _each(count, lambda low, high: vector.play(bank, state, no_log(), low, high, until_ms))


def _each(count: int, work: Callable[[int, int], None]) -> None:
    """Share 0..count out among the cores."""
    shares = max(1, min(os.cpu_count() or 1, count))
    edges = np.linspace(0, count, shares + 1).astype(int).tolist()
    if shares == 1:
        work(0, count)
        return
    list(_POOL.map(work, edges[:-1], edges[1:]))


_POOL = ThreadPoolExecutor(os.cpu_count() or 1, "contest")
