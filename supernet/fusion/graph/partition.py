"""Nodes of a graph that may run as one: disjoint regions that never wait for each other."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import cast

import networkx as nx

__all__ = ["Partition"]


class Partition:
    """A graph's nodes in disjoint regions, whose graph (the *quotient*) never gets a cycle.

    A set of regions may become one exactly when it is convex in the quotient: no path leaves it
    and comes back. Otherwise the region would need a value that is computed from its own result.
    Edges between the members are not required: independent nodes may share a region.

    ``graph``: acyclic, node order is program order where edges leave a choice. ``together``:
    sets that are one region from the start. ``alone``: nodes whose region is never merged.
    The regions are kept in an order that can be executed; a merge reorders what lies between
    its members and looks at nothing else (Pearce and Kelly 2006, "A dynamic topological sort
    algorithm for directed acyclic graphs", doi:10.1145/1187436.1210590), so it takes at most
    O(nodes + edges).

    >>> partition = Partition(nx.DiGraph([("a", "b"), ("b", "c")]))
    >>> partition.merge(["a", "c"])  # b would have to run in the middle of it
    False
    >>> partition.merge(["a", "b"])
    True
    >>> partition.regions()
    (('a', 'b'), ('c',))
    """

    def __init__(
        self,
        graph: nx.DiGraph,
        together: Iterable[Collection[str]] = (),
        alone: Collection[str] = (),
    ) -> None:
        nodes = _program_order(graph)
        self._place = {name: index for index, name in enumerate(nodes)}
        self._region = dict(self._place)
        self._members = {index: [name] for index, name in enumerate(nodes)}
        self._before = {i: {self._place[p] for p in graph.pred[n]} for n, i in self._place.items()}
        self._after = {i: {self._place[s] for s in graph.succ[n]} for n, i in self._place.items()}
        self._order: list[int | None] = list(range(len(nodes)))
        self._slot = {index: index for index in range(len(nodes))}
        self._closed: set[int] = set()
        self._fused: set[int] = set()
        for names in together:
            if not self.merge(names):
                raise ValueError(f"together must be disjoint convex sets, got {sorted(names)}")
        self._closed = {self._home(name) for name in alone}
        self._fused = set()  # what is together from the start is nobody's merge

    def merge(self, names: Collection[str]) -> bool:
        """Make the regions that ``names`` consist of one region; False where that is illegal.

        False too where ``names`` holds a region in part, and where a member must stay alone.
        Nothing changes then. A set that is one region already is True.
        """
        union = {self._home(name) for name in names}
        if not union:
            raise ValueError("names must hold at least one node, got none")
        if sum(len(self._members[region]) for region in union) != len(set(names)):
            return False
        if len(union) == 1:
            return True
        if union & self._closed:
            return False
        late = self._downstream(union)
        if late is None:
            return False
        self._contract(union, late)
        return True

    def region(self, name: str) -> tuple[str, ...]:
        """The region that holds this node, in program order."""
        return tuple(self._members[self._home(name)])

    def regions(self) -> tuple[tuple[str, ...], ...]:
        """Every region, in an order that can be executed."""
        return tuple(tuple(self._members[r]) for r in self._order if r is not None)

    def is_free(self, name: str) -> bool:
        """Whether the node's region may still be merged and no merge has taken it yet."""
        return self._home(name) not in self._closed | self._fused

    def copy(self) -> Partition:
        """The same regions, to try merges on."""
        twin = object.__new__(Partition)
        twin._place = self._place
        twin._region = dict(self._region)
        twin._members = {region: list(names) for region, names in self._members.items()}
        twin._before = {region: set(others) for region, others in self._before.items()}
        twin._after = {region: set(others) for region, others in self._after.items()}
        twin._order = list(self._order)
        twin._slot = dict(self._slot)
        twin._closed = set(self._closed)
        twin._fused = set(self._fused)
        return twin

    def _home(self, name: str) -> int:
        try:
            return self._region[name]
        except KeyError:
            raise ValueError(f"names must be nodes of the graph, got {name!r}") from None

    def _downstream(self, union: set[int]) -> set[int] | None:
        """What ``union`` leads to within its stretch of the order; None if it leads back to it.

        Nothing after the union's last member can lead to it, so the search stops there.
        """
        last = max(self._slot[region] for region in union)
        found: set[int] = set()
        waiting = [n for region in union for n in self._after[region] if n not in union]
        while waiting:
            region = waiting.pop()
            if region in found or self._slot[region] > last:
                continue
            found.add(region)
            if not union.isdisjoint(self._after[region]):
                return None
            waiting.extend(self._after[region])
        return found

    def _contract(self, union: set[int], late: set[int]) -> None:
        slots = [self._slot[region] for region in union]
        first, last = min(slots), max(slots)
        kept = min(union)
        others = [r for r in self._order[first : last + 1] if r is not None and r not in union]
        settled: list[int | None] = [
            *(r for r in others if r not in late),
            kept,
            *(r for r in others if r in late),
        ]
        settled += [None] * (last + 1 - first - len(settled))
        self._order[first : last + 1] = settled
        for slot, region in enumerate(settled, first):
            if region is not None:
                self._slot[region] = slot
        self._join(union, kept)

    def _join(self, union: set[int], kept: int) -> None:
        members = [name for region in union for name in self._members[region]]
        before = set().union(*(self._before[region] for region in union)) - union
        after = set().union(*(self._after[region] for region in union)) - union
        for region in before:
            self._after[region] = self._after[region] - union | {kept}
        for region in after:
            self._before[region] = self._before[region] - union | {kept}
        for region in union - {kept}:
            del self._members[region], self._before[region], self._after[region]
            del self._slot[region]
        self._members[kept] = sorted(members, key=self._place.__getitem__)
        self._before[kept], self._after[kept] = before, after
        self._region.update(dict.fromkeys(members, kept))
        self._fused = self._fused - union | {kept}


def _program_order(graph: nx.DiGraph) -> list[str]:
    rank = {name: index for index, name in enumerate(graph)}
    try:
        return cast(list[str], list(nx.lexicographical_topological_sort(graph, rank.get)))
    except nx.NetworkXUnfeasible:
        cycle = [source for source, _ in nx.find_cycle(graph)]
        raise ValueError(f"graph must be acyclic, got the cycle {cycle}") from None
