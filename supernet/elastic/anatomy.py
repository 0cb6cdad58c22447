"""The places of a model that can be made smaller: inner widths and heads, by layer, and why not.

A width may be cut where weights make it, weights sum over it, and every operator between treats
its entries alike (`supernet.elastic.axes.rules`): the hidden channels of a feed-forward block, the
heads of an attention, channels between the convolutions of a block. Whatever else touches a width
fixes it, and is named in ``Anatomy.refused``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.export import ExportedProgram

from supernet.elastic.axes.axes import Axis, leaves
from supernet.elastic.axes.rules import trace
from supernet.elastic.axes.tracing import Trace
from supernet.elastic.places import Place, common_path, find_places
from supernet.elastic.residual import Stream, find_stream, numbered_modules

__all__ = ["Anatomy", "Layer", "Place", "Refusal", "find"]


_IN_ALL = "it is the width of the stream around the layers"


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


def find(program: ExportedProgram) -> Anatomy:
    """The anatomy of a program that writes into no tensor (``functional``)."""
    walk = trace(program)
    order = {node.name: index for index, node in enumerate(program.graph.nodes)}
    places, fixed = find_places(walk, order)
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
        if why_not and name:
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
