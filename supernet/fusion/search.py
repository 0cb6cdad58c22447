"""Search for the fusions of one program that are worth building, shape by shape.

Candidates are the sets of rules that lower to different kernels, ordered by a cost model (the bytes
that the kernels keep to themselves), then measured side by side by successive halving (Jamieson and
Talwalkar 2016, arXiv:1502.07943): after each rung the better half goes on, with twice the runs.
Precision is searched on the fusion that wins. What nothing else beats in time, memory and error is
the answer.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.export import ExportedProgram

from profiler.shapes import Shape
from supernet.fusion.graph.op_graph import OpGraph
from supernet.fusion.graph.regions import Region
from supernet.fusion.lowering.lowering import lower
from supernet.fusion.rules.rules import FusionChoice, apply_fusion_rules

__all__ = ["Candidate", "MeasuredVariant", "candidates", "halve", "pareto", "subsets"]

NOISE = 0.03
"""Two timings of the same program differ by so much."""

_FIRST_RUNS = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """Rules, the regions they make, and the bytes that a batch of the typical shape then moves."""

    rules: tuple[str, ...]
    regions: tuple[tuple[str, ...], ...]
    bytes_moved: int


@dataclass(frozen=True, slots=True)
class MeasuredVariant:
    """One measured way to run a program: names what it is, and what it costs.

    ``costs_ms``: median per shape. ``memory_bytes``: of the weights it holds. ``error``: by the
    caller's metric.
    """

    name: str
    costs_ms: Mapping[Shape, float]
    memory_bytes: int
    error: float


def subsets(rules: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Every choice among these rules, in their order, all of them first."""
    for size in range(len(rules), -1, -1):
        yield from itertools.combinations(rules, size)


def candidates(
    program: ExportedProgram, graph: OpGraph, always: Sequence[str], optional: Sequence[str]
) -> tuple[Candidate, ...]:
    """The choices of ``optional`` rules that lower to different kernels, fewest bytes moved first.

    ``always``: all rules in order, of which those that are not optional apply in every candidate.
    Of two choices that lower to the same, the one with more rules; one without kernels is none.
    """
    total = sum(op.writes + sum(use.bytes for use in op.reads) for op in graph.ops())
    known: dict[frozenset[tuple[str, ...]], Candidate] = {}
    seen: set[str] = set()
    for chosen in subsets(optional):
        rules = tuple(rule for rule in always if rule in chosen or rule not in optional)
        found = apply_fusion_rules(graph, FusionChoice(rules))
        if found.key() in seen:  # lowering packs every weight: not twice for the same regions
            continue
        seen.add(found.key())
        regions = tuple(region.ops for region in found.regions)
        kernels = lower(program, regions).kernels
        if kernels and frozenset(kernels) not in known:
            kept = sum(found.bytes_saved(Region("kernel", ops)) for ops in kernels)
            # What is not stored is not read back either.
            known[frozenset(kernels)] = Candidate(rules, regions, total - 2 * kept)
    return tuple(sorted(known.values(), key=lambda c: (c.bytes_moved, -len(c.rules), c.rules)))


def halve(
    runs: Mapping[str, Mapping[Shape, Callable[[], Any]]],
    *,
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[Shape, float]]:
    """Median milliseconds per contender and shape of those that last, the most promising first.

    ``runs``: each contender's call per shape, the contenders in the order that the cost model
    prefers. A contender stays while it is the fastest at some shape, to within noise, or in the
    better half by its best shape. Shapes that the budget does not reach are left out, the
    costliest first; at least one is measured.
    """
    begun = clock()
    times: dict[str, dict[Shape, list[float]]] = {name: {} for name in runs}
    alive, count = list(runs), _FIRST_RUNS
    while True:
        for shape in sorted(next(iter(runs.values()), {}), key=lambda s: (s.tokens, s.rows)):
            if clock() - begun > budget_s and any(times[alive[0]].values()):
                break
            for _ in range(count):
                for name in alive:
                    call = runs[name][shape]
                    if shape not in times[name]:
                        call()  # the first run of a shape may make kernels for it
                    began = clock()
                    call()
                    times[name].setdefault(shape, []).append((clock() - began) * 1e3)
        medians = {
            name: {shape: statistics.median(ms) for shape, ms in times[name].items()}
            for name in alive
        }
        ranks = _ranks(medians)
        kept = {name for name in alive if ranks[name] <= 1 + NOISE}
        kept |= set(sorted(alive, key=ranks.__getitem__)[: math.ceil(len(alive) / 2)])
        if len(kept) == len(alive) or clock() - begun > budget_s:
            return {name: medians[name] for name in sorted(alive, key=ranks.__getitem__)}
        alive, count = [name for name in alive if name in kept], 2 * count


def _ranks(medians: Mapping[str, Mapping[Shape, float]]) -> dict[str, float]:
    """Each one's time over the fastest's, at the shape where it does best."""
    shapes = set[Shape].intersection(*(set(ms) for ms in medians.values()))
    best = {shape: min(ms[shape] for ms in medians.values()) for shape in shapes}
    return {name: min(ms[shape] / best[shape] for shape in shapes) for name, ms in medians.items()}


def pareto(found: Sequence[MeasuredVariant]) -> list[MeasuredVariant]:
    """Those that nothing else beats in time (at every shape), memory and error, in their order.

    Times within noise of each other count as equal; of equals the first stays.
    """
    kept: list[MeasuredVariant] = []
    for index, one in enumerate(found):
        rivals = [*kept, *found[index + 1 :]]
        if not any(_dominates(rival, one, first=rival in kept) for rival in rivals):
            kept.append(one)
    return kept


def _dominates(rival: MeasuredVariant, one: MeasuredVariant, *, first: bool) -> bool:
    shapes = one.costs_ms.keys() & rival.costs_ms.keys()
    ratios = [rival.costs_ms[shape] / one.costs_ms[shape] for shape in shapes]
    bounds = (rival.memory_bytes <= one.memory_bytes, rival.error <= one.error)
    if not all(bounds) or not all(ratio <= 1 + NOISE for ratio in ratios):
        return False
    better = rival.memory_bytes < one.memory_bytes or rival.error < one.error
    return first or better or any(ratio < 1 - NOISE for ratio in ratios)
