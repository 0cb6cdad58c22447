"""The best setting that a person could have fixed in advance, for the very same plans.

An exhaustive sweep in the simulator over (plan, batch cap, wait, workers × threads), fed by the
measured cost tables and the very trace that will be sent: the winner is hindsight's choice.
Batches form in order of arrival, as dynamic batching does in every server, with the same early
refusal of hopeless work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evolve.config import Config
from evolve.demo.contenders import Stream
from policies.baselines import StaticPolicy
from policies.params import RuleParams
from profiler.costs import CostTable
from profiler.shapes import Shape, ShapeGrid
from sims.evaluation.static_sweep import sweep_static
from sims.service import Service
from sims.traces import Trace
from supernet.plans import Plan

__all__ = ["Layout", "StaticSetting", "contenders", "sweep"]

CLEARLY_SLOWER = 1.25


@dataclass(frozen=True, slots=True)
class Layout:
    """Workers × threads, and the plans measured with so many threads, alone; `slowdown`: how many
    times as long they take while all workers compute."""

    workers: int
    threads: int
    plans: Sequence[Plan]
    slowdown: float = 1.0


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
            f"{self.plan.spec.title}, {self.workers} workers × {self.threads} threads, "
            f"batch cap {self.params.max_rows}, wait {self.params.wait_ms:g} ms"
        )

    def policy(self) -> StaticPolicy:
        """Holds this setting. With only its plan built, that is plan 1, after the original."""
        return StaticPolicy(replace(self.params, plans=(1,)))

    def config(self, base: Config) -> Config:
        """`base` with this setting's layout and only its plan."""
        return base.replace(
            workers={"count": self.workers, "threads": self.threads},
            plans={"only": (self.plan.key,)},
        )


def contenders(plans: Sequence[Plan]) -> list[Plan]:
    """The plans that a person would think of: those within `CLEARLY_SLOWER` of the fastest at some
    shape that was timed."""
    fastest: dict[Shape, float] = {}
    for plan in plans:
        for shape, ms in plan.costs_ms.items():
            fastest[shape] = min(ms, fastest.get(shape, math.inf))
    return [
        plan
        for plan in plans
        if any(ms <= CLEARLY_SLOWER * fastest[shape] for shape, ms in plan.costs_ms.items())
    ]


def sweep(
    layouts: Sequence[Layout], grid: ShapeGrid, stream: Stream, *, spread: float = math.inf
) -> list[StaticSetting]:
    """Every fixed setting, the highest simulated goodput on `stream` first.

    `spread` inf batches in order of arrival; a finite one groups like lengths, which common
    servers don't offer, to see what grouping alone is worth.
    """
    services = {}
    for layout in layouts:
        costs = CostTable(grid)
        for plan in layout.plans:
            costs.seed(plan.key, plan.costs_ms)
        services[str(layout.workers)] = Service(
            costs.matrix([plan.key for plan in layout.plans]) * layout.slowdown,
            np.array(grid.lengths, np.float64),
            slo_ms=stream.slo_ms,
            workers=layout.workers,
        )
    lengths = np.array([request["input_ids"].shape[1] for request in stream.requests], np.int32)
    trace = Trace(stream.sent_s, np.minimum(lengths, grid.lengths[-1]), name="stream", seed=0)
    by_workers = {str(layout.workers): layout for layout in layouts}
    return [
        StaticSetting(
            plan=by_workers[run.service].plans[run.params.plans[0]],
            params=run.params,
            workers=by_workers[run.service].workers,
            threads=by_workers[run.service].threads,
            expected_per_s=run.result.goodput_per_s,
        )
        for run in sweep_static(trace, services, spreads=(spread,))
    ]
