"""What the tick learns from the batches that ran."""

from __future__ import annotations

import pytest

from evolve.monitoring.savings import BatchRecord, Savings
from evolve.monitoring.stats import Stats
from evolve.monitoring.traffic import Traffic
from profiler.contention import Contention
from profiler.costs import CostTable
from profiler.shapes import Shape, ShapeGrid
from profiler.signals import Window

SHAPE = Shape(2, 8)


@pytest.fixture
def stats() -> Stats:
    costs = CostTable(ShapeGrid(max_rows=4, lengths=(8,)), clock=lambda: 0.0)
    for plan in ("one", "other"):
        costs.seed(plan, {SHAPE: 5.0})
    window = Window(slo_ms=50.0, workers=1, clock=lambda: 0.0)
    return Stats(window, costs, None, Savings(costs), Traffic(lambda: 0.0), lambda: 0.0)


def ran(plan: str, elapsed_ms: float, *, changed: bool) -> BatchRecord:
    return BatchRecord(plan, 2, 8, elapsed_ms, 5.0, 0, 16, changed)


def test_a_change_of_plan_is_charged_beside_the_prices(stats: Stats) -> None:
    for index in range(400):
        plan = ("one", "other")[index // 2 % 2]
        changed = index % 2 == 0
        stats.record_batch(ran(plan, 6.5 if changed else 5.0, changed=changed))
    stats.settle()
    signals = stats.window.snapshot(queue=0, head_slack_ms=50.0, busy=0)
    assert signals.switch_ms == pytest.approx(1.5)
    for plan in ("one", "other"):
        assert stats.costs.estimate(plan, SHAPE).p50_ms == pytest.approx(5.0, rel=0.02)


def test_a_plan_that_got_slower_is_not_taken_for_a_change(stats: Stats) -> None:
    for index in range(400):
        stats.record_batch(ran("one", 7.0, changed=index % 2 == 0))
    stats.settle()
    assert stats.window.switch_ms == 0.0
    assert stats.costs.estimate("one", SHAPE).p50_ms == pytest.approx(7.0, rel=0.05)


def test_company_is_charged_to_the_machine_and_not_to_the_plans() -> None:
    costs = CostTable(ShapeGrid(max_rows=4, lengths=(8,)), clock=lambda: 0.0)
    costs.seed("one", {SHAPE: 5.0})
    window, contention = Window(slo_ms=50.0, workers=2, clock=lambda: 0.0), Contention(2)
    stats = Stats(
        window, costs, None, Savings(costs), Traffic(lambda: 0.0), lambda: 0.0,
        contention=contention,
    )  # fmt: skip
    for index in range(600):
        beside = index % 2
        took_ms = (5.0, 8.0)[beside]
        predicted_ms = costs.estimate("one", SHAPE).p50_ms * contention.slowdown(beside)
        stats.record_batch(BatchRecord("one", 2, 8, took_ms, predicted_ms, beside, 16, False))
        stats.settle()
    assert contention.slowdown(1) == pytest.approx(1.6, rel=0.03)
    assert costs.estimate("one", SHAPE).p50_ms == pytest.approx(5.0, rel=0.03)
