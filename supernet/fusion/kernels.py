"""Nodes of a program onto oneDNN's kernels: products, merged products, convolutions."""

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
    "is_convolution",
    "is_product",
    "lower_convolution",
    "lower_product",
    "merge_products",
    "weight_of",
]

_LINEAR = "aten.linear.default"
_CONVOLUTIONS = ("aten.conv2d.default", "aten.conv3d.default")
# The layout that oneDNN's convolutions read and write without reordering; what follows keeps it.
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_BATCH_NORM = "aten.batch_norm.default"
_BATCH_NORM_PARTS = "aten._native_batch_norm_legit_no_training.default"


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


def is_convolution(work: Rewrite, node: Node) -> bool:
    """Whether a node is a convolution in float with a weight of the program."""
    if str(node.target) not in _CONVOLUTIONS:
        return False
    weight = work.tensor(node.args[1])
    return weight is not None and weight.dtype is torch.float32 and weight.is_cpu


def lower_product(work: Rewrite, node: Node, inside: set[Node], rounded: bool) -> None:
    """A linear with the activation behind it, if that is in its region."""
    last, activation = _with_activation(node, inside)
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


def lower_convolution(work: Rewrite, node: Node, inside: set[Node]) -> None:
    """A convolution with the norm and the activation behind it, as far as its region goes."""
    weight, bias, where = _convolution_of(work, node)
    ops = [node.name]
    last = node
    if (norm := _only_user(last, inside)) is not None and (fold := _fold(work, norm)) is not None:
        scale, shift = fold
        weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        bias = shift if bias is None else bias * scale + shift
        last, norm_ops = _after_norm(norm)
        ops += norm_ops
    last, activation = _with_activation(last, inside)
    name = f"packed_{node.name}"
    with work.graph.inserting_before(node):
        packed = work.keep(name, onednn.pack_convolution(weight, *where, _sizes(node.args[0])))
        held = work.keep(f"{name}_bias", bias)
        x = work.graph.call_function(
            torch.ops.aten.contiguous.default,
            (node.args[0],),
            {"memory_format": _CHANNELS_LAST[weight.ndim]},
        )
        made = work.graph.call_function(
            onednn.convolution(), (x, packed, held, *where, *activation.arguments())
        )
    made.meta = dict(last.meta)  # the next convolution asks for its input's size
    last.replace_all_uses_with(made)
    work.kernels.append((*ops, last.name) if last.name not in ops else tuple(ops))


def _sizes(value: Any) -> list[int] | None:
    """What the trace knows of a value's sizes, one row where their number is free."""
    known = getattr(value, "meta", {}).get("val")
    if not isinstance(known, Tensor) or not all(isinstance(size, int) for size in known.shape[1:]):
        return None
    rows = known.shape[0]
    return [rows if isinstance(rows, int) else 1, *map(int, known.shape[1:])]


def _convolution_of(
    work: Rewrite, node: Node
) -> tuple[Tensor, Tensor | None, tuple[list[int], list[int], list[int], int]]:
    """Weight, bias and (padding, stride, dilation, groups) of a convolution node."""
    weight = weight_of(work, node)
    spatial = weight.ndim - 2
    given: list[Any] = [*node.args[2:], *[None] * (7 - len(node.args))]
    bias, stride, padding, dilation, groups = given[:5]

    def sizes(value: Sequence[int] | None, default: int) -> list[int]:
        given = [default] if value is None else list(value)
        return given * spatial if len(given) == 1 else given

    where = (sizes(padding, 0), sizes(stride, 1), sizes(dilation, 1), groups or 1)
    return weight, work.tensor(bias), where


def _fold(work: Rewrite, node: Node) -> tuple[Tensor, Tensor] | None:
    """A batch norm with fixed statistics as ``x * scale + shift``; None for any other node."""
    target = str(node.target)
    if target == _BATCH_NORM and node.args[5] is False:
        epsilon = node.args[7]
    elif target == _BATCH_NORM_PARTS:
        epsilon = node.args[6]
    else:
        return None
    scale, shift, mean, variance = (work.tensor(argument) for argument in node.args[1:5])
    if mean is None or variance is None or not isinstance(epsilon, float):
        return None
    # In double: the fold is exact up to one rounding of each weight.
    factor = (variance.double() + epsilon).rsqrt()
    if scale is not None:
        factor = factor * scale.double()
    offset = -mean.double() * factor
    if shift is not None:
        offset = offset + shift.double()
    return factor.float(), offset.float()


def _after_norm(norm: Node) -> tuple[Node, list[str]]:
    """The node that carries the norm's value, and the names that it stands for."""
    if str(norm.target) == _BATCH_NORM:
        return norm, [norm.name]
    value = next(user for user in norm.users if user.args[1] == 0)
    return value, [norm.name, value.name]


def _with_activation(node: Node, inside: set[Node]) -> tuple[Node, Activation]:
    """The activation that alone reads ``node`` within its region, or ``node`` and none."""
    user = _only_user(node, inside)
    activation = None if user is None else onednn.activation_of(user)
    return (node, Activation()) if user is None or activation is None else (user, activation)


def _only_user(node: Node, inside: set[Node]) -> Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0] in inside else None


def _item(parts: Sequence[Tensor], index: int) -> Tensor:
    return parts[index]
