"""Reading a program's operators: names, arguments, dtypes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node

from supernet.domain.engine import words

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = [
    "ALIASES",
    "arguments",
    "dtype_of",
    "held",
    "inner_operators",
    "name_of",
    "tensors",
    "uses",
]

ALIASES = words(
    """view _unsafe_view reshape expand expand_as permute transpose t unsqueeze squeeze flatten
    unflatten contiguous clone detach alias lift_fresh_copy lift_fresh slice select narrow chunk
    split split_with_sizes unbind tensor_split unfold movedim swapaxes mT flip roll repeat tile
    repeat_interleave view_as diagonal dropout _assert_tensor_metadata broadcast_to index_select
    gather take take_along_dim index _unsafe_index embedding tril triu diag_embed squeeze_copy
    unsqueeze_copy expand_copy permute_copy view_copy slice_copy select_copy alias_copy
    transpose_copy narrow_copy feature_dropout constant_pad_nd pad"""
)
"""Operators whose results hold numbers of their first argument, or 0."""


def name_of(node: Node) -> str:
    """An operator's name without overload, e.g. ``"floor_divide"``; what calls none has another."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target.overloadpacket.__name__)
    return getattr(target, "__name__", str(target))


def arguments(node: Node) -> dict[str, Any]:
    """An operator's arguments by the names of its schema, defaults included."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {str(index): value for index, value in enumerate(node.args)}
    names = [(a.name, a.default_value) for a in node.target._schema.arguments]
    found = dict(names)
    found.update(zip((name for name, _ in names), node.args, strict=False))
    found.update(node.kwargs)
    return found


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors among what a node gives."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)


def dtype_of(node: Any) -> str | None:
    """The dtype of the tensor that a node gives, e.g. ``"int64"``; None for anything else."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    return str(value.dtype).removeprefix("torch.") if isinstance(value, Tensor) else None


def inner_operators(program: ExportedProgram) -> Iterator[Node]:
    """The operators of graphs inside the program's graph (branches, regions without gradient)."""
    for path, module in program.graph_module.named_modules():
        if path and isinstance(module, torch.fx.GraphModule):
            yield from (node for node in module.graph.nodes if node.op == "call_function")


def held(program: ExportedProgram) -> dict[str, Tensor]:
    """Parameters, buffers and constants by the names of their placeholders."""
    signature = program.graph_signature
    targets = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    found = {}
    for name, target in targets.items():
        value = program.state_dict.get(target, program.constants.get(target))
        if isinstance(value, Tensor):
            found[name] = value
    return found


def uses(nodes: Sequence[Node]) -> Iterator[tuple[str, str]]:
    """Operators with each dtype that they take or give; inputs as "the input"."""
    for node in nodes:
        if node.op not in ("call_function", "placeholder"):
            continue
        name = name_of(node) if node.op == "call_function" else "the input"
        given: list[Any] = [node.meta.get("val")]
        given.extend(other.meta.get("val") for other in node.all_input_nodes)
        for value in given:
            for tensor in tensors(value):
                yield name, str(tensor.dtype).removeprefix("torch.")
