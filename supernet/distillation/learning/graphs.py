"""Parts of a supernet's program that run on weights given by name: the whole, or a layer alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from supernet.elastic.axes.tracing import weight_name
from supernet.elastic.cutting.narrowing import Narrowed, Selection, narrow, select
from supernet.elastic.cutting.removal import simplify
from supernet.elastic.subnet import LayerSpec
from supernet.elastic.supernet import Supernet
from supernet.signature import Dim

__all__ = ["LayerGraph", "PartGraph", "dims_of_node", "layer_graph", "watching"]


@dataclass(frozen=True, slots=True, eq=False)
class PartGraph:
    """A graph whose placeholders are weights, then inputs. `takes`: of each the weight's name and
    what is taken of it; no name for an input."""

    module: fx.GraphModule
    takes: tuple[tuple[str | None, tuple[Selection, ...]], ...]

    def __call__(self, weights: Mapping[str, Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        given = iter(inputs)
        values = [
            next(given) if name is None else select(weights[name], selections)
            for name, selections in self.takes
        ]
        return tuple(self.module(*values))


def watching(net: Supernet, nodes: Sequence[str]) -> PartGraph:
    """The original, which after its outputs gives the values of these nodes."""
    return _part(net, narrow(net.anatomy, net.full, watched=nodes))


@dataclass(frozen=True, slots=True, eq=False)
class LayerGraph:
    """A layer alone, as one spec has it: called with weights by name, the value of the stream that
    enters it, and the model's inputs, it gives what leaves it. It trains weights below `prefix`."""

    prefix: str
    part: PartGraph

    def __call__(
        self, weights: Mapping[str, Tensor], entering: Tensor, inputs: Sequence[Tensor]
    ) -> Tensor:
        own = {
            name: weights[name] if name.startswith(self.prefix) else weights[name].detach()
            for name, _ in self.part.takes
            if name is not None
        }
        return self.part(own, *inputs, entering)[0]


def layer_graph(net: Supernet, spec: LayerSpec) -> LayerGraph:
    """The graph of a layer that a stream runs around, narrowed as ``spec`` says."""
    layer = next(one for one in net.anatomy.layers if one.name == spec.name)
    if layer.stream is None or spec.skipped:
        raise ValueError(f"layer must be one that a stream runs around and stays, got {spec}")
    changes = {"attention": spec.attention, "widths": spec.widths}
    whole = net.space.check(net.full.replace(spec.name, **changes))
    ends = layer.stream.entry, layer.stream.exit
    narrowed = narrow(net.anatomy, whole, net.attentions, ends)
    graph = narrowed.graph
    outputs: tuple[fx.Node, ...] = graph.output_node().args[0]  # type: ignore[assignment]
    entry, leaving = outputs[-2:]
    graph.output_node().args = ((leaving,),)
    with graph.inserting_after(graph.find_nodes(op="placeholder")[-1]):
        entering = graph.placeholder("entering")
    entering.meta = dict(entry.meta)
    entry.replace_all_uses_with(entering)
    simplify(graph)
    for node in graph.find_nodes(op="placeholder"):
        if node.name in narrowed.names and not node.users:
            graph.erase_node(node)
    graph.lint()
    return LayerGraph(f"{spec.name}.", _part(net, narrowed))


def _part(net: Supernet, narrowed: Narrowed) -> PartGraph:
    found = [narrowed.names.get(n.name) for n in narrowed.graph.find_nodes(op="placeholder")]
    takes = tuple((name, narrowed.selections.get(name or "", ())) for name in found)
    root = net.anatomy.trace.program.graph_module
    return PartGraph(fx.GraphModule(root, narrowed.graph), takes)


def dims_of_node(net: Supernet, name: str) -> tuple[Dim, ...]:
    """Of a node's value, which dims are the rows and which the length."""
    program = net.anatomy.trace.program
    nodes = {node.name: node for node in program.graph.nodes}
    specs = program.graph_signature.input_specs
    inputs = [nodes[spec.arg.name] for spec in specs if weight_name(spec) is None]
    meaning: dict[str, Dim] = {}
    for node, spec in zip(inputs, net.signature.inputs, strict=True):
        for size, dim in zip(node.meta["val"].shape, spec.dims, strict=True):
            if isinstance(dim, str) and not isinstance(size, int):
                meaning[str(size)] = dim
    sizes = nodes[name].meta["val"].shape
    return tuple(s if isinstance(s, int) else meaning.get(str(s), "any") for s in sizes)
