"""One simulated service facing one trace: advance it, look at it, sum it up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from policies.base import Choice, Policy
from policies.observation import SIGNALS
from policies.params import RuleParams
from policies.presets import DEFAULT
from profiler.signals import Signals
from sims.engine.advance import advance
from sims.engine.episodes import Piece, begin
from sims.engine.inputs import make_inputs, tables_for
from sims.engine.observe import fill_signals
from sims.engine.signals import signals_of
from sims.engine.state import DROPPED, SERVED, EngineInputs, Records, State, full_log, make_state
from sims.service import Result, Service
from sims.traces import Trace

if TYPE_CHECKING:
    from sims.engine.inputs import Setting

__all__ = ["Simulation", "drive", "played", "signals_now", "simulate"]

Floats = NDArray[np.float64]


class Simulation:
    """One service facing one trace, advanced in steps; deterministic.

    `end_ms`, `outcome` (`state.WAITING`, `SERVED`, `DROPPED`), `ran` (plan, -1: none): what
    became of each request.

    >>> import numpy as np
    >>> from policies.params import RuleParams
    >>> from sims.traces import poisson
    >>> service = Service(np.full((1, 4, 1), 5.0), np.array([300.0]), slo_ms=50.0, workers=1)
    >>> simulation = Simulation(service, poisson(100.0, 2.0, seed=0))
    >>> simulation.advance(3000.0, RuleParams("default"))
    >>> simulation.result().met_ratio
    1.0
    """

    def __init__(self, service: Service, trace: Trace) -> None:
        self.service, self.trace = service, trace
        n = len(trace)
        self._inputs = make_inputs([service], [trace], [DEFAULT])
        self._banks: dict[Setting, EngineInputs] = {DEFAULT: self._inputs}
        self._state = make_state(1, self._inputs, room=max(16, n))
        self._log = full_log(n)
        self.end_ms, self.outcome, self.ran = self._log.end_ms, self._log.outcome, self._log.ran
        begin(self._inputs, self._state, 0, Piece(0, 0, 0, n))

    @property
    def _env(self) -> Any:
        return self._state.env[0]

    @property
    def now_ms(self) -> float:
        """Simulated time."""
        return float(self._env["now_ms"])

    @property
    def offered(self) -> int:
        """Requests that have arrived by now."""
        return int(self._env["next"])

    @property
    def arriving(self) -> bool:
        """Whether requests are still to come."""
        return self.offered < len(self.trace)

    @property
    def utility_sum(self) -> float:
        """Summed accuracy of the answers in time among the batches started so far."""
        return float(self._env["utility_sum"])

    @property
    def done(self) -> bool:
        """Whether every request has been answered or refused by now."""
        waiting = self._env["tail"] > self._env["head"]
        working = self._state.unit["free_ms"][0].max() > self.now_ms
        return not (self.arriving or waiting or working)

    @property
    def switches(self) -> int:
        """How often a worker went from one plan to another."""
        return int(self._env["switches"])

    @property
    def busy_ms(self) -> Floats:
        """Work done by each worker, [W]."""
        return np.asarray(self._state.unit["busy_ms"][0, : self.service.workers])

    def employ(self, workers: int) -> None:
        """From now on only the first `workers` start batches, as an autoscaler would have it."""
        if not 1 <= workers <= self.service.workers:
            raise ValueError(f"workers must be in 1..{self.service.workers}, got {workers}")
        self._env["active"] = workers

    def advance(self, until_ms: float, setting: Setting) -> None:
        """Play on to `until_ms` under one setting of the rule, or another discipline."""
        if not until_ms >= self.now_ms:
            raise ValueError(f"until_ms must be at least now_ms ({self.now_ms}), got {until_ms}")
        inputs = self._banks.get(setting)
        if inputs is None:
            inputs = self._inputs._replace(**tables_for(self.service, [setting]))
            self._banks[setting] = inputs
        advance(inputs, self._state, self._log, 0, until_ms)

    def signals(self) -> Signals:
        """What the live window would show at this moment, on the ticks' grid of 100 ms."""
        return signals_now(self._inputs, self._state)

    def batches(self) -> Records:
        """What ran so far, in order of start: records of `sims.engine.state.BATCH`."""
        return self._log.batch[: int(self._env["batches"])].copy()

    def result(self) -> Result:
        """Figures over all requests offered so far; those still waiting count as not met."""
        n = self.offered
        arrived_ms = self.trace.arrivals_s[:n] * 1e3
        served = self.outcome[:n] == SERVED
        latency = (self.end_ms[:n] - arrived_ms)[served]
        batch = self.batches()
        computed = float((batch["rows"] * self.service.lengths[batch["bucket"]]).sum())
        p50, p99 = np.quantile(latency, (0.5, 0.99)) if latency.size else (0.0, 0.0)
        return Result(
            offered=n,
            served=int(served.sum()),
            refused=int((self.outcome[:n] == DROPPED).sum()),
            met=int(self._env["met"]),
            seconds=max(float(arrived_ms[-1]) / 1e3, 1e-3) if n else 1e-3,
            utility=self.utility_sum / max(n, 1),
            p50_ms=float(p50),
            p99_ms=float(p99),
            mean_rows=float(batch["rows"].mean()) if batch.size else 0.0,
            padded_ratio=1.0 - float(batch["tokens"].sum()) / computed if batch.size else 0.0,
        )


def simulate(
    service: Service, trace: Trace, policy: Setting | Policy, *, tick_ms: float = 100.0
) -> Result:
    """Run `trace` to its end under a fixed setting, or under a policy asked every `tick_ms`.

    Arrivals are open loop: they come when the trace says, however the service does.
    """
    return played(service, trace, policy, tick_ms=tick_ms).result()


def played(
    service: Service, trace: Trace, policy: Setting | Policy, *, tick_ms: float = 100.0
) -> Simulation:
    """As `simulate`, but the simulation itself at its end: what became of each request."""
    simulation = Simulation(service, trace)
    drive(simulation, policy, tick_ms=tick_ms)
    return simulation


def signals_now(inputs: EngineInputs, state: State) -> Signals:
    """What the live window would show of the only environment of `state`."""
    raw = np.empty(SIGNALS)
    fill_signals(inputs, state, 0, raw)
    return signals_of(raw, float(state.env["now_ms"][0]) / 1e3)


class Steps(Protocol):
    """A simulation that is advanced in steps."""

    @property
    def now_ms(self) -> float: ...

    @property
    def arriving(self) -> bool: ...

    def signals(self) -> Signals: ...

    def advance(self, until_ms: float, setting: Setting) -> None: ...


def drive(simulation: Steps, policy: Setting | Policy, *, tick_ms: float = 100.0) -> None:
    """Play a simulation to its end under a fixed setting, or a policy asked every `tick_ms`.

    Raises ValueError for a `tick_ms` that is not above 0 and for a policy that returns no `Choice`.
    """
    if not (math.isfinite(tick_ms) and tick_ms > 0):
        raise ValueError(f"tick_ms must be finite and greater than 0, got {tick_ms}")
    if not isinstance(policy, Policy):
        simulation.advance(math.inf, policy)
        return
    choice = Choice(DEFAULT, "start")
    while simulation.arriving:
        choice = _chosen(policy, simulation.signals(), choice)
        simulation.advance(simulation.now_ms + tick_ms, choice.params)
    simulation.advance(math.inf, choice.params)


def _chosen(policy: Policy, signals: Signals, current: Choice) -> Choice:
    choice = policy.choose(signals, current)
    if not (isinstance(choice, Choice) and isinstance(choice.params, RuleParams)):
        raise ValueError(
            f"{policy.name}: choose must return a Choice of RuleParams, got {choice!r}"
        )
    return choice
