"""A captured program's operators in regions that run as one, and what that saves."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass

import networkx as nx

from supernet.fusion.graph.matching import is_size
from supernet.fusion.graph.op_graph import Op, OpGraph
from supernet.fusion.graph.partition import Partition

__all__ = ["Partition", "Region", "Regions", "singletons"]


@dataclass(frozen=True, slots=True)
class Region:
    """Ops that run as one, in program order. ``rule``: what put them together, "none" for nothing.

    An op is one with those that only take apart or measure its result, even under "none".
    """

    rule: str
    ops: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Disjoint regions that cover every op of ``graph``, in an order that can be executed."""

    graph: OpGraph
    regions: tuple[Region, ...]

    def __post_init__(self) -> None:
        count = Counter(name for region in self.regions for name in region.ops)
        wrong = [name for name in self.graph.graph if count[name] != 1]
        wrong += [name for name in count if name not in self.graph.graph]
        if wrong:
            raise ValueError(
                f"regions must hold every op exactly once, got {count[wrong[0]]} times {wrong[0]!r}"
            )
        home = self._home()
        for source, target in self.graph.graph.edges:
            if home[source] > home[target]:
                raise ValueError(
                    f"regions must be in an order that can be executed, got {target!r} "
                    f"before {source!r}"
                )

    def quotient(self) -> nx.DiGraph:
        """The acyclic graph of indices into ``regions``.

        Node attribute ``"region"``; edge attribute ``"bytes"``: of the distinct values that pass.
        """
        home = self._home()
        passing: dict[tuple[int, int], dict[str, int]] = {}
        for source, target, size in self.graph.graph.edges(data="bytes", default=0):
            if home[source] != home[target]:
                values = passing.setdefault((home[source], home[target]), {})
                values[source] = max(size, values.get(source, 0))
        quotient = nx.DiGraph()
        quotient.add_nodes_from((i, {"region": r}) for i, r in enumerate(self.regions))
        quotient.add_edges_from(
            (*ends, {"bytes": sum(values.values())}) for ends, values in passing.items()
        )
        return quotient

    def bytes_saved(self, region: Region) -> int:
        """Bytes of the values that are made and used up inside: none of them has to be stored.

        A value counts once; left in memory it costs one write and a read per use.
        """
        inside = set(region.ops)
        used_inside, needed = set[str](), set(self.graph.outputs)
        for op in self.graph.ops():
            target = used_inside if op.name in inside else needed
            target.update(use.name for use in op.reads)
        return sum(self.graph.op(name).writes for name in (inside & used_inside) - needed)

    def key(self) -> str:
        """64 hex digits that say which ops are together, whichever rules did it.

        The same for every shape of one program: it tells ways to run a program apart, not programs.
        """
        together = sorted(sorted(region.ops) for region in self.regions)
        return hashlib.sha256(json.dumps(together).encode()).hexdigest()

    def _home(self) -> dict[str, int]:
        return {name: i for i, region in enumerate(self.regions) for name in region.ops}


def singletons(graph: OpGraph) -> Partition:
    """Every op alone: what rules start from.

    Only ``getitem`` and sizes are one with the op whose result they take apart or measure: they
    compute nothing. An op with an ``effect`` stays alone, these aside, for good.
    """
    units: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for op in graph.ops():
        before = list(graph.graph.pred[op.name])
        if _only_looks(op) and len(before) == 1:
            owner[op.name] = owner.get(before[0], before[0])
            units.setdefault(owner[op.name], [owner[op.name]]).append(op.name)
    effects = [op.name for op in graph.ops() if op.effect is not None]
    return Partition(graph.graph, units.values(), effects)


def _only_looks(op: Op) -> bool:
    return op.effect is None and (op.target.endswith(".getitem") or is_size(op))
