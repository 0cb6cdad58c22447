"""What a plan saved is told beside what was expected of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import evolve
from evolve.monitoring.savings import ENOUGH, BatchRecord, Savings
from profiler.costs import CostTable
from profiler.shapes import Shape, ShapeGrid
from supernet.plans import ORIGINAL, Plan, PlanState
from tests.evolve.conftest import WAITED_FOR
from tests.supernet.test_plans import SPEC

ONE, FOUR = Shape(1, 8), Shape(4, 8)


@pytest.fixture
def savings() -> Savings:
    costs = CostTable(ShapeGrid(max_rows=4, lengths=(8,)))
    costs.seed(ORIGINAL, {ONE: 10.0, FOUR: 40.0})
    return Savings(costs)


PLAN = Plan(SPEC, PlanState.ADMITTED, error=0.0, costs_ms={ONE: 4.0, FOUR: 16.0})


def note(rows: int, elapsed_ms: float, plan: str = PLAN.key) -> BatchRecord:
    return BatchRecord(plan, rows, 8, elapsed_ms, elapsed_ms, 0, rows * 8, False)


def test_what_is_expected_is_said_at_two_shapes(savings: Savings) -> None:
    assert savings.expect(PLAN) == (
        "expected to save 6,000 of 10,000 µs at 1 × 8 and 24,000 of 40,000 µs at 4 × 8, "
        "against the original"
    )


def test_the_account_is_of_the_batches_that_ran(savings: Savings) -> None:
    savings.expect(PLAN)
    for _ in range(ENOUGH):
        savings.record_batch(note(1, 5.0))
        savings.record_batch(note(4, 15.0))
        savings.record_batch(note(4, 39.0, ORIGINAL))
    (saved,) = savings.report()
    assert saved.batches == 2 * ENOUGH
    assert saved.seen() == pytest.approx(
        {"batches": 100, "took_us": 10_000, "saved_us": 15_000, "expected_saved_us": 15_000}
    )
    assert str(saved) == (
        "saved 15,000 µs per batch of the 25,000 that the original takes, 15,000 were expected, "
        "over 100 batches"
    )
    assert savings.report() == []  # told once


def test_a_few_batches_say_nothing_yet(savings: Savings) -> None:
    savings.expect(PLAN)
    for _ in range(ENOUGH - 1):
        savings.record_batch(note(1, 5.0))
    assert savings.report() == []
    savings.record_batch(note(1, 5.0))
    assert len(savings.report()) == 1


def test_shapes_nobody_has_a_price_for_are_left_out(savings: Savings) -> None:
    savings.expect(PLAN)
    for _ in range(ENOUGH):
        savings.record_batch(note(9, 5.0))
    assert savings.report() == []


def test_the_journal_tells_what_was_expected_and_what_came(tmp_path: Path) -> None:
    # Many small operators: the plan saves their overhead by a wide margin, so that it serves.
    deep = torch.nn.Sequential(
        *(layer for _ in range(30) for layer in (torch.nn.Linear(8, 8), torch.nn.Tanh()))
    ).eval()
    config = evolve.Config(capture=WAITED_FOR).replace(
        plans={"cache_dir": tmp_path / "cache", "backends": ("onnxruntime",),
               "precisions": ("fp32",)},
    )  # fmt: skip
    with evolve.wrap(deep, (torch.randn(1, 8),), config=config) as runtime:
        assert runtime.wait_for_plans(60)
        for _ in range(3 * ENOUGH):
            runtime(torch.randn(1, 8))
        plans = {plan.key for plan in runtime.plans()}
        runtime.close()
        said = [d for d in runtime.decisions(1000) if d.kind == "plan" and d.subject in plans]
    resident = [d for d in said if d.after.get("state") == "resident"]
    assert resident
    assert "µs at 1 × 1" in resident[0].reason
    account = [d for d in said if "saved_us" in d.seen]
    assert account
    assert sum(d.seen["batches"] for d in account) >= ENOUGH
    assert all(d.reason.startswith("saved ") for d in account)
