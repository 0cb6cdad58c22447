"""One tick after another, by a clock of the test's own: see, choose, swap, record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from evolve.control_plane.controller import ACCOUNT_EVERY_S, TROUBLE_EVERY_S, Controlled, Controller
from evolve.data_plane.request_queue import Request
from evolve.data_plane.scheduler import Ready, Scheduler, Tables
from evolve.journal.decision import Decision
from evolve.journal.journal import Journal
from evolve.monitoring.savings import BatchRecord, Savings
from evolve.monitoring.stats import Stats
from evolve.monitoring.traffic import Traffic
from policies.base import Choice
from policies.baselines import DEFAULT_CHOICE
from policies.presets import DEFAULT
from profiler.costs import CostTable
from profiler.shapes import Shape, ShapeGrid
from profiler.signals import Signals, Window
from supernet.plans import ORIGINAL, Plan, PlanLibrary, PlanSpec, PlanState

SLO_MS = 50.0
GRID = ShapeGrid(max_rows=4, lengths=(8,))


class Scripted:
    """Proposes what the test says, and remembers what it was shown."""

    name = "scripted"

    def __init__(self) -> None:
        self.answer: Callable[[], Choice] = lambda: DEFAULT_CHOICE
        self.shown: list[Signals] = []

    def choose(self, signals: Signals, current: Choice) -> Choice:
        self.shown.append(signals)
        return self.answer()


class NoPatterns:
    """Nothing is known of the memory."""

    def table(self, *_: object) -> None:
        return None

    def stop(self) -> None:
        pass


@dataclass
class Bench:
    """A controller whose ticks the test makes, and all that it reads and writes."""

    controller: Controller
    scheduler: Scheduler
    library: PlanLibrary
    stats: Stats
    policy: Scripted
    journal: Journal
    now_s: list[float] = field(default_factory=lambda: [100.0])
    checked: list[float] = field(default_factory=list)

    def tick(self, after_s: float = 0.1) -> None:
        self.now_s[0] += after_s
        self.controller.tick()

    def admit(self, plan: Plan) -> None:
        self.library.put(plan)
        self.library.move(plan.key, PlanState.ADMITTED, "its price is known")

    def recorded(self, kind: str = "tick") -> list[Decision]:
        return [decision for decision in self.journal.last(1000) if decision.kind == kind]


@pytest.fixture
def bench() -> Iterator[Bench]:
    now_s, checked = [100.0], []
    costs = CostTable(GRID, clock=lambda: now_s[0])
    costs.seed(ORIGINAL, {Shape(1, 8): 8.0, Shape(4, 8): 20.0})
    window = Window(slo_ms=SLO_MS, workers=1, clock=lambda: now_s[0])
    stats = Stats(
        window, costs, None, Savings(costs), Traffic(lambda: now_s[0]), lambda: now_s[0] * 1e3
    )
    scheduler = Scheduler(
        Tables(
            plans=(ORIGINAL,), cost_ms=costs.matrix([ORIGINAL]), lengths=GRID.lengths,
            tier=np.zeros(1, np.int64), buckets_only=frozenset(), params=DEFAULT, lanes=1,
        ),
        limit=64, rate_per_s=window.arrival_per_s, now_ms=lambda: now_s[0] * 1e3, slo_ms=SLO_MS,
    )  # fmt: skip
    library, policy, journal = PlanLibrary(), Scripted(), Journal(None, device="test")
    patterns: Any = NoPatterns()
    controlled = Controlled(scheduler, library, costs, stats, journal, patterns, pads=False)
    controller = Controller(
        controlled, policy, DEFAULT_CHOICE, period_s=0.1, clock=lambda: now_s[0],
        check=lambda: checked.append(now_s[0]),
    )  # fmt: skip
    yield Bench(controller, scheduler, library, stats, policy, journal, now_s, checked)
    controller.stop()


def proposing(**changes: Any) -> Callable[[], Choice]:
    return lambda: Choice(replace(DEFAULT, name="proposed", **changes), "for a reason")


def plan(**changes: Any) -> Plan:
    spec = PlanSpec("graph", "eager", "fp32", 1, "weights", "torch", "1", "isa")
    return replace(Plan(spec, PlanState.VERIFIED, error=0.0), **changes)


def request(at_ms: float) -> Request:
    return Request((), {}, [], 1, 8, 0, 0, at_ms, at_ms + SLO_MS, refusable=True)


def test_what_is_proposed_is_what_the_scheduler_decides_by(bench: Bench) -> None:
    bench.policy.answer = proposing(wait_ms=5.0)
    bench.tick()
    assert bench.scheduler.tables.params.wait_ms == 5.0
    assert bench.checked == [bench.now_s[0]], "the fleet is looked after first"
    (told,) = bench.recorded()
    assert (told.before["wait_ms"], told.after["wait_ms"], told.applied) == (0.0, 5.0, True)
    assert told.reason.startswith("for a reason: ")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"wait_ms": 25.5}, "wait_ms must be at most 25, half the SLO, got 25.5"),
        ({"wait_ms": SLO_MS}, "wait_ms must be at most 25, half the SLO, got 50"),
        ({"wait_ms": 1e9}, "wait_ms must be at most 25, half the SLO, got 1e+09"),
    ],
)
def test_a_choice_that_would_make_all_late_is_vetoed_and_said(
    bench: Bench, changes: dict[str, Any], why: str
) -> None:
    bench.policy.answer = proposing(**changes)
    bench.tick()
    assert bench.scheduler.tables.params == DEFAULT
    assert bench.controller.choice is DEFAULT_CHOICE
    (told,) = bench.recorded()
    assert not told.applied
    assert told.reason.startswith("vetoed, ")
    assert why in told.reason


@pytest.mark.parametrize("name", ["margin", "beta", "alpha", "delta", "spread", "wait_ms"])
def test_a_nan_never_reaches_the_rule_whatever_a_policy_makes_of_its_parameters(
    bench: Bench, name: str
) -> None:
    """`RuleParams` refuses a NaN; what is frozen can be written to all the same."""
    params = replace(DEFAULT, name="proposed")
    object.__setattr__(params, name, math.nan)
    bench.policy.answer = lambda: Choice(params, "for a reason")
    bench.tick()
    assert bench.scheduler.tables.params == DEFAULT
    (told,) = bench.recorded()
    assert not told.applied
    assert told.reason.startswith("vetoed, the proposed parameters hold a NaN; proposed for")


def test_a_hold_of_half_the_slo_is_the_longest_that_is_not_vetoed(bench: Bench) -> None:
    bench.policy.answer = proposing(wait_ms=SLO_MS / 2)
    bench.tick()
    assert bench.scheduler.tables.params.wait_ms == SLO_MS / 2
    bench.policy.answer = proposing(wait_ms=SLO_MS / 2 + 0.5)
    bench.tick()
    assert bench.scheduler.tables.params.wait_ms == SLO_MS / 2, "what was in force stays"
    assert bench.controller.choice.params.wait_ms == SLO_MS / 2


def test_a_policy_in_trouble_changes_nothing_and_is_told_of_once_a_minute(bench: Bench) -> None:
    def fails() -> Choice:
        raise RuntimeError("staged")

    bench.policy.answer = proposing(wait_ms=5.0)
    bench.tick()
    bench.policy.answer = fails
    for _ in range(100):
        bench.tick()
    assert bench.scheduler.tables.params.wait_ms == 5.0, "what was in force stays"
    assert len([d for d in bench.recorded() if "staged" in d.reason]) == 1
    bench.tick(TROUBLE_EVERY_S)
    assert len([d for d in bench.recorded() if "staged" in d.reason]) == 2


def test_plans_that_are_admitted_or_taken_out_are_on_the_tables_at_the_next_tick(
    bench: Bench,
) -> None:
    admitted = plan(costs_ms={Shape(1, 8): 2.0, Shape(4, 8): 5.0})
    bench.tick()
    assert bench.scheduler.tables.plans == (ORIGINAL,)
    bench.stats.costs.seed(admitted.key, admitted.costs_ms)
    bench.admit(admitted)
    bench.tick()
    tables = bench.scheduler.tables
    assert tables.plans == (ORIGINAL, admitted.key)
    assert tables.cost_ms[1, 0, 0] == pytest.approx(2.0)
    bench.library.move(admitted.key, PlanState.QUARANTINED, "it failed")
    bench.tick()
    assert bench.scheduler.tables.plans == (ORIGINAL,)


def test_a_sub_network_never_answers_a_direct_call_however_fast_it_is(bench: Bench) -> None:
    small = plan(costs_ms={Shape(1, 8): 0.1, Shape(4, 8): 0.2}, subnet="small", quality=0.999)
    bench.stats.costs.seed(small.key, small.costs_ms)
    bench.admit(small)
    bench.tick()
    tables = bench.scheduler.tables
    assert tables.plans == (ORIGINAL, small.key)
    assert tables.tier[1] > tables.tier[0] == 0
    assert tables.fastest(1, 0, frozenset({small.key})) == ORIGINAL


def test_tables_that_were_begun_earlier_never_replace_newer_ones(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One refresh is overtaken by another, which knows of a plan that was admitted meanwhile."""
    admitted = plan(costs_ms={Shape(1, 8): 2.0, Shape(4, 8): 5.0})
    prepare = bench.scheduler.prepare

    def overtaken(tables: Tables) -> Ready:
        monkeypatch.setattr(bench.scheduler, "prepare", prepare)
        bench.admit(admitted)
        bench.controller.refresh()
        return prepare(tables)

    monkeypatch.setattr(bench.scheduler, "prepare", overtaken)
    bench.controller.refresh()
    assert bench.scheduler.tables.plans == (ORIGINAL, admitted.key)
    bench.library.move(admitted.key, PlanState.QUARANTINED, "it failed")
    bench.controller.refresh()
    assert bench.scheduler.tables.plans == (ORIGINAL,)


def test_idle_ticks_are_not_recorded_and_busy_ones_once_a_second(bench: Bench) -> None:
    for _ in range(30):
        bench.tick()
    assert bench.recorded() == []
    for _ in range(30):
        now_ms = bench.now_s[0] * 1e3
        bench.stats.arrived(request(now_ms))
        bench.stats.ended(request(now_ms))
        bench.tick()
    told = bench.recorded()
    assert 3 <= len(told) <= 4
    assert told[-1].seen["offered_per_s"] == pytest.approx(10.0, abs=1.0)
    assert "100% met" in told[-1].reason


def test_the_policy_sees_what_was_noted_since(bench: Bench) -> None:
    bench.stats.arrived(request(bench.now_s[0] * 1e3))
    bench.stats.record_batch(BatchRecord(ORIGINAL, 1, 8, 9.0, 8.0, 0, 8, changed=False))
    bench.scheduler.submit(request(bench.now_s[0] * 1e3))
    bench.tick()
    (signals,) = bench.policy.shown
    assert signals.queue == 1
    assert sum(signals.arrivals_100ms) == 1
    assert signals.slo_ms == SLO_MS


def test_savings_are_told_once_a_minute(bench: Bench) -> None:
    admitted = plan(costs_ms={Shape(1, 8): 2.0, Shape(4, 8): 5.0})
    bench.stats.costs.seed(admitted.key, admitted.costs_ms)
    bench.admit(admitted)
    bench.stats.savings.expect(admitted)
    for _ in range(200):
        bench.stats.record_batch(BatchRecord(admitted.key, 1, 8, 2.0, 2.0, 0, 8, changed=False))
    bench.tick()
    assert bench.recorded("plan") == []
    bench.tick(ACCOUNT_EVERY_S)
    (told,) = bench.recorded("plan")
    assert told.subject == admitted.key
    assert told.seen["batches"] == 200
