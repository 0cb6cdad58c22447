"""A program's convolutions onto kernels: padding before, norm, sum and activation after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from supernet.fusion.kernels import onednn, product, winograd
from supernet.fusion.kernels.onednn import PostOp
from supernet.fusion.kernels.packing import Pack
from supernet.fusion.kernels.winograd import Where
from supernet.fusion.lowering.linear import Rewrite, only_user, weight_of, with_activation

__all__ = ["is_convolution", "lower_convolution", "sum_in_place"]

_CONVOLUTIONS = ("aten.conv2d.default", "aten.conv3d.default")
# The layout that oneDNN's convolutions read and write without reordering; what follows keeps it.
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_PADS = {
    "aten.constant_pad_nd.default": ("pad", "value"),
    "aten.pad.default": ("pad", "mode", "value"),
}
_ADD = "aten.add.Tensor"
_BATCH_NORM = "aten.batch_norm.default"
_BATCH_NORM_PARTS = "aten._native_batch_norm_legit_no_training.default"


def is_convolution(work: Rewrite, node: Node) -> bool:
    """Whether a node is a convolution in float with a weight of the program."""
    if str(node.target) not in _CONVOLUTIONS:
        return False
    weight = work.tensor(node.args[1])
    return weight is not None and weight.dtype is torch.float32 and weight.is_cpu


def lower_convolution(work: Rewrite, node: Node, inside: set[Node]) -> None:
    """A convolution, the norm behind it, a sum and the activation, as far as its region goes."""
    weight, bias, where = _convolution_of(work, node)
    ops = [node.name]
    last, source = node, node.args[0]
    if isinstance(source, Node) and source in inside and (width := _zeros_around(source, node)):
        where = ([had + more for had, more in zip(where[0], width, strict=True)], *where[1:])
        ops.insert(0, source.name)
        source = source.args[0]
    if (norm := only_user(last, inside)) is not None and (fold := _fold(work, norm)) is not None:
        scale, shift = fold
        weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        bias = shift if bias is None else bias * scale + shift
        last, norm_ops = _after_norm(norm)
        ops += norm_ops
    addend = None
    if (total := only_user(last, inside)) is not None:
        addend = _addend(total, last)
        if addend is not None:
            last = total
            ops.append(total.name)
    activated, activation = with_activation(last, inside)
    if addend is None or activation.name in onednn.AFTER_SUM:
        last = activated
    else:
        activation = PostOp()
    # Before the last of them: what it is summed with may be computed after the convolution.
    with work.graph.inserting_before(last):
        made = _kernel(work, node, source, addend, weight, bias, where, activation)
    made.meta = dict(last.meta)  # the next convolution asks for its input's size
    last.replace_all_uses_with(made)
    work.kernels.append((*ops, last.name) if last.name not in ops else tuple(ops))


def _kernel(
    work: Rewrite, node: Node, source: Any, addend: Node | None, weight: Tensor,
    bias: Tensor | None, where: Where, activation: PostOp,
) -> Node:  # fmt: skip
    """The call that computes it all, Winograd's where that fits, else oneDNN's."""
    name, sizes = f"packed_{node.name}", _sizes(source)
    x = work.graph.call_function(
        torch.ops.aten.contiguous.default,
        (source,),
        {"memory_format": _CHANNELS_LAST[weight.ndim]},
    )
    held = work.keep(f"{name}_bias", bias)
    if winograd.takes(activation) and winograd.fits(weight, where, sizes):
        packed = work.pack(name, Pack("winograd", weight, (*where, sizes)))
        what = (activation.name, list(activation.scalars))
        return work.graph.call_function(winograd.convolve, (x, packed, held, addend, *where, *what))
    packed = work.pack(name, Pack("convolution", weight, (*where, sizes)))
    weighted = (packed, held, *where)
    if addend is None:
        return work.graph.call_function(
            onednn.convolution(), (x, *weighted, *activation.arguments())
        )
    return work.graph.call_function(
        onednn.convolution_sum(), (x, addend, *weighted, *onednn.of_sum(activation))
    )


def _zeros_around(pad: Node, convolution: Node) -> list[int]:
    """How many zeros ``pad`` puts on each side, per spatial dimension; empty where it is no such
    padding, where the sides differ, or where others need its result."""
    if str(pad.target) not in _PADS or list(pad.users) != [convolution]:
        return []
    given: dict[str, Any] = dict(zip(_PADS[str(pad.target)], pad.args[1:], strict=False))
    given |= pad.kwargs
    if given.get("mode", "constant") != "constant" or given.get("value") not in (None, 0, 0.0):
        return []
    width = given["pad"]
    sides = [(width[i], width[i + 1]) for i in range(0, len(width), 2)]  # the last dimension first
    alike = all(isinstance(before, int) and before == after >= 0 for before, after in sides)
    spatial = len(_sizes(pad) or ()) - 2
    return [before for before, _ in reversed(sides)] if alike and len(sides) == spatial else []


def _addend(total: Node, part: Node) -> Node | None:
    """What ``total`` adds to ``part``, a tensor of the same shape; None if it is no such sum."""
    if str(total.target) != _ADD or total.kwargs.get("alpha", 1) != 1:
        return None
    others = [argument for argument in total.args if argument is not part]
    if len(others) != 1 or not isinstance(others[0], Node):
        return None
    mine, theirs, whole = (n.meta.get("val") for n in (part, others[0], total))
    alike = all(isinstance(v, Tensor) and v.dtype is torch.float32 for v in (mine, theirs, whole))
    if not alike or len({str(list(v.shape)) for v in (mine, theirs, whole)}) > 1:  # type: ignore[union-attr]
        return None
    return others[0]


def sum_in_place(work: Rewrite) -> None:
    """Each sum whose addend nobody needs afterwards is written over it; call it last.

    It saves the memory traffic of a tensor; the order of the nodes must not change any more.
    """
    place = {node: index for index, node in enumerate(work.graph.nodes)}
    # A kernel's own result, in the layout that it would write.
    kernels = (
        onednn.convolution(), onednn.convolution_sum(), onednn.convolution_sum_into(),
        winograd.convolve,
    )  # fmt: skip
    for node in work.graph.nodes:
        if node.target is not onednn.convolution_sum():
            continue
        x, addend, *rest = node.args
        readers = _readers(addend)
        is_free = x not in readers and all(place[reader] <= place[node] for reader in readers)
        if addend.target in kernels and is_free:
            node.target = onednn.convolution_sum_into()
            node.args = (addend, x, *rest)


def _readers(node: Node) -> set[Node]:
    """Whoever may read this node's memory: its users, and those of its views."""
    found: set[Node] = set()
    waiting = [node]
    while waiting:
        for user in waiting.pop().users:
            if user not in found:
                found.add(user)
                if not _makes_its_own(user):
                    waiting.append(user)
    return found


def _makes_its_own(node: Node) -> bool:
    """Whether a node's result is sure to be memory of its own."""
    by_onednn = (onednn.linear(), onednn.convolution(), onednn.convolution_sum())
    if node.target in (*by_onednn, product.multiply, winograd.convolve):
        return True
    schema = getattr(node.target, "_schema", None)
    if schema is None or schema.is_mutable or any(r.alias_info for r in schema.returns):
        return False
    return torch.Tag.pointwise in node.target.tags  # type: ignore[union-attr]


def _sizes(value: Any) -> list[int] | None:
    """What the trace knows of a value's sizes, one row where their number is free."""
    known = getattr(value, "meta", {}).get("val")
    if not isinstance(known, Tensor) or not all(isinstance(size, int) for size in known.shape[1:]):
        return None
    rows = known.shape[0]
    return [rows if isinstance(rows, int) else 1, *map(int, known.shape[1:])]


def _convolution_of(work: Rewrite, node: Node) -> tuple[Tensor, Tensor | None, Where]:
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
