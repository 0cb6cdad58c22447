"""How much each unit of a width, and each layer, adds: what to keep first.

A unit's worth is the mean size of what it adds to the products that sum over it: of a channel
``‖W[:, j]‖ · mean |a_j|``, of a head or a group of heads ``mean ‖a_h W_O,h‖``. A layer's is how
far it turns the stream, ``1 - cos(in, out)``.

Muralidharan et al. 2024, "Compact Language Models via Pruning and Knowledge Distillation",
arXiv:2407.14679, section 2.2; Men et al. 2024, "ShortGPT", arXiv:2403.03853, section 2.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from supernet.elastic.anatomy import Anatomy, Place
from supernet.elastic.axes.axes import leaves, units
from supernet.elastic.axes.tracing import Trace, operator, weight_name

__all__ = ["Importance", "measure"]


@dataclass(frozen=True, slots=True, eq=False)
class Importance:
    """`units`: by index of the place in `Anatomy.places`, one number per unit, higher is worth
    more. `layers`: by name, of those that a stream runs around."""

    units: tuple[npt.NDArray[np.float64], ...]
    layers: Mapping[str, float]

    def orders(self) -> tuple[npt.NDArray[np.int64], ...]:
        """The units of every place, the best first."""
        return tuple(np.argsort(-scores, kind="stable") for scores in self.units)


def measure(
    anatomy: Anatomy, weights: Mapping[str, Tensor], batches: Sequence[Sequence[Tensor]]
) -> Importance:
    """By running the program once over each batch of flat inputs, at least one."""
    if not batches:
        raise ValueError("batches must hold at least one batch of inputs, got none")
    watch = _Watch(anatomy)
    names = [weight_name(s) for s in anatomy.trace.program.graph_signature.input_specs]
    for batch in batches:
        inputs = iter(batch)
        values = [next(inputs) if name is None else weights[name] for name in names]
        with torch.no_grad():
            watch.run(*values)
    found = tuple(total / len(batches) for total in watch.totals)
    for place, scores in zip(anatomy.places, found, strict=True):
        if not np.isfinite(scores).all():
            raise ValueError(
                f"batches must give finite values at {place.name!r}, got NaN or infinity"
            )
    layers = {name: float(np.mean(turns)) for name, turns in watch.turns.items()}
    return Importance(found, layers)


class _Watch(fx.Interpreter):
    """Runs the program and looks at the products that sum over a width."""

    def __init__(self, anatomy: Anatomy) -> None:
        program = anatomy.trace.program
        super().__init__(fx.GraphModule(program.graph_module, program.graph))
        self.trace = anatomy.trace
        self.places = anatomy.places
        self.totals = [np.zeros(place.size) for place in self.places]
        self.turns: dict[str, list[float]] = {}
        self._sums: dict[str, list[int]] = {}
        for index, place in enumerate(self.places):
            for name in place.sums:
                self._sums.setdefault(name, []).append(index)
        self._nodes = {node.name: node for node in program.graph.nodes}
        self._exits = {
            layer.stream.exit: (layer.name, layer.stream.entry)
            for layer in anatomy.layers
            if layer.stream is not None
        }
        self._streams: dict[str, Tensor] = {}
        self._entries = {entry for _, entry in self._exits.values()}

    def run_node(self, n: fx.Node) -> Any:
        node = self._nodes[n.name]
        for index in self._sums.get(n.name, ()):
            self._look(node, n, index)
        value = super().run_node(n)
        if n.name in self._exits:
            name, entry = self._exits[n.name]
            self.turns.setdefault(name, []).append(_turn(self._streams[entry], value))
        if n.name in self._entries:
            self._streams[n.name] = value
        return value

    def _look(self, node: fx.Node, n: fx.Node, index: int) -> None:
        """``node`` is the traced one, ``n`` its copy that is run."""
        pairs = zip(node.all_input_nodes, n.all_input_nodes, strict=True)
        values = {one: self.env[copy] for one, copy in pairs}
        self.totals[index] += _added(self.trace, node, self.places[index], values)


def _turn(before: Tensor, after: Tensor) -> float:
    a, b = before.double().flatten(0, -2), after.double().flatten(0, -2)
    if before.dim() == 4:  # an image: its channels are the second dim
        a, b = (t.double().movedim(1, -1).flatten(0, -2) for t in (before, after))
    return float(1 - torch.cosine_similarity(a, b, dim=-1).mean())


def _added(
    trace: Trace, node: fx.Node, place: Place, values: Mapping[fx.Node, Tensor]
) -> npt.NDArray[np.float64]:
    """Of every unit, the mean size of what it adds to a product."""
    axis = place.axis.root()
    along = {one: dim for one in values if (dim := _dim_with(trace, one, place)) is not None}
    given = next(one for one in along if one in trace.varying)
    weight = next(one for one in along if one not in trace.varying)
    a, w = values[given].double(), values[weight].double()
    own = units(_static(trace, given, along[given]), axis)
    a = a.movedim(along[given], -1).flatten(0, -2)
    w = w.movedim(along[weight], 0).flatten(1)
    same = own.shape[0] == w.shape[0] and operator(node) in _PLAIN
    scores = np.zeros(place.size)
    if same and place.kind == "heads":
        for unit in range(place.size):
            entries = torch.from_numpy(np.flatnonzero(own == unit))
            scores[unit] = float((a[:, entries] @ w[entries]).norm(dim=1).mean())
        return scores
    theirs = units(_static(trace, weight, along[weight]), axis)
    sizes, norms = a.abs().mean(0).numpy(), w.square().sum(1).numpy()
    for unit in range(place.size):
        part = float(norms[theirs == unit].sum()) ** 0.5
        scores[unit] = float(sizes[own == unit].mean()) * part
    return scores


_PLAIN = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm")


def _dim_with(trace: Trace, node: fx.Node, place: Place) -> int | None:
    dims = trace.of(node)
    return next((i for i, d in enumerate(dims) if place.axis.root() in leaves(d)), None)


def _static(trace: Trace, node: fx.Node, dim: int) -> Any:
    return trace.of(node)[dim]
