"""A program being rewritten, and its linear layers onto oneDNN's products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from supernet.errors import BuildFailed
from supernet.fusion import onednn
from supernet.fusion.onednn import Activation

__all__ = [
    "Rewrite",
    "is_product",
    "lower_product",
    "merge_products",
    "only_user",
    "weight_of",
    "with_activation",
]

_LINEAR = "aten.linear.default"


@dataclass(slots=True)
class Rewrite:
    """A module being rewritten."""

    module: GraphModule
    bf16: frozenset[str]
    nodes: dict[str, Node] = field(init=False)
    kernels: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.nodes = {node.name: node for node in self.module.graph.nodes}

    @property
    def graph(self) -> Graph:
        return self.module.graph

    def tensor(self, node: Any) -> Tensor | None:
        """The weight behind a node; None for anything computed."""
        if not isinstance(node, Node) or node.op != "get_attr":
            return None
        held = getattr(self.module, str(node.target))
        return held if isinstance(held, Tensor) else None

    def keep(self, name: str, tensor: Tensor | None) -> Node | None:
        """A node that gives ``tensor`` from now on; call it where a node may be inserted."""
        if tensor is None:
            return None
        self.module.register_buffer(name, tensor)
        return self.graph.get_attr(name)


def is_product(work: Rewrite, node: Node) -> bool:
    """Whether a node is a linear in float whose weight and bias are the program's."""
    if str(node.target) != _LINEAR:
        return False
    weight = work.tensor(node.args[1])
    bias = node.args[2] if len(node.args) > 2 else None
    fits = weight is not None and weight.ndim == 2 and weight.dtype is torch.float32
    return fits and weight.is_cpu and (bias is None or work.tensor(bias) is not None)  # type: ignore[union-attr]


def lower_product(work: Rewrite, node: Node, inside: set[Node], rounded: bool) -> None:
    """A linear with the activation behind it, if that is in its region."""
    last, activation = with_activation(node, inside)
    product = _product(work, node, [node], activation, rounded)
    last.replace_all_uses_with(product)
    work.kernels.append((node.name,) if last is node else (node.name, last.name))


def merge_products(work: Rewrite, linears: Sequence[Node], rounded: bool) -> None:
    """Linears that read the same value as one product, its rows split between them."""
    product = _product(work, linears[0], linears, Activation(), rounded)
    sizes = [weight_of(work, node).shape[0] for node in linears]
    with work.graph.inserting_after(product):
        parts = work.graph.call_function(
            torch.ops.aten.split_with_sizes.default, (product, sizes, -1)
        )
    after = parts
    for index, node in enumerate(linears):
        with work.graph.inserting_after(after):
            after = work.graph.call_function(_item, (parts, index))
        node.replace_all_uses_with(after)
    work.kernels.append(tuple(node.name for node in linears))


def _product(
    work: Rewrite, at: Node, linears: Sequence[Node], activation: Activation, rounded: bool
) -> Node:
    weight = torch.cat([weight_of(work, node) for node in linears])
    bias = _biases(work, linears)
    if rounded:
        weight, bias = weight.bfloat16(), None if bias is None else bias.bfloat16()
    name = f"packed_{at.name}"
    with work.graph.inserting_before(at):
        x: Any = at.args[0]
        packed = work.keep(name, onednn.pack_linear(weight))
        held = work.keep(f"{name}_bias", bias)
        if rounded:
            x = work.graph.call_function(torch.ops.aten.to.dtype, (x, torch.bfloat16))
        product = work.graph.call_function(
            onednn.linear(), (x, packed, held, *activation.arguments())
        )
        if rounded:
            product = work.graph.call_function(torch.ops.aten.to.dtype, (product, torch.float32))
    return product


def weight_of(work: Rewrite, node: Node) -> Tensor:
    """The weight of a product or convolution."""
    weight = work.tensor(node.args[1])
    if weight is None:
        raise BuildFailed(f"the weight of {node.name} must be a tensor of the program")
    return weight


def _biases(work: Rewrite, linears: Sequence[Node]) -> Tensor | None:
    """Biases in a row, zeros for those without; None where there are none at all."""
    biases = [work.tensor(node.args[2]) if len(node.args) > 2 else None for node in linears]
    if all(bias is None for bias in biases):
        return None
    return torch.cat(
        [
            torch.zeros(weight_of(work, node).shape[0]) if bias is None else bias
            for node, bias in zip(linears, biases, strict=True)
        ]
    )


def with_activation(node: Node, inside: set[Node]) -> tuple[Node, Activation]:
    """The activation that alone reads ``node`` within its region, or ``node`` and none."""
    user = only_user(node, inside)
    activation = None if user is None else onednn.activation_of(user)
    return (node, Activation()) if user is None or activation is None else (user, activation)


def only_user(node: Node, inside: set[Node]) -> Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0] in inside else None


def _item(parts: Sequence[Tensor], index: int) -> Tensor:
    return parts[index]
