"""Savings of a plan against the original model: what was expected, and what it did save."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from profiler.costs import CostTable
from profiler.shapes import Shape
from supernet.plans import ORIGINAL

if TYPE_CHECKING:
    from supernet.plans import Plan

__all__ = ["BatchRecord", "Saved", "Savings"]

ENOUGH = 50  # batches, before what they took says something


class BatchRecord(NamedTuple):
    """A batch that ran: `real_tokens` of its `rows` × `length` positions were real; `changed`: its
    lane had run another plan before; `beside` other lanes computed when it began."""

    plan: str
    rows: int
    length: int
    elapsed_ms: float
    predicted_ms: float
    beside: int
    real_tokens: int
    changed: bool


@dataclass(frozen=True, slots=True)
class Saved:
    """Means per batch over `batches` that `plan` ran, in microseconds.

    `took_us`: what they took, or would have taken with no other lane computing. `expected_us`: what
    their shapes took when the plan was built. `original_us`: what they would take on the original.
    """

    plan: str
    batches: int
    took_us: float
    expected_us: float
    original_us: float

    def seen(self) -> dict[str, float]:
        """The figures, for the journal."""
        return {
            "batches": self.batches,
            "took_us": self.took_us,
            "saved_us": self.original_us - self.took_us,
            "expected_saved_us": self.original_us - self.expected_us,
        }

    def __str__(self) -> str:
        saved, expected = self.original_us - self.took_us, self.original_us - self.expected_us
        return (
            f"saved {saved:,.0f} µs per batch of the {self.original_us:,.0f} that the original "
            f"takes, {expected:,.0f} were expected, over {self.batches} batches"
        )


class Savings:
    """Keeps the account. Thread-safe.

    Args:
        costs: Where the original's price is found, as it is now.
    """

    def __init__(self, costs: CostTable) -> None:
        self._costs = costs
        self._built = CostTable(costs.grid)  # as the plans were built, whatever came later
        self._lock = threading.Lock()
        self._records: dict[str, dict[tuple[int, int], list[float]]] = {}

    def expect(self, plan: Plan) -> str:
        """Remembers what `plan` took when it was built; what it should save, in words."""
        self._built.seed(plan.key, plan.costs_ms)
        shapes = sorted(plan.costs_ms, key=lambda shape: (shape.tokens, shape.rows))
        told = []
        for shape in dict.fromkeys((shapes[0], shapes[len(shapes) // 2])):
            original = self._costs.estimate(ORIGINAL, shape).p50_ms
            if math.isfinite(original):
                saved = (original - plan.costs_ms[shape]) * 1e3
                told.append(
                    f"{saved:,.0f} of {original * 1e3:,.0f} µs at {shape.rows} × {shape.length}"
                )
        return f"expected to save {' and '.join(told)}, against the original" if told else ""

    def record_batch(self, note: BatchRecord) -> None:
        """A batch ran; cheap, since every tick brings some."""
        if note.plan == ORIGINAL:
            return
        with self._lock:
            took = self._records.setdefault(note.plan, {}).setdefault(
                (note.rows, note.length), [0, 0]
            )
            took[0] += 1
            took[1] += note.elapsed_ms

    def report(self) -> list[Saved]:
        """Each plan with enough batches since it was last reported, and what they saved."""
        with self._lock:
            due = [p for p, shapes in self._records.items() if _batches(shapes) >= ENOUGH]
            taken = {plan: self._records.pop(plan) for plan in due}
        reports = (self._of(plan, shapes) for plan, shapes in taken.items())
        return [saved for saved in reports if saved is not None]

    def _of(self, plan: str, shapes: dict[tuple[int, int], list[float]]) -> Saved | None:
        batches, took, expected, original = 0.0, 0.0, 0.0, 0.0
        for (rows, length), (count, elapsed_ms) in shapes.items():
            shape = Shape(rows, length)
            if not self._built.grid.holds(shape):
                continue
            there = self._built.estimate(plan, shape).p50_ms
            before = self._costs.estimate(ORIGINAL, shape).p50_ms
            if math.isfinite(there) and math.isfinite(before):
                batches += count
                took += elapsed_ms
                expected += count * there
                original += count * before
        if not batches:
            return None
        means = (1e3 * total / batches for total in (took, expected, original))
        return Saved(plan, int(batches), *means)


def _batches(shapes: dict[tuple[int, int], list[float]]) -> float:
    return sum(count for count, _ in shapes.values())
