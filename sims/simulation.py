"""One simulated service facing one trace: advance it, look at it, copy a moment, restore it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.base import Choice, Policy
from policies.params import RuleParams
from policies.presets import DEFAULT
from profiler.signals import Signals
from sims import engine
from sims.service import Result, Service
from sims.traces import Trace

__all__ = ["Batches", "Moment", "Simulation", "simulate"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Moment:
    """A copy of a simulation's state; only its own simulation can be put back to it."""

    clock: Floats
    count: Ints
    free_ms: Floats
    queue: Ints


@dataclass(frozen=True)
class Batches:
    """The batches of a simulation so far, [B] each, in order of their start."""

    start_ms: Floats
    finish_ms: Floats
    expected_ms: Floats
    tokens: Floats
    plan: Ints
    rows: Ints
    cell: Ints


class Simulation:
    """One service facing one trace, advanced in steps; deterministic.

    >>> import numpy as np
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
        longest = float(trace.lengths.max())
        if longest > service.lengths[-1]:
            raise ValueError(
                f"trace lengths must be at most {service.lengths[-1]:g} (the last padded length), "
                f"got {longest:g}; extend the grid or clip the trace"
            )
        self._arrivals = trace.arrivals_s * 1000.0
        self._deadline = self._arrivals + service.slo_ms
        self._length = trace.lengths.astype(np.int64)
        self._cell = np.searchsorted(service.lengths, trace.lengths, side="left").astype(np.int64)
        plans = service.cost_ms.shape[0]
        self._cost = np.ascontiguousarray(service.cost_ms, np.float64).copy()
        self._true = self._cost if service.true_ms is None else service.true_ms.copy()
        self._tier = np.zeros(plans, np.int64) if service.tier is None else service.tier.copy()
        self.allowed = np.ones(plans, np.bool_)
        self._clock = np.array([0.0, 0.0, 0.0, -np.inf])
        self._count = np.zeros(3, np.int64)
        self._free = np.zeros(service.workers)
        self._queue = np.empty(n, np.int64)
        self.end_ms = np.full(n, np.inf)
        self.outcome = np.zeros(n, np.int8)
        self.ran = np.full(n, -1, np.int32)
        self._log = np.empty((n, 4))
        self._log_shape = np.empty((n, 3), np.int64)
        self._accuracy = np.ones(plans) if service.accuracy is None else service.accuracy
        self._tail_ms = float(self._true.max() * service.factor.max()) + service.overhead_ms
        self._seen = np.empty(37)

    @property
    def now_ms(self) -> float:
        """Simulated time."""
        return float(self._clock[engine.NOW])

    @property
    def done(self) -> bool:
        """Whether every request has been answered or refused by now."""
        return bool(
            self._count[engine.NEXT] == len(self.trace)
            and self._count[engine.QUEUED] == 0
            and self._free.max() <= self.now_ms
        )

    def advance(self, until_ms: float, params: RuleParams | Floats) -> None:
        """Play on to `until_ms` under one setting of the rule."""
        array = params.to_array() if isinstance(params, RuleParams) else params
        engine.advance(
            until_ms,
            self._arrivals,
            self._deadline,
            self._length,
            self._cell,
            self._cost,
            self._true,
            self.service.factor,
            self.service.overhead_ms,
            self.service.lengths,
            self._tier,
            self.allowed,
            array,
            self._clock,
            self._count,
            self._free,
            self._queue,
            self.end_ms,
            self.outcome,
            self.ran,
            self._log,
            self._log_shape,
        )

    def moment(self) -> Moment:
        """The state of now, to come back to with `restore`."""
        queue = self._queue[: self._count[engine.QUEUED]]
        return Moment(self._clock.copy(), self._count.copy(), self._free.copy(), queue.copy())

    def restore(self, moment: Moment) -> None:
        """Back to an earlier `moment` of this simulation; what came after it is undone."""
        for since in (moment.queue, slice(moment.count[engine.NEXT], self._count[engine.NEXT])):
            self.end_ms[since] = np.inf
            self.outcome[since] = engine.WAITING
            self.ran[since] = -1
        self._clock[:] = moment.clock
        self._count[:] = moment.count
        self._free[:] = moment.free_ms
        self._queue[: moment.queue.size] = moment.queue

    def worth_since(self, moment: Moment) -> float:
        """Summed accuracy of answers in time that were dispatched since `moment`."""
        waiting = moment.queue
        first = int(waiting[0]) if waiting.size else int(moment.count[engine.NEXT])
        return float(
            engine.worth(
                first,
                int(self._count[engine.NEXT]),
                self.end_ms,
                self._deadline,
                self.outcome,
                self.ran,
                self._accuracy,
            )
        )

    @staticmethod
    def offered_at(moment: Moment) -> int:
        """Requests that had arrived at `moment`."""
        return int(moment.count[engine.NEXT])

    @property
    def offered(self) -> int:
        """Requests that have arrived by now."""
        return int(self._count[engine.NEXT])

    def signals(self) -> Signals:
        """What the live window would show at this moment (horizon 1 s)."""
        seen = self._seen
        engine.look(
            1000.0,
            self._tail_ms,
            self._arrivals,
            self._deadline,
            self._length,
            self.service.lengths,
            self._clock,
            self._count,
            self._free,
            self._queue,
            self.end_ms,
            self.outcome,
            self._log,
            self._log_shape,
            seen,
        )
        value = seen.tolist()
        return Signals(
            at_s=self.now_ms / 1e3,
            slo_ms=self.service.slo_ms,
            workers=self.service.workers,
            arrival_per_s=value[0],
            arrivals_100ms=tuple(int(v) for v in value[1:11]),
            arrivals_10ms=tuple(int(v) for v in value[11:21]),
            burstiness=value[21],
            queue=int(value[22]),
            head_slack_ms=value[23],
            busy_share=value[24],
            served_per_s=value[25],
            met_ratio=value[27],
            refused_ratio=value[28],
            p50_ms=value[29],
            p99_ms=value[30],
            cost_ratio_mean=value[32],
            cost_ratio_max=value[33],
            mean_length=value[36],
            padded_ratio=value[34],
            ended=int(value[26]),
            batches=int(value[31]),
        )

    def batches(self) -> Batches:
        """What ran so far."""
        b = int(self._count[engine.BATCHES])
        return Batches(*self._log[:b].T.copy(), *self._log_shape[:b].T.copy())

    def result(self) -> Result:
        """Figures over all requests offered so far; those still waiting count as not met."""
        n = self.offered
        served = self.outcome[:n] == engine.SERVED
        met = served & (self.end_ms[:n] <= self._deadline[:n])
        latency = (self.end_ms[:n] - self._arrivals[:n])[served]
        batches = int(self._count[engine.BATCHES])
        shapes = self._log_shape[:batches]
        computed = (shapes[:, engine.ROWS] * self.service.lengths[shapes[:, engine.CELL]]).sum()
        seconds = max(float(self._arrivals[n - 1]) / 1e3, 1e-3) if n else 1e-3
        p50, p99 = np.quantile(latency, (0.5, 0.99)) if latency.size else (0.0, 0.0)
        return Result(
            offered=n,
            served=int(served.sum()),
            refused=int((self.outcome[:n] == engine.REFUSED).sum()),
            met=int(met.sum()),
            seconds=seconds,
            utility=float(self._accuracy[self.ran[:n][met]].sum()) / max(n, 1),
            p50_ms=float(p50),
            p99_ms=float(p99),
            mean_rows=float(shapes[:, engine.ROWS].mean()) if batches else 0.0,
            padded_ratio=1.0 - float(self._log[:batches, engine.TOKENS].sum() / computed)
            if batches
            else 0.0,
        )


def simulate(
    service: Service, trace: Trace, driver: RuleParams | Policy, *, tick_ms: float = 100.0
) -> Result:
    """Run `trace` to its end under a fixed setting, or under a policy asked every `tick_ms`.

    Arrivals are open loop: they come when the trace says, however the service does.
    """
    if not (math.isfinite(tick_ms) and tick_ms > 0):
        raise ValueError(f"tick_ms must be finite and greater than 0, got {tick_ms}")
    simulation = Simulation(service, trace)
    if isinstance(driver, RuleParams):
        simulation.advance(math.inf, driver)
        return simulation.result()
    choice = Choice(DEFAULT, "start")
    while simulation.offered < len(trace):
        choice = driver.choose(simulation.signals(), choice)
        simulation.advance(simulation.now_ms + tick_ms, choice.params)
    simulation.advance(math.inf, choice.params)
    return simulation.result()
