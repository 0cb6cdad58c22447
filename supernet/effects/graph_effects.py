"""Side effects of an exported program: writes that last, random draws."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec
from torch.fx import GraphModule, Node

from supernet.effects.call_effects import draws, storage_key, written

__all__ = ["graph_effect"]


def graph_effect(program: ExportedProgram) -> str | None:
    """What the program does beside answering, or None.

    An exported program keeps in-place operators. Most write to values of its own (a ReLU in
    place). The lists in its signature are filled only by ``run_decompositions``, so each write is
    followed here to the memory that it reaches: the traced tensors of views share theirs.
    """
    kept = _kept(program)
    for node in _operators(program):
        if draws(node.target, node.args, node.kwargs):
            return f"draws random numbers ({node.target})"
        if not node.target._schema.is_mutable:  # type: ignore[union-attr]
            continue
        for argument in written(node.target, node.args, node.kwargs):
            value = argument.meta.get("val") if isinstance(argument, Node) else None
            key = storage_key(value) if isinstance(value, Tensor) else None
            if key is None:  # memory that cannot be told
                return _listed(program)
            if key in kept:
                return kept[key]
    return None


def _operators(program: ExportedProgram) -> Iterator[Node]:
    """Every operator, those in the graphs of branches, loops and ``no_grad`` blocks too."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
                yield node


def _kept(program: ExportedProgram) -> dict[int, str]:
    """What a write to each memory that outlives the call would mean."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    kept: dict[int, str] = {}
    for spec in program.graph_signature.input_specs:
        value = nodes[spec.arg.name].meta.get("val") if spec.arg.name in nodes else None
        key = storage_key(value) if isinstance(value, Tensor) else None
        if key is not None:
            kept[key] = _meaning(spec)
    return kept


def _meaning(spec: InputSpec) -> str:
    if spec.kind is InputKind.USER_INPUT:
        return "writes into its inputs"
    kind = {InputKind.PARAMETER: "parameter", InputKind.BUFFER: "buffer"}.get(spec.kind, "constant")
    return f"changes its {kind} {str(spec.target).removeprefix('model.')!r}"


def _listed(program: ExportedProgram) -> str | None:
    """The same from the lists of mutations, which cost a second trace."""
    signature = program.run_decompositions({}).graph_signature
    if signature.user_inputs_to_mutate:
        return "writes into its inputs"
    names = {**signature.buffers_to_mutate, **getattr(signature, "parameters_to_mutate", {})}
    first = next(iter(names.values()), None)
    return None if first is None else f"changes its buffer {first.removeprefix('model.')!r}"
