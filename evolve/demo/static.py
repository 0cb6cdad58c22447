"""The best setting that a person could have fixed in advance, for the very same plans.

An exhaustive sweep in the simulator over (plan, batch cap, wait, workers × threads), fed by the
measured cost tables and the very trace that will be sent: the winner is hindsight's choice.
Batches form in order of arrival, as dynamic batching does in every server, with the same early
refusal of hopeless work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evolve.config import Config
from evolve.demo.contenders import Stream
from policies.rule import RuleParams
from profiler.costs import CostTable
from profiler.shapes import ShapeGrid
from sims.sweep import sweep_static
from sims.traces import Trace
from supernet.plans import Plan

__all__ = ["Layout", "StaticSetting", "best_static"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Workers × threads, and the plans measured with so many threads."""

    workers: int
    threads: int
    plans: Sequence[Plan]


@dataclass(frozen=True, slots=True)
class StaticSetting:
    """One plan, one rule preset, one layout; `expected_per_s` is the simulator's goodput."""

    plan: Plan
    params: RuleParams
    workers: int
    threads: int
    expected_per_s: float

    def describe(self) -> str:
        return (
            f"{self.plan.spec.backend} {self.plan.spec.precision}, {self.workers} workers × "
            f"{self.threads} threads, batch cap {self.params.max_rows}, "
            f"wait {self.params.wait_ms:g} ms"
        )

    def config(self, base: Config) -> Config:
        """`base` with this setting's layout and only its plan."""
        return base.replace(
            workers={"count": self.workers, "threads": self.threads},
            plans={
                "backends": (self.plan.spec.backend,),
                "precisions": (self.plan.spec.precision,),
            },
        )


def trace_of(stream: Stream) -> Trace:
    """The stream as the simulator takes it."""
    lengths = np.array([request["input_ids"].shape[1] for request in stream.requests], np.int32)
    return Trace(stream.sent_s, lengths, name="demo", seed=0)


def best_static(layouts: Sequence[Layout], grid: ShapeGrid, stream: Stream) -> StaticSetting:
    """The fixed setting with the highest simulated goodput on `stream`."""
    trace = trace_of(stream)
    found: list[StaticSetting] = []
    for layout in layouts:
        costs = CostTable(grid)
        for plan in layout.plans:
            costs.seed(plan.key, plan.costs_ms)
        ...
    return max(found, key=lambda setting: setting.expected_per_s)
