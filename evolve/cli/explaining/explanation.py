"""An explanation of fused plans: which share an artifact, their regions, their timings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiler.shapes import Shape
    from supernet.fusion.graph.regions import Regions
    from supernet.fusion.report.region_report import Account
    from supernet.plans import Plan

__all__ = ["Explanation", "Story", "Timing"]


@dataclass(frozen=True, slots=True)
class Story:
    """Plans that share one fused artifact, and its regions; without any once its files are gone."""

    plans: tuple[Plan, ...]
    regions: Regions | None = None
    accounts: tuple[Account, ...] = ()


@dataclass(frozen=True, slots=True)
class Timing:
    """Measured milliseconds at a shape, beside the fastest other plan on as many threads."""

    shape: Shape
    ms: float
    other: Plan | None
    other_ms: float | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that was asked about. ``shape``: what bytes are counted at, None without a fused plan.

    ``gb_per_s``: this machine's measured memory bandwidth; None where nobody measured it.
    ``limit``: of the error. ``verified``: what timings are compared with.
    """

    stories: tuple[Story, ...]
    others: tuple[Plan, ...]
    verified: tuple[Plan, ...]
    shape: Shape | None
    gb_per_s: float | None
    limit: float

    def us(self, size: int) -> float | None:
        """Microseconds that so many bytes take on their way to memory; None if not measured."""
        return None if not self.gb_per_s else size / self.gb_per_s / 1e3

    def timings(self, plan: Plan) -> list[Timing]:
        """At the smallest and the largest shape, of those another plan was measured at, if any."""
        rivals = [p for p in self.verified
                  if p.spec.threads == plan.spec.threads and p.key != plan.key]  # fmt: skip
        shapes = sorted(plan.costs_ms, key=lambda shape: (shape.tokens, shape.rows))
        shapes = [s for s in shapes if any(s in p.costs_ms for p in rivals)] or shapes
        found = []
        for shape in dict.fromkeys([*shapes[:1], *shapes[-1:]]):
            there = [p for p in rivals if shape in p.costs_ms]
            best = min(there, key=lambda p: p.costs_ms[shape], default=None)
            ms = None if best is None else best.costs_ms[shape]
            found.append(Timing(shape, plan.costs_ms[shape], best, ms))
        return found
