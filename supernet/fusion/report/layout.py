"""Layout of a drawn graph: boxes and lines in levels, with few crossings, lines upright.

After Sugiyama et al., "Methods for visual understanding of hierarchical system structures", IEEE
Trans. SMC 11(2), 1981. All lengths are in inches, y grows downwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import networkx as nx

__all__ = ["Layout", "layered"]

Point: TypeAlias = tuple[float, float]
Edge: TypeAlias = tuple[str, str]

_GAP_X, _GAP_Y, _LANE = 0.2, 0.28, 0.3
_SWEEPS = 24


@dataclass(frozen=True, slots=True)
class Layout:
    """The centre of every box and, of an edge past other levels, where its upright part ends."""

    places: Mapping[str, Point]
    bends: Mapping[Edge, tuple[Point, Point]]
    width: float
    height: float

    def stretched(self, height: float) -> Layout:
        """The same with more room between the levels, so that it is at least so high."""
        factor = max(1.0, height / self.height) if self.height else 1.0
        places = {name: (x, y * factor) for name, (x, y) in self.places.items()}
        bends = {
            e: ((x, y * factor), (u, v * factor)) for e, ((x, y), (u, v)) in self.bends.items()
        }
        return Layout(places, bends, self.width, self.height * factor)


def layered(flow: nx.DiGraph, sizes: Mapping[str, Point]) -> Layout:
    """Every node of an acyclic graph below those it depends on, for boxes of these sizes."""
    if not flow:
        return Layout({}, {}, 0.0, 0.0)
    level = _levels(flow)
    rows = _rows(flow, level)
    tops, bottoms, y = [], [], 0.0
    for row in rows:
        tops.append(y)
        y += max((sizes[name][1] for name in row), default=0.0)
        bottoms.append(y)
        y += _GAP_Y
    x = _across(flow, rows, sizes)
    lanes = _lanes(flow, rows, level, x, sizes)
    left = min([*(x[n] - sizes[n][0] / 2 for n in x), *(at - _LANE / 2 for at in lanes.values())])
    right = max([*(x[n] + sizes[n][0] / 2 for n in x), *(at + _LANE / 2 for at in lanes.values())])
    places = {n: (x[n] - left, (tops[level[n]] + bottoms[level[n]]) / 2) for n in flow}
    bends = {
        (a, b): ((at - left, tops[level[a] + 1]), (at - left, bottoms[level[b] - 1]))
        for (a, b), at in lanes.items()
    }
    return Layout(places, bends, right - left, bottoms[-1])


def _levels(flow: nx.DiGraph) -> dict[str, int]:
    """As early as possible; what depends on nothing, just before it is needed."""
    level: dict[str, int] = {}
    for name in nx.topological_sort(flow):
        level[name] = max((level[before] + 1 for before in flow.pred[name]), default=0)
    for name in flow:
        if not flow.pred[name] and flow.succ[name]:
            level[name] = min(level[after] for after in flow.succ[name]) - 1
    first = min(level.values())
    return {name: at - first for name, at in level.items()}


def _rows(flow: nx.DiGraph, level: Mapping[str, int]) -> list[list[str]]:
    """The names by level, so sorted that few edges cross: by the mean place of neighbours."""
    fine = nx.DiGraph()
    rows: list[list[str]] = [[] for _ in range(max(level.values()) + 1)]
    for name in flow:
        fine.add_node(name)
        rows[level[name]].append(name)
    for a, b in flow.edges:  # a long edge takes a place in every row that it passes
        between = {f"{a}\0{b}\0{at}": at for at in range(level[a] + 1, level[b])}
        nx.add_path(fine, [a, *between, b])
        for name, at in between.items():
            rows[at].append(name)
    best, fewest = [list(row) for row in rows], _crossings(fine, rows)
    for sweep in range(_SWEEPS):
        near, turned = (fine.succ, rows[::-1]) if sweep % 2 else (fine.pred, rows)
        place = _places(rows)
        for row in turned:
            row.sort(key=lambda name: _mean([place[n] for n in near[name]], place[name]))
            place |= _places([row])
        if (crossings := _crossings(fine, rows)) < fewest:
            best, fewest = [list(row) for row in rows], crossings
    return [[name for name in row if name in flow] for row in best]


def _places(rows: Sequence[Sequence[str]]) -> dict[str, float]:
    """From 0 at a row's beginning to 1 at its end."""
    return {name: (i + 0.5) / len(row) for row in rows for i, name in enumerate(row)}


def _crossings(fine: nx.DiGraph, rows: Sequence[Sequence[str]]) -> int:
    place = {name: index for row in rows for index, name in enumerate(row)}
    total = 0
    for row in rows:
        ends = [(place[a], place[b]) for a in row for b in fine.succ[a]]
        total += sum(a < c and b > d for a, b in ends for c, d in ends)
    return total


def _across(
    flow: nx.DiGraph, rows: Sequence[Sequence[str]], sizes: Mapping[str, Point]
) -> dict[str, float]:
    """Boxes below the middle of their sources, or above that of their users; no two overlap."""
    x = dict.fromkeys(flow, 0.0)
    for sweep in range(_SWEEPS + 1):
        first, second, turned = (
            (flow.succ, flow.pred, rows[::-1]) if sweep % 2 else (flow.pred, flow.succ, rows)
        )
        last: Sequence[str] = ()
        for row in turned:
            wanted = []
            for name in row:  # neighbours in the next row count, those far away for want of them
                near = [n for n in first[name] if n in last] or first[name] or second[name]
                wanted.append(_mean([x[n] for n in near], x[name]))
            x |= zip(row, _spread(row, wanted, sizes), strict=True)
            last = row
    return x


def _spread(row: Sequence[str], wanted: Sequence[float], sizes: Mapping[str, Point]) -> list[float]:
    """The wanted places, moved apart as little as possible: boxes that touch share a mean.

    Pool adjacent violators: Ayer et al., Ann. Math. Statist. 26(4), 1955.
    """
    offsets = [0.0][: len(row)]
    for before, name in pairwise(row):
        offsets.append(offsets[-1] + (sizes[before][0] + sizes[name][0]) / 2 + _GAP_X)
    blocks: list[tuple[float, int]] = []  # where, and how many boxes
    for at, offset in zip(wanted, offsets, strict=True):
        blocks.append((at - offset, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, n), (b, m) = blocks[-2:]
            blocks[-2:] = [((a * n + b * m) / (n + m), n + m)]
    flat = [at for at, count in blocks for _ in range(count)]
    return [at + offset for at, offset in zip(flat, offsets, strict=True)]


def _lanes(
    flow: nx.DiGraph,
    rows: Sequence[Sequence[str]],
    level: Mapping[str, int],
    x: Mapping[str, float],
    sizes: Mapping[str, Point],
) -> dict[Edge, float]:
    """Where each long edge passes the levels between: near its ends, free of boxes and others."""
    lanes: dict[Edge, float] = {}
    long = [(a, b) for a, b in flow.edges if level[b] - level[a] > 1]
    for a, b in sorted(long, key=lambda edge: level[edge[1]] - level[edge[0]]):
        passed = [name for row in rows[level[a] + 1 : level[b]] for name in row]
        taken = [(x[n], sizes[n][0] / 2 + _LANE / 2) for n in passed]
        taken += [(at, _LANE) for (c, d), at in lanes.items()
                  if level[c] < level[b] and level[a] < level[d]]  # fmt: skip
        wanted = (x[a] + x[b]) / 2
        places = [wanted, *(at + side * half for at, half in taken for side in (-1, 1))]
        free = [p for p in places if all(abs(p - at) > half - 1e-6 for at, half in taken)]
        lanes[a, b] = min(free, key=lambda place: (round(abs(place - wanted), 1), place))
    return lanes


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default
