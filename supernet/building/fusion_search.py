"""The search for fused plans of one captured program; runs inside a build process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import geometric_mean
from typing import Any

import numpy as np

from profiler.shapes import Shape, ShapeGrid
from supernet.backends.base import Source
from supernet.backends.fused_build import captured, plan_of, roundings
from supernet.backends.fused_plan import FusedPlan
from supernet.building.timing import resize_batch
from supernet.errors import BuildFailed, OutsideRange
from supernet.fidelity import Limit, judge
from supernet.fusion.kernels import native
from supernet.fusion.search import NOISE, MeasuredVariant, candidates, halve, pareto
from supernet.plans import PlanSpec

__all__ = ["search"]

# The rules that make a difference to what is run; the others only say what could be.
_OPTIONAL = ("qkv", "activation", "residual", "conv")
_SHAPES = 6
# Of the error limit: a plan that uses less of it serves where the best tier is too slow.
_SHARES = (1.0, 0.25)


def search(
    source: Source,
    base: PlanSpec,
    grid: ShapeGrid,
    limit: Limit,
    *,
    mixed: bool,
    budget_s: float,
    say: Callable[[str, float], None],
) -> tuple[PlanSpec, ...]:
    """Fused plans like ``base`` that nothing beats in time, memory and error, over six shapes, best
    first.

    ``base.fusion`` lists every rule. ``mixed``: whether coarser precisions are tried as well.
    Raises `BuildFailed` where there is nothing to fuse.
    """
    native.prepare(source.kernels)
    program, graph = captured(source)
    references = source.references()
    batches = _batches(source, grid)
    ways = candidates(program, graph, base.fusion.split("+"), _OPTIONAL)
    if not ways:
        raise BuildFailed("nothing to fuse: no product or convolution with fixed weights")
    say("searching fusions", 0.1)
    by_name = {"+".join(way.rules): way for way in ways}
    plans = {name: plan_of(program, way.regions, {}) for name, way in by_name.items()}
    clock = time.process_time if base.threads == 1 else time.perf_counter
    calls = {name: _calls(plan, batches) for name, plan in plans.items()}
    medians = halve(calls, budget_s=budget_s / 2, clock=clock)
    specs = {name: replace(base, fusion=name, precision="fp32", limit="") for name in medians}
    found = [
        _evidence(name, plans[name], medians[name], references, limit.metric) for name in medians
    ]
    best = by_name[_fastest(medians, [name for name in by_name if name in medians])]
    for share in _SHARES if mixed else ():
        say("searching precisions", 0.5)
        within = str(Limit(limit.metric, share * limit.most))
        name = f"{'+'.join(best.rules)} {within}"
        spec = replace(base, fusion="+".join(best.rules), precision="mixed", limit=within)
        try:
            rounded = roundings(program, best.regions, source, spec)
        except BuildFailed:  # so little of the limit bears no rounding at all
            continue
        plan = plan_of(program, best.regions, rounded)
        taken = {shape: batch for shape, batch in batches.items() if _takes(plan, batch)}
        if not taken:
            continue
        specs[name] = spec
        costs = halve({name: _calls(plan, taken)}, budget_s=budget_s / 4, clock=clock)
        found.append(_evidence(name, plan, costs[name], references, limit.metric))
    return tuple(specs[one.name] for one in pareto(found))


def _batches(source: Source, grid: ShapeGrid) -> dict[Shape, list[Any]]:
    signature = source.signature
    inputs = source.references()[0][0]
    shapes = [s for s in grid.probe_shapes() if signature.batchable or s.rows == 1]
    # The costliest fifth says little that the rest does not, and takes most of the time.
    places = np.linspace(0, 0.8 * (len(shapes) - 1), _SHAPES).round().astype(int)
    spread = dict.fromkeys(shapes[place] for place in places)
    return {shape: resize_batch(inputs, signature, shape) for shape in spread}


def _fastest(medians: Mapping[str, Mapping[Shape, float]], preferred: Sequence[str]) -> str:
    """The fastest over the shapes that all were measured at; within noise the first preferred."""
    shapes = set[Shape].intersection(*(set(costs) for costs in medians.values()))
    mean = {name: geometric_mean([medians[name][s] for s in shapes]) for name in medians}
    least = min(mean.values())
    return next(name for name in preferred if mean[name] <= (1 + NOISE) * least)


def _takes(plan: FusedPlan, batch: Sequence[Any]) -> bool:
    """Whether the numbers of a batch are within what a rounded plan can hold."""
    try:
        plan.run(batch)
    except OutsideRange:
        return False
    return True


def _calls(
    plan: FusedPlan, batches: Mapping[Shape, Sequence[Any]]
) -> dict[Shape, Callable[[], Any]]:
    return {shape: partial(plan.run, batch) for shape, batch in batches.items()}


def _evidence(
    name: str, plan: FusedPlan, costs: Mapping[Shape, float], references: Any, metric: str
) -> MeasuredVariant:
    pairs = [(plan.run(inputs), answers) for inputs, answers in references]
    return MeasuredVariant(name, costs, plan.weight_bytes, judge(metric, pairs).worst)
