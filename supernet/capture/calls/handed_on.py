"""Outputs that a program does not compute but hands on: its weights, its inputs, views of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from supernet.effects.call_effects import storage_key

__all__ = ["NOTHING", "HandedOn", "handed_on"]


@dataclass(frozen=True, slots=True)
class HandedOn:
    """By output index. What the model returns as it is, its callers get as it is.

    `own`: the parameter or buffer of that name itself. `given`: the input of that index itself.
    `held`: in the memory of a parameter, a buffer or a constant, so that a caller who writes to his
    answer would write to what a plan computes with.
    """

    own: tuple[tuple[int, str], ...] = ()
    given: tuple[tuple[int, int], ...] = ()
    held: frozenset[int] = frozenset()


NOTHING = HandedOn()


def handed_on(program: ExportedProgram, model: nn.Module) -> HandedOn:
    """What `program`, traced from `model`, hands on."""
    names = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    inputs: dict[str, int] = {}
    owned: dict[str, str] = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            inputs[spec.arg.name] = len(inputs)
        else:
            owned[spec.arg.name] = str(spec.target).removeprefix("model.")
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    memory = {_memory(nodes[name]) for name in owned if name in nodes}
    own: list[tuple[int, str]] = []
    given: list[tuple[int, int]] = []
    held: set[int] = set()
    last = next(node for node in reversed(program.graph.nodes) if node.op == "output")
    for index, value in enumerate(last.args[0]):
        if not isinstance(value, Node):
            continue
        if (name := owned.get(value.name)) in names and name is not None:
            own.append((index, name))
        elif value.name in inputs:
            given.append((index, inputs[value.name]))
        elif _memory(value) in memory:
            held.add(index)
    return HandedOn(tuple(own), tuple(given), frozenset(held))


def _memory(node: Node) -> int | None:
    """Of the traced tensor: views of one memory have the same. None where it cannot be told."""
    value = node.meta.get("val")
    return storage_key(value) if isinstance(value, Tensor) else None
