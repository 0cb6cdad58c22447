"""A sub-network's graph and the entries of each weight that it takes.

The graph is the original's with other sizes: of every cut axis the first units stay. Where nothing
of a width stays, the bias of the product that summed over it takes that product's place; where a
layer is left out, what entered it leaves it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from supernet.elastic.anatomy import Anatomy
from supernet.elastic.attention.attentions import Attentions, Core, map_names
from supernet.elastic.attention.kinds import put_linear, put_window
from supernet.elastic.axes.axes import Axes, Axis
from supernet.elastic.cutting.removal import put_bias, simplify
from supernet.elastic.cutting.resizing import Cuts, cut_size, is_cut, resize, stays
from supernet.elastic.subnet import SubnetSpec

__all__ = ["Narrowed", "Selection", "cuts_of", "narrow", "select"]

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


def narrow(
    anatomy: Anatomy,
    spec: SubnetSpec,
    attentions: Attentions = SOFTMAX,
    watched: Sequence[str] = (),
) -> Narrowed:
    """The graph of a canonical spec, other kinds of attention as ``attentions`` has them. After its
    own outputs it gives what has become of the nodes named in ``watched``."""
    trace = anatomy.trace
    graph = copy.deepcopy(trace.program.graph)
    nodes = {node.name: node for node in graph.nodes}
    if watched:
        own: Any = graph.output_node().args[0]
        graph.output_node().args = ((*own, *(nodes[name] for name in watched)),)
    cuts = cuts_of(anatomy, spec)
    gone = {axis for axis, kept in cuts.items() if kept == 0}
    cuts = {axis: kept for axis, kept in cuts.items() if kept}
    for node in trace.program.graph.nodes:
        if node.op == "call_function":
            resize(trace, node, nodes[node.name], cuts)
    names = {node.name: name for name, node in trace.weights.items()}
    dims = {name: trace.of(node) for name, node in trace.weights.items()}
    made = {node.name: found for node, found in trace.dims.items()}
    names.update(_put_kinds(graph, anatomy, spec, attentions, cuts))
    for layer, own in reversed(list(zip(anatomy.layers, spec.layers, strict=True))):
        if own.skipped and layer.stream is not None:
            last, entry = nodes[layer.stream.exit], nodes[layer.stream.entry]
            last.replace_all_uses_with(entry)
    for place in anatomy.places:
        if place.axis.root() in gone:
            for name in place.sums:
                put_bias(graph, nodes[name], [cut_size(axes, cuts) for axes in made[name]])
    simplify(graph)
    dims.update({name: [axes] for name, axes in attentions.maps(trace).items()})
    return _finished(graph, names, dims, cuts)


def _put_kinds(
    graph: fx.Graph, anatomy: Anatomy, spec: SubnetSpec, attentions: Attentions, cuts: Cuts
) -> dict[str, str]:
    """Put other kinds of attention in; gives the placeholders of the weights that they bring."""
    dims = {node.name: found for node, found in anatomy.trace.dims.items()}
    brought: dict[str, str] = {}
    for core, kind in _other_kinds(anatomy, spec, attentions):
        heads = {
            name: int(cut_size(dims[name][1], cuts)) for name in (core.query, core.key, core.value)
        }
        if kind == "linear":
            names = map_names(core.place)
            maps = [_new_weight(graph, name) for name in names]
            brought.update(zip((node.name for node in maps), names, strict=True))
            put_linear(graph, core, heads, (maps[0], maps[1]))
        else:
            put_window(graph, core, heads, attentions.window, attentions.sinks)
    return brought


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
        Selection(index, np.flatnonzero(stays(axes, cuts)))
        for index, axes in enumerate(dims)
        if is_cut(axes, cuts)
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
