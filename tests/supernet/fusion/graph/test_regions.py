"""Regions stay legal whatever is merged: against definitions, brute force and torch's own check."""

from __future__ import annotations

import operator
import random
from collections.abc import Sequence
from itertools import combinations

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx
from torch.fx.passes.utils.fuser_utils import fuse_by_partitions, validate_partition

from profiler.shapes import Shape
from supernet.fusion.graph.op_graph import Op, OpGraph, OpKind, TensorUse
from supernet.fusion.graph.regions import Partition, Region, Regions, singletons


@st.composite
def dags(draw: st.DrawFn, most: int = 12) -> nx.DiGraph:
    """Acyclic graphs whose nodes are named and inserted in an order of their own."""
    count = draw(st.integers(2, most))
    pairs = list(combinations(range(count), 2))
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=3 * count))
    names = [f"n{index}" for index in draw(st.permutations(range(count)))]
    graph = nx.DiGraph()
    graph.add_nodes_from(names[i] for i in draw(st.permutations(range(count))))
    graph.add_edges_from((names[a], names[b]) for a, b in edges)
    return graph


def merges(most: int = 8) -> st.SearchStrategy[list[list[int]]]:
    """Places in a partition's regions, to be taken modulo their number."""
    return st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=4), max_size=most)


def union(partition: Partition, places: Sequence[int]) -> set[str]:
    regions = partition.regions()
    return {name for place in places for name in regions[place % len(regions)]}


def contracted(graph: nx.DiGraph, regions: Sequence[Sequence[str]]) -> nx.DiGraph:
    home = {name: index for index, region in enumerate(regions) for name in region}
    ends = ((home[a], home[b]) for a, b in graph.edges)
    quotient = nx.DiGraph((a, b) for a, b in ends if a != b)
    quotient.add_nodes_from(range(len(regions)))
    return quotient


def check_legal(graph: nx.DiGraph, partition: Partition) -> None:
    regions = partition.regions()
    assert sorted(name for region in regions for name in region) == sorted(graph)
    home = {name: index for index, region in enumerate(regions) for name in region}
    assert all(home[a] <= home[b] for a, b in graph.edges)
    assert nx.is_directed_acyclic_graph(contracted(graph, regions))
    for region in regions:
        inside = set(region)
        left = {s for name in region for s in graph.succ[name]} - inside
        reached = left.union(*(nx.descendants(graph, name) for name in left))
        assert not reached & inside
        places = list(region)
        assert all(places.index(a) < places.index(b) for a, b in graph.subgraph(region).edges)


@given(dags(), merges())
@settings(deadline=None, max_examples=200)
def test_whatever_is_merged_the_regions_can_be_executed(
    graph: nx.DiGraph, wanted: list[list[int]]
) -> None:
    partition = Partition(graph)
    for places in wanted:
        before, names = partition.regions(), union(partition, places)
        if partition.merge(names):
            assert set(partition.region(next(iter(names)))) == names
        else:
            assert partition.regions() == before
        check_legal(graph, partition)


@given(dags(most=7), merges(4))
@settings(deadline=None, max_examples=200)
def test_exactly_the_legal_unions_are_accepted(graph: nx.DiGraph, wanted: list[list[int]]) -> None:
    partition = Partition(graph)
    for places in wanted:
        partition.merge(union(partition, places))
    regions = partition.regions()
    for size in range(1, len(graph) + 1):
        for names in map(set, combinations(graph, size)):
            whole = all(names.issuperset(r) or names.isdisjoint(r) for r in regions)
            rest = [r for r in regions if names.isdisjoint(r)]
            legal = whole and nx.is_directed_acyclic_graph(contracted(graph, [*rest, [*names]]))
            assert partition.copy().merge(names) is legal


def test_two_convex_sets_may_still_wait_for_each_other() -> None:
    partition = Partition(nx.DiGraph([("a1", "b1"), ("b2", "a2")]))
    assert partition.merge(["a1", "a2"])
    assert not partition.merge(["b1", "b2"])
    assert partition.regions() == (("b2",), ("a1", "a2"), ("b1",))


def test_independent_nodes_may_share_a_region() -> None:
    partition = Partition(nx.DiGraph([("x", "q"), ("x", "k"), ("x", "v"), ("q", "y"), ("k", "y")]))
    assert partition.merge(["q", "k", "v"])
    assert partition.regions() == (("x",), ("q", "k", "v"), ("y",))


def test_a_part_of_a_region_cannot_be_merged_again() -> None:
    partition = Partition(nx.path_graph(["a", "b", "c"], nx.DiGraph))
    assert partition.merge(["a", "b"])
    assert not partition.merge(["b", "c"])
    assert partition.merge(["a", "b"])
    assert partition.merge(["a", "b", "c"])
    assert partition.region("b") == ("a", "b", "c")


def test_what_must_stay_alone_does() -> None:
    graph = nx.path_graph(["a", "b", "c"], nx.DiGraph)
    partition = Partition(graph, together=[["a", "b"]], alone=["a"])
    assert partition.region("b") == ("a", "b")
    assert not partition.merge(["a", "b", "c"])
    assert [partition.is_free(name) for name in graph] == [False, False, True]


def test_a_merge_takes_its_members() -> None:
    partition = Partition(nx.path_graph(["a", "b", "c", "d"], nx.DiGraph), together=[["c", "d"]])
    copy = partition.copy()
    assert copy.merge(["a", "b"])
    assert [copy.is_free(name) for name in "abcd"] == [False, False, True, True]
    assert all(partition.is_free(name) for name in "abcd")


def test_errors_say_what_is_wrong() -> None:
    path = nx.path_graph(["a", "b", "c"], nx.DiGraph)
    with pytest.raises(ValueError, match=r"graph must be acyclic, got the cycle \['a', 'b'\]"):
        Partition(nx.DiGraph([("a", "b"), ("b", "a")]))
    with pytest.raises(ValueError, match="names must be nodes of the graph, got 'z'"):
        Partition(path).merge(["a", "z"])
    with pytest.raises(ValueError, match="names must hold at least one node, got none"):
        Partition(path).merge([])
    with pytest.raises(ValueError, match=r"together must be disjoint convex sets, got .*'a', 'c'"):
        Partition(path, together=[["a", "c"]])


def test_thousands_of_nodes() -> None:
    rng = random.Random(0)
    graph = nx.DiGraph()
    graph.add_nodes_from(f"n{index}" for index in range(2000))
    for index in range(1, 2000):
        for before in {rng.randrange(max(0, index - 40), index) for _ in range(2)}:
            graph.add_edge(f"n{before}", f"n{index}")
    partition = Partition(graph)
    accepted = 0
    for source, target in graph.edges:
        if len(partition.region(source)) + len(partition.region(target)) <= 8:
            accepted += partition.merge({*partition.region(source), *partition.region(target)})
    assert accepted > 500
    check_legal(graph, partition)


def _total(number: int, *values: Tensor) -> Tensor:
    return torch.stack([torch.full((3,), float(number)), *values]).sum(0)


def adds(graph: nx.DiGraph) -> fx.GraphModule:
    """A module that adds along the edges and returns what nobody takes, and every third node."""
    program = fx.Graph()
    given = program.placeholder("given")
    made: dict[str, fx.Node] = {}
    for number, name in enumerate(nx.topological_sort(graph)):
        taken = [made[before] for before in graph.pred[name]] or [given]
        made[name] = program.create_node("call_function", _total, (number, *taken), name=name)
    program.output(tuple(n for i, n in enumerate(made.values()) if not n.users or i % 3 == 0))
    return fx.GraphModule(torch.nn.Module(), program)


def fused(graph: nx.DiGraph, regions: Sequence[Sequence[str]]) -> fx.GraphModule:
    module = adds(graph)
    nodes = {node.name: node for node in module.graph.nodes}
    together = [region for region in regions if len(region) > 1]
    return fuse_by_partitions(module, [{nodes[n]: None for n in region} for region in together])


def standing_for(module: fx.GraphModule, regions: Sequence[Sequence[str]]) -> list[list[fx.Node]]:
    """For each region, its nodes in the module that ``fused`` made of them."""
    nodes = {node.name: node for node in module.graph.nodes}
    calls = [node for node in nodes.values() if node.op == "call_module"]
    calls.sort(key=lambda node: int(str(node.target).removeprefix("fused_")))
    following = iter(calls)
    found = []
    for region in regions:
        node = nodes[region[0]] if len(region) == 1 else next(following)
        parts = [user for user in node.users if user.target is operator.getitem]
        found.append([node, *parts])
    return found


@given(dags(most=9), merges(5), st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_torch_agrees_on_what_is_legal(
    graph: nx.DiGraph, wanted: list[list[int]], seed: int
) -> None:
    partition = Partition(graph)
    for places in wanted:
        regions = partition.regions()
        module = fused(graph, regions)
        stand_ins = standing_for(module, regions)
        chosen = {place % len(regions) for place in places}
        nodes = [node for index in chosen for node in stand_ins[index]]
        assert partition.merge(union(partition, places)) is validate_partition(nodes)
    plain = {node.name: node for node in adds(graph).graph.nodes}
    for region in partition.regions():
        assert validate_partition([plain[name] for name in region])
    given_value = torch.randn(3, generator=torch.Generator().manual_seed(seed))
    result = fused(graph, partition.regions())(given_value)
    torch.testing.assert_close(result, adds(graph)(given_value), rtol=0, atol=0)


def op_graph(*ops: Op, outputs: Sequence[str] = (), edges: Sequence[str] = ()) -> OpGraph:
    """Edges from the values that ops read, and ``"a b"`` for those that carry none."""
    graph = nx.DiGraph()
    writes = {op.name: op.writes for op in ops}
    for op in ops:
        graph.add_node(op.name, op=op)
        values = (use.name for use in op.reads if use.kind == "value")
        graph.add_edges_from((name, op.name, {"bytes": writes[name]}) for name in values)
    graph.add_edges_from((*edge.split(), {"bytes": 0}) for edge in edges)
    return OpGraph(graph, Shape(1, 1), frozenset(outputs))


def plain(name: str, *reads: str, effect: str | None = None, target: str = "aten.mul.Tensor") -> Op:
    kind = OpKind.VIEW if target.endswith("getitem") else OpKind.POINTWISE
    uses = tuple(TensorUse(read, 8, "value") for read in reads)
    writes = 0 if kind is OpKind.VIEW else 8
    return Op(name, target, kind, uses, writes, 2, (2,), "float32", effect)


def test_bytes_are_saved_where_nobody_outside_needs_the_value() -> None:
    graph = op_graph(
        plain("a"), plain("b", "a"), plain("c", "b"), plain("d", "c", "a"), outputs=["d"]
    )
    whole = Region("pointwise", ("a", "b", "c", "d"))
    assert Regions(graph, (whole,)).bytes_saved(whole) == 24
    part = Region("pointwise", ("b", "c"))
    regions = Regions(graph, (Region("none", ("a",)), part, Region("none", ("d",))))
    assert [regions.bytes_saved(region) for region in regions.regions] == [0, 8, 0]


def test_quotient_counts_a_value_once_per_region() -> None:
    graph = op_graph(plain("a"), plain("b", "a"), plain("c", "a", "b"), outputs=["c"])
    regions = Regions(graph, (Region("none", ("a",)), Region("pointwise", ("b", "c"))))
    quotient = regions.quotient()
    assert list(quotient.edges(data="bytes")) == [(0, 1, 8)]
    assert quotient.nodes[1]["region"].ops == ("b", "c")


def test_regions_must_cover_every_op_once_and_be_in_order() -> None:
    graph = op_graph(plain("a"), plain("b", "a"), outputs=["b"])
    a, b = Region("none", ("a",)), Region("none", ("b",))
    with pytest.raises(ValueError, match="hold every op exactly once, got 0 times 'b'"):
        Regions(graph, (a,))
    with pytest.raises(ValueError, match="hold every op exactly once, got 2 times 'a'"):
        Regions(graph, (a, b, a))
    with pytest.raises(ValueError, match="hold every op exactly once, got 1 times 'z'"):
        Regions(graph, (a, b, Region("none", ("z",))))
    with pytest.raises(ValueError, match="order that can be executed, got 'b' before 'a'"):
        Regions(graph, (b, a))


def test_keys_say_what_is_together() -> None:
    graph = op_graph(plain("a"), plain("b"), plain("c"))
    alone = [Region("none", (name,)) for name in "abc"]
    first = Regions(graph, (Region("qkv", ("a", "b")), alone[2]))
    assert first.key() == Regions(graph, (alone[2], Region("pointwise", ("a", "b")))).key()
    assert len(first.key()) == 64
    assert first.key() != Regions(graph, tuple(alone)).key()


def test_what_only_takes_a_result_apart_stays_with_it() -> None:
    item = "_operator.getitem"
    graph = op_graph(
        plain("split", effect="random", target="aten.native_dropout.default"),
        plain("first", target=item),
        plain("second", target=item),
        plain("inner", target=item),
        plain("after", "split"),
        edges=["split first", "split second", "second inner", "first after"],
    )
    partition = singletons(graph)
    assert partition.regions() == (("split", "first", "second", "inner"), ("after",))
    assert not partition.merge(["split", "first", "second", "inner", "after"])
