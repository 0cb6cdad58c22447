"""A sub-network's graph and the entries of each weight that it takes.

The graph is the original's with other sizes: of every cut axis the first units stay. Where nothing
of a width stays, the bias of the product that summed over it takes that product's place; where a
layer is left out, what entered it leaves it.
"""

from __future__ import annotations

import copy
import operator as python
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from supernet.elastic.anatomy import Anatomy
from supernet.elastic.attention import Attentions, Core, map_names
from supernet.elastic.attention_kinds import put_linear, put_window
from supernet.elastic.axes import Axes, Axis, Size, factors, leaves, quotient, regroup, units
from supernet.elastic.removal import put_bias, simplify
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.tracing import Trace, arguments, operator

__all__ = ["Narrowed", "Selection", "cuts_of", "narrow", "select", "set_argument"]

aten = torch.ops.aten

Cuts = Mapping[Axis, int]
SOFTMAX = Attentions()


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The entries of one dim of a weight that stay, ascending."""

    dim: int
    entries: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Narrowed:
    """A graph whose placeholders are the weights that it still uses, then the inputs.

    `names`: of the placeholders that are weights, what those are called. `selections`: what it
    takes of each.
    """

    graph: fx.Graph
    names: Mapping[str, str]
    selections: Mapping[str, tuple[Selection, ...]]


def cuts_of(anatomy: Anatomy, spec: SubnetSpec) -> dict[Axis, int]:
    """How many units of each axis a spec keeps, of those that it cuts."""
    cuts: dict[Axis, int] = {}
    for layer, own in zip(anatomy.layers, spec.layers, strict=True):
        heads = iter(own.attention)
        widths = iter(own.widths)
        for place in layer.places:
            kept = next(heads).heads // place.group if place.kind == "heads" else next(widths)
            if kept < place.size and not own.skipped:
                cuts[place.axis.root()] = kept
    return cuts


def narrow(anatomy: Anatomy, spec: SubnetSpec, attentions: Attentions = SOFTMAX) -> Narrowed:
    """The graph of a canonical spec, other kinds of attention as ``attentions`` has them."""
    trace = anatomy.trace
    graph = copy.deepcopy(trace.program.graph)
    nodes = {node.name: node for node in graph.nodes}
    cuts = cuts_of(anatomy, spec)
    gone = {axis for axis, kept in cuts.items() if kept == 0}
    cuts = {axis: kept for axis, kept in cuts.items() if kept}
    for node in trace.program.graph.nodes:
        if node.op == "call_function":
            _resize(trace, node, nodes[node.name], cuts)
    names = {node.name: name for name, node in trace.weights.items()}
    dims = {name: trace.of(node) for name, node in trace.weights.items()}
    for core, kind in _other_kinds(anatomy, spec, attentions):
        query, key, value = (nodes[name] for name in (core.query, core.key, core.value))
        heads = {
            node.name: int(_size(trace.dims[_original(trace, node)][1], cuts))
            for node in (query, key, value)
        }
        if kind == "linear":
            maps = [_new_weight(graph, name) for name in map_names(core.place)]
            names.update(zip((node.name for node in maps), map_names(core.place), strict=True))
            put_linear(graph, core, heads, (maps[0], maps[1]))
        else:
            put_window(graph, core, heads, attentions.window, attentions.sinks)
    for layer, own in reversed(list(zip(anatomy.layers, spec.layers, strict=True))):
        if own.skipped and layer.stream is not None:
            last, entry = nodes[layer.stream.exit], nodes[layer.stream.entry]
            last.replace_all_uses_with(entry)
    for place in anatomy.places:
        if place.axis.root() in gone:
            for name in place.sums:
                put_bias(graph, nodes[name])
    simplify(graph)
    dims.update({name: [axes] for name, axes in attentions.maps(trace).items()})
    return _finished(graph, names, dims, cuts)


def _original(trace: Trace, node: fx.Node) -> fx.Node:
    return next(one for one in trace.dims if one.name == node.name)


def _other_kinds(
    anatomy: Anatomy, spec: SubnetSpec, attentions: Attentions
) -> list[tuple[Core, str]]:
    found: list[tuple[Core, str]] = []
    for layer, own in zip(anatomy.layers, spec.layers, strict=True):
        heads = [place for place in layer.places if place.kind == "heads"]
        for place, chosen in zip(heads, own.attention, strict=True):
            if chosen.kind in ("linear", "window"):
                if place.name not in attentions.cores:
                    why = attentions.refused.get(place.name, "the space does not offer it")
                    raise ValueError(
                        f"the attention of {place.name!r} must be softmax or none, got "
                        f"{chosen.kind!r}: {why}"
                    )
                found.append((attentions.cores[place.name], chosen.kind))
    return found


def _new_weight(graph: fx.Graph, name: str) -> fx.Node:
    """A placeholder for a weight that the original does not have."""
    first = next(iter(graph.find_nodes(op="placeholder")))
    with graph.inserting_before(first):
        return graph.placeholder("p_" + re.sub(r"\W", "_", name))


def _finished(
    graph: fx.Graph, names: Mapping[str, str], dims: Mapping[str, Sequence[Axes]], cuts: Cuts
) -> Narrowed:
    kept: dict[str, str] = {}
    for node in graph.find_nodes(op="placeholder"):
        if node.name in names and node.users:
            kept[node.name] = names[node.name]
        elif node.name in names:
            graph.erase_node(node)
    graph.lint()
    found = {name: _selections(dims[name], cuts) for name in kept.values()}
    return Narrowed(graph, kept, {n: s for n, s in found.items() if s})


def _selections(dims: Sequence[Axes], cuts: Cuts) -> tuple[Selection, ...]:
    return tuple(
        Selection(index, np.flatnonzero(_stays(axes, cuts)))
        for index, axes in enumerate(dims)
        if _is_cut(axes, cuts)
    )


def select(weight: Tensor, selections: Sequence[Selection]) -> Tensor:
    """What a sub-network takes of a weight: a view where its first entries stay."""
    for chosen in selections:
        count = len(chosen.entries)
        if chosen.entries[-1] == count - 1:
            weight = weight.narrow(chosen.dim, 0, count)
        else:
            entries = torch.from_numpy(chosen.entries).to(weight.device)
            weight = weight.index_select(chosen.dim, entries)
    return weight


def _is_cut(axes: Sequence[Axis], cuts: Cuts) -> bool:
    return any(axis in cuts for axis in leaves(axes))


def _stays(axes: Sequence[Axis], cuts: Cuts) -> npt.NDArray[np.bool_]:
    """Which entries of a dim stay."""
    stays = np.ones(prod(axis.size for axis in factors(axes)), dtype=np.bool_)
    for axis in dict.fromkeys(leaves(axes)):
        if axis in cuts:
            stays &= units(axes, axis) < cuts[axis]
    return stays


def _size(axes: Sequence[Axis], cuts: Cuts) -> Size:
    """Of a dim, once cut."""
    size: Size = 1
    for axis in factors(axes):
        if axis.concat:
            parts = [_size([part], cuts) for part in axis.concat]
            size = size * sum(parts[1:], start=parts[0])
        else:
            size = size * cuts.get(axis, axis.size)
    return size


def _resize(trace: Trace, before: fx.Node, node: fx.Node, cuts: Cuts) -> None:
    """Give a copied node the sizes that follow from the cuts."""
    name = operator(before)
    given = arguments(before)
    if name in _SIZED:
        argument = _SIZED[name]
        offset = 0
        if name == "unflatten":
            offset = given["dim"] % len(trace.of(given["self"]))
        sizes = list(arguments(node)[argument])
        dims = trace.of(before)[offset : offset + len(sizes)]
        if any(_is_cut(axes, cuts) for axes in dims):
            new = [_new_size(node, s, a, cuts) for s, a in zip(sizes, dims, strict=True)]
            set_argument(node, argument, new)
    elif name in ("slice", "narrow"):
        _resize_slice(trace, node, given, cuts)
    elif name in ("split", "split_with_sizes", "chunk", "tensor_split"):
        source, dim = given["self"], given["dim"]
        if _is_cut(trace.of(source)[dim], cuts):
            sizes = [_size(part[dim], cuts) for part in trace.dims[before]]
            node.args = (node.args[0], sizes, dim)
            node.kwargs = {}
            node.target = aten.split_with_sizes.default
    elif name.startswith("conv") and given.get("groups", 1) > 1:
        channels = trace.of(given["input"])[1 - len(before.meta["val"].shape)]
        channels = trace.of(given["input"])[-len(trace.of(given["weight"])) + 1]
        groups = regroup(channels, [given["groups"], _full(channels) // given["groups"]])
        if groups is not None and _is_cut(groups[0], cuts):
            set_argument(node, "groups", int(_size(groups[0], cuts)))


_SIZED = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), "size"),
    "reshape": "shape",
    "expand": "size",
    "unflatten": "sizes",
    **dict.fromkeys(("zeros", "ones", "full", "empty"), "size"),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "new_empty"), "size"),
}


def _full(axes: Sequence[Axis]) -> Size:
    return _size(axes, {})


def _new_size(node: fx.Node, size: Any, axes: Axes, cuts: Cuts) -> Any:
    """For an argument that gives the size of a dim: -1 and sizes of other dims stay."""
    if not _is_cut(axes, cuts) or (isinstance(size, int) and size == -1):
        return size
    new = _size(axes, cuts)
    if isinstance(size, int):
        return int(new)
    old = _full(axes)
    fixed = [prod(s for s in _ints(axes, c)) for c in (cuts, {})]
    assert quotient(new, fixed[0]) == quotient(old, fixed[1])
    with node.graph.inserting_before(node):
        scaled = node.graph.call_function(python.mul, (size, fixed[0]))
        return node.graph.call_function(python.floordiv, (scaled, fixed[1]))


def _ints(axes: Axes, cuts: Cuts) -> list[int]:
    sizes = [_size([axis], cuts) for axis in factors(axes)]
    return [size for size in sizes if isinstance(size, int)]


def _resize_slice(trace: Trace, node: fx.Node, given: Mapping[str, Any], cuts: Cuts) -> None:
    axes = trace.of(given["self"])[given["dim"]]
    if not _is_cut(axes, cuts):
        return
    stays = _stays(axes, cuts)
    start = given["start"] or 0
    first = int(stays[:start].sum())
    if operator(node) == "narrow":
        set_argument(node, "start", first)
        set_argument(node, "length", int(stays[start:][: given["length"]].sum()))
    elif given.get("end") is not None and given["end"] < len(stays):
        set_argument(node, "start", first)
        set_argument(node, "end", int(stays[: given["end"]].sum()))
    else:
        set_argument(node, "start", first)


def set_argument(node: fx.Node, name: str, value: Any) -> None:
    """Set an argument of a call by its name."""
    place = [argument.name for argument in node.target._schema.arguments].index(name)  # type: ignore[union-attr]
    if place < len(node.args):
        args = list(node.args)
        args[place] = value
        node.args = tuple(args)
    else:
        node.kwargs = {**node.kwargs, name: value}
