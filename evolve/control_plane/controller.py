"""The 100 ms tick: see, choose, swap, record."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from evolve.control_plane.advice import Advisor, NoAdvice
from evolve.data_plane.scheduler import Scheduler, Tables
from policies.base import Choice, Policy
from supernet.backends.base import backend
from supernet.plans import ORIGINAL
from supernet.tiers import plan_tier

if TYPE_CHECKING:
    from evolve.journal.journal import Journal
    from evolve.monitoring.memory_patterns import Patterns
    from evolve.monitoring.stats import Stats
    from profiler.costs import CostTable
    from profiler.signals import Signals
    from supernet.plans import Plan, PlanLibrary

__all__ = ["Controlled", "Controller"]

ACCOUNT_EVERY_S = 60.0
TROUBLE_EVERY_S, MOST_TROUBLES = 60.0, 100
MOST_HELD = 0.5  # of the SLO, how long a batch may be held for more members


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """What the tables say of the admitted plans, made anew only when those change."""

    admitted: tuple[Plan, ...]
    plans: tuple[str, ...]
    tier: npt.NDArray[np.int64]
    buckets_only: frozenset[str]
    fused: tuple[bool, ...]

    @classmethod
    def of(cls, admitted: tuple[Plan, ...], *, pads: bool) -> _Held:
        wants = (plan for plan in admitted if pads and backend(plan.spec.backend).recompiles)
        return cls(
            admitted,
            (ORIGINAL, *(plan.key for plan in admitted)),
            np.array([0, *(plan_tier(plan) for plan in admitted)], np.int64),
            frozenset(plan.key for plan in wants),
            (False, *(bool(plan.spec.fusion) for plan in admitted)),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Controlled:
    """What a controller reads and writes, all of one revision.

    `patterns`: what batches ask of the memory, for the policy to see. `pads`: whether the model
    allows requests to be padded.
    """

    scheduler: Scheduler
    library: PlanLibrary
    costs: CostTable
    stats: Stats
    journal: Journal
    patterns: Patterns
    pads: bool


class Controller:
    """Sets what the scheduler decides by, once per tick. Builds and trains nothing.

    Args:
        controlled: What it reads and writes.
        policy: Proposes a `Choice`; it never acts.
        initial: The choice in force before the first tick.
        period_s: Between two ticks, seconds.
        clock: Seconds, monotonic.
        check: Called first in every tick (the fleet's look at its workers).
    """

    def __init__(
        self,
        controlled: Controlled,
        policy: Policy,
        initial: Choice,
        *,
        period_s: float,
        clock: Callable[[], float],
        check: Callable[[], None],
    ) -> None:
        self._scheduler = controlled.scheduler
        self._library = controlled.library
        self._costs = controlled.costs
        self._stats = controlled.stats
        self._journal = controlled.journal
        self._patterns = controlled.patterns
        self._pads = controlled.pads
        self._advisor = Advisor(policy)
        self._choice = initial
        self._period_s = period_s
        self._clock = clock
        self._check = check
        self._held = _Held.of((), pads=controlled.pads)
        self.ticks = 0
        self._stop = threading.Event()
        self._recorded_at_s = -math.inf
        self._accounted_at_s = clock()
        self._plan_rows = self._stats.plan_rows()  # of what served before
        self._drifting: frozenset[str] = frozenset()
        self._troubles: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="tick", daemon=True)

    @property
    def policy(self) -> Policy:
        """Who proposes."""
        return self._advisor.policy

    def follow(self, policy: Policy) -> None:
        """From the next tick on another policy proposes."""
        self._advisor.stop()
        self._advisor = Advisor(policy)

    @property
    def choice(self) -> Choice:
        """What is in force now."""
        return self._choice

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._advisor.stop()
        self._patterns.stop()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
            self._stats.settle()
            self._say_savings()

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            try:
                self.tick()
            except Exception as error:  # the data plane goes on with the tables it has
                if self._stop.is_set():  # closed meanwhile, maybe from within this very tick
                    return
                self._say_trouble(f"tick failed: {error!r}")

    def tick(self) -> None:
        """One tick. Idle ticks and unchanged choices are recorded once a second at most."""
        self.ticks += 1
        self._check()
        signals = self._see()
        before = self._choice
        try:
            choice = self._advisor.choose(signals, before)
        except NoAdvice as why:
            self._say_trouble(f"the policy proposes nothing, what was in force stays: {why}")
            choice = before
        veto = None if choice is before else self._veto(choice)
        if veto is None:
            self._choice = choice
        self.refresh()
        self._say_drifts()
        if self._clock() - self._accounted_at_s >= ACCOUNT_EVERY_S:
            self._say_savings()
        self._record(signals, before, choice, veto)

    def _see(self) -> Signals:
        self._stats.settle()
        self._stats.reserve.fade(self._period_s)
        queue, head_slack_ms, busy = self._scheduler.depth()
        return self._stats.window.snapshot(queue=queue, head_slack_ms=head_slack_ms, busy=busy)

    def _veto(self, choice: Choice) -> str | None:
        numbers = choice.params.to_array()
        if np.isnan(numbers).any():
            return "the proposed parameters hold a NaN"
        longest_ms = MOST_HELD * self._stats.window.slo_ms
        if choice.params.wait_ms > longest_ms:
            held_ms = choice.params.wait_ms
            return f"wait_ms must be at most {longest_ms:g}, half the SLO, got {held_ms:g}"
        return None

    def refresh(self) -> None:
        """Has the scheduler decide by the plans, costs and parameters of now. Any thread may call
        it, after what it changed: tables that were begun before others never replace them."""
        version = self._scheduler.next_version()
        old = self._scheduler.tables
        held = self._held
        admitted = self._library.admitted()
        if held.admitted is not admitted:
            held = self._held = _Held.of(admitted, pads=self._pads)
        tables = Tables(
            plans=held.plans,
            cost_ms=self._costs.matrix(held.plans),
            lengths=old.lengths,
            tier=held.tier,
            buckets_only=held.buckets_only,
            params=self._choice.params,
            lanes=old.lanes,
            slowdowns=self._stats.contention.slowdowns,
            version=version,
        )
        if self._scheduler.use(self._scheduler.prepare(tables)):
            pattern = self._patterns.table(tables.cost_ms, held.tier, held.fused)
            self._stats.window.pattern = pattern

    def _say_trouble(self, what: str) -> None:
        """The same trouble once a minute: ticks come ten times a second."""
        now_s = self._clock()
        if now_s - self._troubles.get(what, -math.inf) < TROUBLE_EVERY_S:
            return
        if len(self._troubles) >= MOST_TROUBLES:
            self._troubles.clear()
        self._troubles[what] = now_s
        self._journal.append(
            "tick", "dispatch", policy=self.policy.name, reason=what, applied=False
        )

    def _say_drifts(self) -> None:
        drifts = {drift.plan: drift for drift in self._costs.drifts()}
        for plan in drifts.keys() - self._drifting:
            self._journal.append(
                "plan", plan,
                seen={"cost_ratio": drifts[plan].ratio},
                reason=f"costs drifted to {drifts[plan].ratio:.2f} × what was predicted; "
                "the cost table follows",
            )  # fmt: skip
        self._drifting = frozenset(drifts)

    def _say_savings(self) -> None:
        """What each plan saved since it was last said, beside what was expected of it."""
        self._accounted_at_s = self._clock()
        for saved in self._stats.savings.report():
            plan = self._library.get(saved.plan)
            fusion = plan.spec.fusion if plan is not None else ""
            self._journal.append(
                "plan", saved.plan, seen=saved.seen(), after={"fusion": fusion} if fusion else {},
                reason=str(saved),
            )  # fmt: skip

    def _record(self, signals: Signals, before: Choice, choice: Choice, veto: str | None) -> None:
        changed = choice.params != before.params
        now_s = self._clock()
        active = sum(signals.arrivals_100ms) + signals.ended + signals.queue > 0
        if not changed and (now_s - self._recorded_at_s < 1.0 or not active):
            return
        self._recorded_at_s = now_s
        self._journal.append(
            "tick", "dispatch",
            policy=self.policy.name,
            seen={
                **signals.compact(),
                "offered_per_s": float(sum(signals.arrivals_100ms)),
                **self._plan_shares(),
            },
            before=before.params.to_json(),
            after=choice.params.to_json(),
            reason=_reason(signals, choice, veto),
            scores=choice.scores,
            applied=veto is None,
        )  # fmt: skip

    def _plan_shares(self) -> dict[str, float]:
        """Share of the rows that each plan answered since the last record, as `plan:<key>`."""
        rows = self._stats.plan_rows()
        delta = {plan: n - self._plan_rows.get(plan, 0) for plan, n in rows.items()}
        self._plan_rows = rows
        total = sum(delta.values())
        return {f"plan:{plan}": n / total for plan, n in delta.items() if n} if total else {}


def _reason(signals: Signals, choice: Choice, veto: str | None) -> str:
    """The policy's own words, then what it saw in a person's terms."""
    seen = f"{sum(signals.arrivals_100ms)} requests/s offered, {signals.queue} waiting"
    if signals.ended:
        seen += (
            f", {signals.met_ratio:.0%} met, p99 {signals.p99_ms:.0f} ms of {signals.slo_ms:g} ms"
        )
    words = f"{choice.reason}: {seen}"
    return words if veto is None else f"vetoed, {veto}; proposed {words}"
