"""Parts of a program that are the same: equal regions, and the layers that a model repeats."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence

import networkx as nx
import numpy as np
import numpy.typing as npt

from supernet.fusion.graph.matching import is_size
from supernet.fusion.graph.op_graph import OpGraph, OpKind
from supernet.fusion.graph.partition import Partition
from supernet.fusion.graph.regions import Regions

__all__ = ["Layers", "isomorphic", "repeats", "signature", "values_alive"]

_HEAVY = (OpKind.MATMUL, OpKind.CONVOLUTION, OpKind.ATTENTION)


def isomorphic(regions: Regions) -> Mapping[str, tuple[int, ...]]:
    """Which regions compute the same function of other values, so that one build serves all.

    Their ``signature`` -> the indices into ``regions.regions``, ascending.
    """
    found: dict[str, tuple[int, ...]] = {}
    for index, region in enumerate(regions.regions):
        key = signature(regions.graph, region.ops)
        found[key] = (*found.get(key, ()), index)
    return found


def signature(graph: OpGraph, names: Collection[str]) -> str:
    """64 hex digits that are equal only where two sets of ops are the same but for their names.

    The same means: operators, shapes and dtypes, what each takes from which, the sizes of what
    comes from outside and where one thing is taken twice, which results are needed outside, and
    the other arguments as the node attribute ``"arguments"`` has them. Program order counts only
    between ops that nothing else tells apart.
    """
    order = _canonical_order(graph, names)
    place = {name: str(index) for index, name in enumerate(order)}
    ports: dict[str, str] = {}

    def refer(name: str) -> str:
        return place.get(name) or ports.setdefault(name, f"port {len(ports)}")

    lines = []
    for name in order:
        taken = [(refer(p), *_outline(graph, p)) for p in graph.graph.pred[name]]
        # A value read through a view has the view's name in one region, its own in the next.
        read = [
            (use.kind, "" if use.kind == "value" else (refer(use.name), use.bytes))
            for use in graph.op(name).reads
        ]
        lines.append(repr((_label(graph, name), taken, read, _leaves(graph, name, place))))
    return _digest(*lines)


def _canonical_order(graph: OpGraph, names: Collection[str]) -> list[str]:
    """An executable order that depends on names and program order only where nothing else does."""
    inside = set(names)
    program = [name for name in graph.graph if name in inside]
    below: dict[str, str] = {}
    for name in program:
        parts = [below.get(p) or repr(_outline(graph, p)) for p in graph.graph.pred[name]]
        below[name] = _digest(repr(_label(graph, name)), *parts)
    whole: dict[str, str] = {}
    for name in reversed(program):
        after = sorted(whole[s] for s in graph.graph.succ[name] if s in inside)
        whole[name] = _digest(below[name], str(_leaves(graph, name, inside)), *after)
    rank = {name: (whole[name], index) for index, name in enumerate(program)}
    return list(
        nx.lexicographical_topological_sort(graph.graph.subgraph(inside), key=rank.__getitem__)
    )


def _label(graph: OpGraph, name: str) -> tuple[object, ...]:
    op = graph.op(name)
    # Arguments that are no tensors, as text, where the graph tells: two slices of one value may
    # differ in nothing else.
    return op.target, op.shape, op.dtype, graph.graph.nodes[name].get("arguments", "")


def _outline(graph: OpGraph, name: str) -> tuple[tuple[int, ...], str]:
    op = graph.op(name)
    return op.shape, op.dtype


def _leaves(graph: OpGraph, name: str, inside: Collection[str]) -> bool:
    return name in graph.outputs or any(s not in inside for s in graph.graph.succ[name])


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class Layers:
    """Layers that the model repeats: built once, run as often as it has them."""

    name = "layer"
    source = "https://docs.pytorch.org/tutorials/recipes/regional_compilation.html"

    def matches(self, graph: OpGraph, partition: Partition) -> Iterator[frozenset[str]]:
        found = list(_equal(graph, _by_module(graph))) or list(_equal(graph, _by_period(graph)))
        for names in found:
            yield _rounded(graph, partition, names)


def _equal(graph: OpGraph, families: Iterator[list[frozenset[str]]]) -> Iterator[frozenset[str]]:
    """The members that occur at least twice in their family and compute something heavy."""
    for family in families:
        heavy = [names for names in family if any(graph.op(n).kind in _HEAVY for n in names)]
        keys = [signature(graph, names) for names in heavy]
        yield from (n for n, key in zip(heavy, keys, strict=True) if keys.count(key) > 1)


def _rounded(graph: OpGraph, partition: Partition, names: frozenset[str]) -> frozenset[str]:
    """The whole regions that begin among these ops, without those that must stay alone."""
    regions = {partition.region(name) for name in names}
    begun = [r for r in regions if r[0] in names and all(graph.op(n).effect is None for n in r)]
    return frozenset(name for region in begun for name in region)


def _by_module(graph: OpGraph) -> Iterator[list[frozenset[str]]]:
    """The ops of modules that differ in one number of their names, the outermost first."""
    families: dict[tuple[int, str], dict[str, set[str]]] = {}
    # A size is computed where it is first asked for, which says nothing about that layer.
    for op in (op for op in graph.ops() if not is_size(op)):
        for number in re.finditer(r"(?:^|(?<=\.))\d+(?=\.|$)", op.layer):
            path = op.layer[: number.end()]
            family = (path.count("."), op.layer[: number.start()])
            families.setdefault(family, {}).setdefault(path, set()).add(op.name)
    for _, members in sorted(families.items(), key=lambda item: item[0][0]):
        yield [frozenset(names) for names in members.values()]


def _by_period(graph: OpGraph) -> Iterator[list[frozenset[str]]]:
    """The longest stretch of the program that repeats itself, cut where the fewest values pass."""
    ops = graph.ops()
    labels = [_label(graph, op.name) for op in ops]
    cuts = repeats(labels, [op.kind in _HEAVY for op in ops], _passing(graph))
    if cuts:
        pairs = itertools.pairwise(cuts)
        yield [frozenset(op.name for op in ops[first:end]) for first, end in pairs]


def repeats(
    labels: Sequence[Hashable], heavy: Sequence[bool], alive: Sequence[int]
) -> Sequence[int]:
    """Where to cut the longest stretch of a sequence that repeats itself with something heavy in
    it; empty without any.

    Each part has the same labels and begins at one cut and ends at the next. ``alive``: how
    many values pass each place; of equally long stretches the one with the fewest at its
    cuts.
    """
    numbers: dict[Hashable, int] = {}
    tokens = np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)
    weighty = np.concatenate(([0], np.cumsum(np.array(heavy, dtype=np.int64))))
    best = (0, 0, 0, 0)  # ops covered, minus the period, where it begins, how long it goes on
    for period in range(2, len(labels) // 2 + 1):
        starts, lengths = _runs(tokens[:-period] == tokens[period:])
        wanted = lengths >= period
        wanted[wanted] = weighty[starts[wanted] + period] > weighty[starts[wanted]]
        if wanted.any():
            longest = int(np.argmax(np.where(wanted, lengths, 0)))
            start, length = int(starts[longest]), int(lengths[longest])
            best = max(best, ((length // period + 1) * period, -period, start, length))
    covered, period, start, length = best[0], -best[1], best[2], best[3]
    if not covered:
        return ()
    phases = range(start, start + length + period - covered + 1)
    first = min(phases, key=lambda s: sum(alive[s : s + covered + 1 : period]))
    return range(first, first + covered + 1, period)


def _runs(
    equal: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Where each run of True begins, and its length; empty runs among them."""
    edges = np.flatnonzero(~np.concatenate(([False], equal, [False])))
    return edges[:-1], np.diff(edges) - 1


def _passing(graph: OpGraph) -> Sequence[int]:
    """How many values are made before and used at or after each place in the program."""
    place = {name: index for index, name in enumerate(graph.graph)}
    return values_alive(
        [max((place[s] for s in graph.graph.succ[n]), default=i) for n, i in place.items()]
    )


def values_alive(last_uses: Sequence[int]) -> Sequence[int]:
    """The same of a sequence, from the place where each of its values is last used."""
    change = [0] * (len(last_uses) + 2)
    for index, last in enumerate(last_uses):
        change[index + 1] += 1
        change[last + 1] -= 1
    return np.cumsum(change).tolist()  # type: ignore[no-any-return]
