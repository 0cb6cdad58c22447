"""The kind of an operator of a program, the arithmetic it does and the effects it has."""

from __future__ import annotations

from enum import Enum

import torch
from torch._ops import OpOverload

from supernet.fusion.graph.shape_propagation import Step, operator_name

__all__ = ["OpKind", "classify", "effect_of", "flops_of"]

# FLOPs per element: mean, variance, normalise, scale and shift; maximum, subtract, exp, sum and
# divide.
_NORM_FLOPS = 8
_SOFTMAX_FLOPS = 5

_NORMS = ("layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm")
_GATHERS = ("embedding", "embedding_bag", "gather", "index", "index_select", "take")
_COPIES = ("_to_copy", "cat", "clone", "constant_pad_nd", "copy", "copy_", "flip", "index_put",
           "repeat", "roll", "scatter", "select_scatter", "slice_scatter", "stack", "tril",
           "triu")  # fmt: skip

_UNTAGGED = frozenset({"hardswish", "prelu"})  # pointwise, and torch 2.13 does not say so


class OpKind(str, Enum):
    """What an op is to a fusion rule."""

    POINTWISE = "pointwise"
    NORM = "norm"
    SOFTMAX = "softmax"
    REDUCTION = "reduction"
    MATMUL = "matmul"
    CONVOLUTION = "convolution"
    ATTENTION = "attention"
    GATHER = "gather"
    VIEW = "view"
    COPY = "copy"
    OTHER = "other"


def classify(step: Step, *, writes: int) -> OpKind:
    """The kind of an op that writes so many bytes; the first that fits."""
    target = step.node.target
    if not writes:
        reads = step.value is None or torch.Tag.data_dependent_output in getattr(target, "tags", ())
        return OpKind.OTHER if reads else OpKind.VIEW
    if not isinstance(target, OpOverload):
        return OpKind.OTHER
    name, parts = step.name, [part for part in step.parts if not _is_view(part)] or [target]
    names = {operator_name(part) for part in parts}
    if "scaled_dot_product" in name:
        return OpKind.ATTENTION
    if "softmax" in name:
        return OpKind.SOFTMAX
    if any(norm in name for norm in _NORMS):
        return OpKind.NORM
    if step.products:
        return OpKind.CONVOLUTION if any("conv" in part for part in names) else OpKind.MATMUL
    if names <= set(_GATHERS):
        return OpKind.GATHER
    if names <= set(_COPIES):
        changed = step.taken and step.made and step.taken[0].dtype != step.made[0].dtype
        return OpKind.POINTWISE if changed else OpKind.COPY
    if "pool" in name or any(torch.Tag.reduction in part.tags for part in parts):
        return OpKind.REDUCTION
    if names <= _UNTAGGED or all(torch.Tag.pointwise in part.tags for part in parts):
        return OpKind.POINTWISE
    return OpKind.OTHER


def flops_of(step: Step, kind: OpKind) -> int:
    """Multiply and add apart; products by torch's own formulas, the rest per element."""
    if not step.made:
        return step.products
    elements = step.made[0].numel()
    if kind is OpKind.ATTENTION:
        query, key, value = step.taken[:3]
        per_score = 2 * (query.shape[-1] + value.shape[-1])
        return int(elements // value.shape[-1] * key.shape[-2] * per_score)
    if kind is OpKind.REDUCTION:
        return int(step.taken[0].numel())
    per_element = {OpKind.POINTWISE: 1, OpKind.NORM: _NORM_FLOPS, OpKind.SOFTMAX: _SOFTMAX_FLOPS}
    return per_element[kind] * elements if kind in per_element else step.products


def effect_of(step: Step) -> str | None:
    """`"mutates"`, `"random"`, `"data-dependent"`, or None: it may be moved and fused."""
    target = step.node.target
    if not step.known or step.value is None or isinstance(target, torch._ops.HigherOrderOperator):
        return "data-dependent"
    if not isinstance(target, OpOverload):
        return None
    if target._schema.is_mutable:
        return "mutates"
    if torch.Tag.data_dependent_output in target.tags:
        return "data-dependent"
    given = step.given
    if given.get("training") and given.get("running_mean") is not None:
        return "mutates"  # its running statistics, though a batch norm's schema does not say so
    if torch.Tag.nondeterministic_seeded not in target.tags:
        return None
    inert = any(given.get(name) is False for name in ("train", "training"))
    inert = inert or any(given.get(name) == 0 for name in ("p", "dropout_p", "dropout"))
    return None if inert else "random"


def _is_view(part: OpOverload) -> bool:
    aliases = not part._schema.is_mutable and any(r.alias_info for r in part._schema.returns)
    return aliases or operator_name(part) == "_unsafe_view"
