"""A program being rewritten, and its linear layers onto fused products."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from supernet.errors import BuildFailed
from supernet.fusion.kernels import onednn, product
from supernet.fusion.kernels.onednn import PostOp
from supernet.fusion.kernels.packing import Pack
from supernet.fusion.kernels.quantization import Rounding, quantize, scales

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
    rounded: Mapping[str, Rounding] = field(default_factory=dict)
    nodes: dict[str, Node] = field(init=False)
    kernels: list[tuple[str, ...]] = field(default_factory=list)
    packs: dict[str, Pack] = field(default_factory=dict)

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

    def pack(self, name: str, pack: Pack) -> Node:
        """A node that gives the packed weight from now on."""
        self.packs[name] = pack
        self.module.register_buffer(name, pack.packed())
        return self.graph.get_attr(name)

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


def lower_product(work: Rewrite, node: Node, inside: set[Node]) -> None:
    """A linear with the activation behind it, if that is in its region."""
    last, activation = with_activation(node, inside)
    rounding = work.rounded.get(node.name)
    kind = None if rounding is None else rounding.kind
    if (kind == "int8" and activation.name not in onednn.IN_INT8) or (
        kind == "fp16" and not product.takes(activation)
    ):
        last, activation = node, PostOp()
    last.replace_all_uses_with(_product(work, [node], activation))
    work.kernels.append((node.name,) if last is node else (node.name, last.name))


def merge_products(work: Rewrite, linears: Sequence[Node]) -> None:
    """Linears that read the same value in the same precision as one product, its rows split
    between them."""
    merged = _product(work, linears, PostOp())
    sizes = [weight_of(work, node).shape[0] for node in linears]
    with work.graph.inserting_after(merged):
        parts = work.graph.call_function(
            torch.ops.aten.split_with_sizes.default, (merged, sizes, -1)
        )
    after = parts
    for index, node in enumerate(linears):
        with work.graph.inserting_after(after):
            after = work.graph.call_function(operator.getitem, (parts, index))
        node.replace_all_uses_with(after)
    work.kernels.append(tuple(node.name for node in linears))


def _product(work: Rewrite, linears: Sequence[Node], activation: PostOp) -> Node:
    at, rounding = linears[0], work.rounded.get(linears[0].name)
    weights = [weight_of(work, node) for node in linears]
    weight = weights[0] if len(weights) == 1 else torch.cat(weights)
    bias = _biases(work, linears)
    name = f"packed_{at.name}"
    with work.graph.inserting_before(at):
        if rounding is None or rounding.kind == "fp16":
            ours = product.fits(weight) and product.takes(activation)
            if rounding is not None and ours:
                weight = weight.half()
            packed = work.pack(name, Pack("product" if ours else "linear", weight))
            held = work.keep(f"{name}_bias", bias)
            return work.graph.call_function(
                product.multiply if ours else onednn.linear(),
                (at.args[0], packed, held, *activation.arguments()),
            )
        if rounding.kind == "int8":
            return _int8(work, name, at.args[0], weight, bias, activation, rounding)
        packed = work.pack(name, Pack("linear", weight.bfloat16()))
        held = work.keep(f"{name}_bias", None if bias is None else bias.bfloat16())
        x = work.graph.call_function(torch.ops.aten.to.dtype, (at.args[0], torch.bfloat16))
        made = work.graph.call_function(onednn.linear(), (x, packed, held, *activation.arguments()))
        return work.graph.call_function(torch.ops.aten.to.dtype, (made, torch.float32))


def _int8(
    work: Rewrite, name: str, x: Any, weight: Tensor, bias: Tensor | None,
    activation: PostOp, rounding: Rounding,
) -> Node:  # fmt: skip
    step = scales(weight)
    whole = (weight / step[:, None]).round().to(torch.int8)
    packed = work.pack(name, Pack("int8", whole))
    steps = work.keep(f"{name}_scale", step)
    zeros = work.keep(f"{name}_zero", torch.zeros(len(step), dtype=torch.int64))
    held = work.keep(f"{name}_bias", bias)
    start, scale = rounding.zero, rounding.scale
    x = work.graph.call_function(quantize, (x, 1 / scale, start))
    weighted = (packed, steps, zeros, held)
    return work.graph.call_function(
        onednn.linear_int8(),
        (x, scale, start, *weighted, 1.0, 0, torch.float32, *activation.arguments()),
    )


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


def with_activation(node: Node, inside: set[Node]) -> tuple[Node, PostOp]:
    """The activation that alone reads ``node`` within its region, or ``node`` and none."""
    user = only_user(node, inside)
    activation = None if user is None else onednn.activation_of(user)
    return (node, PostOp()) if user is None or activation is None else (user, activation)


def only_user(node: Node, inside: set[Node]) -> Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0] in inside else None
