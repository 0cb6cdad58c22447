"""Which axes the dims of every value of a program are: one walk over its graph.

Weights begin with an axis of their own for every dim, and each operator lines up what it must. An
operator without a rule fixes all axes that it meets, so that nothing is ever cut by guesswork.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec

from supernet.elastic.axes.axes import Axes, dims_of, fix

__all__ = [
    "Dims",
    "Trace",
    "arguments",
    "copied",
    "held",
    "identity",
    "operator",
    "parameters_of",
    "path_of",
    "tensors",
    "weight_name",
]

Dims: TypeAlias = list[Axes]

_NONE = "_empty_nn_module_stack_from_metadata_hook"


@dataclass(slots=True, eq=False)
class Trace:
    """What is known of a program's axes.

    `weights`: of each parameter, buffer and constant by name, its placeholder. `dims`: of every
    node that is a tensor (of one that is several, a list of them). `varying`: the nodes that
    depend on the inputs' contents. `uses`: by weight, the nodes that use it, whatever its name.
    `tensors`: the weights themselves.
    """

    program: ExportedProgram
    weights: dict[str, fx.Node] = field(default_factory=dict)
    dims: dict[fx.Node, Any] = field(default_factory=dict)
    varying: set[fx.Node] = field(default_factory=set)
    uses: dict[str, list[fx.Node]] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    _names: dict[fx.Node, str] = field(default_factory=dict)

    def of(self, node: Any) -> Dims:
        """The dims of a node; one dim a list of axes, outermost first."""
        found: Dims = self.dims[node]
        return found

    def begin(self) -> None:
        """Axes for the inputs, which are fixed, and for the weights, which are not."""
        specs = self.program.graph_signature.input_specs
        nodes = self.program.graph.find_nodes(op="placeholder")
        known: dict[tuple[Any, ...], tuple[Dims, str]] = {}
        kept = self.tensors = held(self.program)
        for node, spec in zip(nodes, specs, strict=True):
            name = weight_name(spec)
            value = node.meta.get("val")
            if name is None or not isinstance(value, Tensor):
                self.varying.add(node)
                shape = value.shape if isinstance(value, Tensor) else ()
                self.dims[node] = dims_of(shape, ["the model's inputs have it"])
                continue
            key = identity(kept[name])
            dims, first = known.setdefault(key, (dims_of(value.shape), name))
            self.weights[name], self.dims[node], self._names[node] = node, dims, name
            self.uses.setdefault(first, []).extend(_users(node))
            self.uses[name] = self.uses[first]
        _fix_overlapping({name: kept[name] for name in self.weights}, self)

    def weights_of(self, node: fx.Node) -> Iterator[str]:
        """The names of the weights that a node takes as they are or through views and casts."""
        waiting = [n for n in node.all_input_nodes if n not in self.varying]
        while waiting:
            found = waiting.pop()
            if found in self._names:
                yield self._names[found]
            else:
                waiting.extend(found.all_input_nodes)


def held(program: ExportedProgram) -> dict[str, Tensor]:
    """The program's weights by name, as the user's module calls them."""
    tensors: Mapping[str, Any] = {**program.constants, **program.state_dict}
    found = {}
    for spec in program.graph_signature.input_specs:
        name = weight_name(spec)
        if name is not None and isinstance(tensors.get(spec.target or ""), Tensor):
            found[name] = tensors[spec.target or ""].detach()
    return found


def copied(weights: Mapping[str, Tensor], parameters: Collection[str] = ()) -> dict[str, Tensor]:
    """Copies of their own memory, some of them as parameters.

    What was one tensor under several names is one again, so that tied weights stay tied.
    """
    made: dict[tuple[Any, ...], Tensor] = {}
    found = {}
    for name, weight in weights.items():
        key = identity(weight)
        if key not in made:
            own = weight.detach().clone(memory_format=torch.contiguous_format)
            trains = own.is_floating_point()
            made[key] = nn.Parameter(own, trains) if name in parameters else own
        found[name] = made[key]
    return found


def identity(weight: Tensor) -> tuple[Any, ...]:
    """Equal for two tensors that are the same numbers in the same memory."""
    place = weight.data_ptr() if weight.numel() else id(weight)
    return place, tuple(weight.shape), weight.stride(), weight.dtype


def parameters_of(program: ExportedProgram) -> set[str]:
    """The names of the weights that are parameters."""
    specs = program.graph_signature.input_specs
    found = (weight_name(spec) for spec in specs if spec.kind is InputKind.PARAMETER)
    return {name for name in found if name is not None}


def weight_name(spec: InputSpec) -> str | None:
    """What the user's module calls this weight; None for an input."""
    if spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
        return None
    return str(spec.target).removeprefix("model.")


def _users(node: fx.Node) -> list[fx.Node]:
    return [user for user in node.users if operator(user) != "_assert_tensor_metadata"]


def _fix_overlapping(kept: Mapping[str, Tensor], trace: Trace) -> None:
    """Weights that share a part of their memory with others stay as they are."""
    spans: dict[int, list[tuple[int, int, str]]] = {}
    for name, tensor in kept.items():
        if tensor.numel():
            start = tensor.data_ptr()
            stop = start + tensor.untyped_storage().nbytes()
            if tensor.is_contiguous():
                stop = start + tensor.numel() * tensor.element_size()
            spans.setdefault(tensor.untyped_storage().data_ptr(), []).append((start, stop, name))
    for found in spans.values():
        found.sort()
        for (start, stop, name), (begin, _, other) in itertools.pairwise(found):
            same = start == begin and kept[name].shape == kept[other].shape
            if begin < stop and not same:
                for one, more in ((name, other), (other, name)):
                    for dim in trace.of(trace.weights[one]):
                        fix(dim, f"the weight {one!r} shares memory with {more!r}")


def operator(node: fx.Node) -> str:
    """The name of the operator without library and overload: ``"linear"``."""
    if isinstance(node.target, OpOverload):
        return str(node.target._overloadpacket.__name__)
    return str(getattr(node.target, "__name__", node.target))


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call by name, defaults included."""
    if not isinstance(node.target, OpOverload):
        return {**{str(i): arg for i, arg in enumerate(node.args)}, **node.kwargs}
    schema = node.target._schema.arguments
    given = {argument.name: argument.default_value for argument in schema}
    return {**given, **dict(zip(given, node.args, strict=False)), **node.kwargs}


def tensors(node: fx.Node) -> list[fx.Node]:
    """The nodes among a call's arguments that are tensors."""
    return [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor)]


def path_of(node: fx.Node) -> str:
    """The module that a node was traced in, as the user's model calls it; "" for the model."""
    stack = [entry for entry in node.meta.get("nn_module_stack", {}).values() if entry[0] != _NONE]
    path = str(stack[-1][0]) if stack else ""
    return path.removeprefix("model").removeprefix(".")
