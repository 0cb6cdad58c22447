"""The places of a model that can be made smaller: inner widths and heads, by layer, and why not.

A width may be cut where weights make it, weights sum over it, and every operator between treats
its entries alike (`supernet.elastic.rules`): the hidden channels of a feed-forward block, the heads
of an attention, channels between the convolutions of a block. Whatever else touches a width fixes
it, and is named in ``Anatomy.refused``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx
from torch.export import ExportedProgram

from supernet.elastic.axes import Axis, factors, leaves
from supernet.elastic.residual import Stream, find_stream, numbered_modules
from supernet.elastic.rules import trace
from supernet.elastic.tracing import Trace, operator, path_of

__all__ = ["Anatomy", "Layer", "Place", "Refusal", "find"]


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """An inner width that can be cut, unit by unit.

    `name`: of the module with the weights that make it; of an attention the module around
    them. `size`: in units: channels, or heads, of which `group` queries share one key and value.
    `makes` and `sums`: the nodes of the products that make it and that sum over it. `attends`: of
    heads, the nodes that compute the attention. `weights`: all with a dim along it. `least`: 0
    where the products that sum over it sum over nothing else, so that their bias may stand for
    them.
    """

    name: str
    kind: Literal["heads", "ffn", "channels"]
    axis: Axis
    size: int
    makes: tuple[str, ...]
    sums: tuple[str, ...]
    weights: tuple[tuple[str, int], ...]
    attends: tuple[str, ...] = ()
    group: int = 1
    least: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A module with its places, in program order, and the stream that runs around it.

    `stream` is None where the layer cannot be left out; `why_not` says why.
    """

    name: str
    places: tuple[Place, ...]
    stream: Stream | None
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What stays as it is, and why."""

    where: str
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """All that can be cut in a program, and what was found but can't."""

    trace: Trace
    layers: tuple[Layer, ...]
    refused: tuple[Refusal, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(place for layer in self.layers for place in layer.places)

    def layer_of(self, place: Place) -> Layer:
        return next(layer for layer in self.layers if place in layer.places)


def find(program: ExportedProgram) -> Anatomy:
    """The anatomy of a program that writes into no tensor (``functional``)."""
    walk = trace(program)
    order = {node.name: index for index, node in enumerate(program.graph.nodes)}
    occurrences = _occurrences(walk)
    places: list[Place] = []
    fixed: list[tuple[Place, str]] = []
    for axis, weights in occurrences.items():
        roles = {role for role, _ in axis.uses}
        if "made" not in roles or not (roles & {"contracted", "attended"} or _is_lost(axis)):
            continue
        place = _place(walk, axis, weights, order)
        why = _why_fixed(walk, axis, place)
        if why is None:
            places.append(place)
        elif why not in _PARTS:
            fixed.append((place, why))
    places = _whole_groups(places)
    places.sort(key=lambda place: min(order[name] for name in place.makes))
    stream = _streams(walk, _layers(walk, places, order)[0])
    fixed += [(place, _IN_ALL) for place in places if place.axis.root() in stream]
    places = [place for place in places if place.axis.root() not in stream]
    layers, refused = _layers(walk, places, order)
    for place, why in fixed:
        if place.axis.root() in stream and why != _IN_ALL:
            why = f"{_IN_ALL}, and {why}"
        refused.append(Refusal(place.name, why))
    if not places and not any(layer.stream for layer in layers):
        refused.append(Refusal("", "no inner width and no residual layer was found"))
    return Anatomy(walk, layers, tuple(dict.fromkeys(refused)))


_IN_ALL = "it is the width of the stream around the layers"

# What is said of the parts of a width that nobody would think of as a width of its own.
_PARTS = frozenset(
    {
        "it is the size of an attention head",
        "attention reads and writes it as a whole",
        "equal parts lie side by side in it",
    }
)


def _is_lost(axis: Axis) -> bool:
    return any(why.endswith("is not understood") for why in axis.fixed)


def _occurrences(walk: Trace) -> dict[Axis, list[tuple[str, int]]]:
    found: dict[Axis, list[tuple[str, int]]] = {}
    for name, node in walk.weights.items():
        for index, dim in enumerate(walk.of(node)):
            for axis in leaves(dim):
                places = found.setdefault(axis, [])
                if (name, index) not in places:
                    places.append((name, index))
    return found


def _place(
    walk: Trace, axis: Axis, weights: Sequence[tuple[str, int]], order: dict[str, int]
) -> Place:
    by_role: dict[str, list[str]] = {}
    for role, node in sorted(axis.uses, key=lambda use: order[use[1]]):
        by_role.setdefault(role, []).append(node)
    nodes = {node.name: node for node in walk.program.graph.nodes}
    makes, sums = by_role.get("made", []), by_role.get("contracted", [])
    attends = by_role.get("attended", [])
    own = {name for name, _ in weights}
    makers = [w for n in makes for w in walk.weights_of(nodes[n]) if w in own]
    if attends:
        users = [w for n in sums for w in walk.weights_of(nodes[n]) if w in own]
        name = common_path([*makers, *users])
    else:
        name = makers[0].rpartition(".")[0] if makers else path_of(nodes[makes[0]])
    conv = any(operator(nodes[n]).startswith("conv") for n in makes)
    return Place(
        name=name,
        kind="heads" if attends else "channels" if conv else "ffn",
        axis=axis,
        size=axis.size,
        makes=tuple(makes),
        sums=tuple(sums),
        weights=tuple(weights),
        attends=tuple(attends),
        least=_least(walk, axis, [nodes[n] for n in sums]),
    )


def _least(walk: Trace, axis: Axis, sums: Sequence[fx.Node]) -> int:
    """1 where one of these products also sums over what lies beside the axis."""
    for node in sums:
        for name in walk.weights_of(node):
            for dim in walk.of(walk.weights[name]):
                if axis in leaves(dim) and axis not in factors(dim):
                    return 1
    return 0


def common_path(names: Iterable[str]) -> str:
    """The module around all of these weights."""
    split = [name.split(".")[:-1] for name in names]
    shared: list[str] = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _why_fixed(walk: Trace, axis: Axis, place: Place) -> str | None:
    if axis.fixed:
        return next((why for why in axis.fixed if why in _PARTS), next(iter(axis.fixed)))
    if not isinstance(axis.size, int):
        return "its size follows the inputs"
    if not place.sums:
        return "no weight sums over it"
    for name, index in place.weights:
        dim = walk.of(walk.weights[name])[index]
        if leaves(dim).count(axis) > len(leaves(dim)) // 2 and len(factors(dim)) > 1:
            inner = factors(dim)
            if inner.count(axis) > 1:
                return f"the weight {name!r} has it twice in one dim"
        weight = walk.tensor(name)
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            return f"the weight {name!r} holds NaN or infinity"
    return None


def _whole_groups(places: Sequence[Place]) -> list[Place]:
    """Of nested widths of one attention the one with keys and values: groups stay whole."""
    kept: list[Place] = []
    for place in places:
        rivals = [p for p in places if place.attends and p.attends == place.attends]
        best = max(rivals, key=lambda p: len(p.weights), default=place)
        if best is place:
            group = 1
            for other in rivals:
                group *= other.size if other is not place else 1
            kept.append(_with_group(place, group))
    return kept


def _with_group(place: Place, group: int) -> Place:
    return Place(
        place.name, place.kind, place.axis, place.size, place.makes, place.sums, place.weights,
        place.attends, group, place.least,
    )  # fmt: skip


def _layers(
    walk: Trace, places: Sequence[Place], order: dict[str, int]
) -> tuple[tuple[Layer, ...], list[Refusal]]:
    homes: dict[str, list[Place]] = {}
    for place in places:
        homes.setdefault(_home(place), []).append(place)
    for name in numbered_modules(walk.program):
        apart = all(not _within(name, h) and not _within(h, name) for h in homes if h)
        if apart and isinstance(find_stream(walk, name), Stream):
            homes[name] = []
    layers, refused = [], []
    for name, own in homes.items():
        found = find_stream(walk, name) if name else "it is the whole model"
        stream = found if isinstance(found, Stream) else None
        why_not = found if isinstance(found, str) else ""
        if why_not:
            refused.append(Refusal(name, f"it cannot be left out: {why_not}"))
        layers.append(Layer(name, tuple(own), stream, why_not))
    return tuple(sorted(layers, key=lambda layer: _first(layer, order))), refused


def _streams(walk: Trace, layers: Sequence[Layer]) -> set[Axis]:
    """The axes of what runs around the layers: to cut them would be to cut all layers alike."""
    nodes = {node.name: node for node in walk.program.graph.nodes}
    entries = [nodes[layer.stream.entry] for layer in layers if layer.stream is not None]
    return {axis for entry in entries for dim in walk.of(entry) for axis in leaves(dim)}


def _first(layer: Layer, order: dict[str, int]) -> int:
    nodes = [name for place in layer.places for name in place.makes]
    if layer.stream is not None:
        nodes.append(layer.stream.exit)
    return min(order[name] for name in nodes)


def _home(place: Place) -> str:
    """The layer that a place belongs to: the innermost numbered module around all its weights."""
    parts = common_path(name for name, _ in place.weights).split(".")
    for plain in (True, False):
        for end in range(len(parts), 0, -1):
            last = parts[end - 1]
            if last.isdigit() if plain else last[-1:].isdigit():
                return ".".join(parts[:end])
    return ".".join(parts)


def _within(name: str, other: str) -> bool:
    return name == other or name.startswith(f"{other}.")
