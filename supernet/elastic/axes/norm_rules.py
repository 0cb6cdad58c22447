"""Axes through norms, softmax and reductions: what mixes entries along a dim fixes it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from supernet.elastic.axes.axes import dims_of, fix
from supernet.elastic.axes.product_rules import broadcast
from supernet.elastic.axes.tracing import Dims, Trace, arguments, operator
from supernet.elastic.axes.unification import unify

__all__ = ["RULES", "first_of"]


def _layer_norm(trace: Trace, node: fx.Node) -> Any:
    given = arguments(node)
    dims = trace.of(given["input"])
    over = dims[-len(given["normalized_shape"]) :]
    for dim in over:
        fix(dim, f"{operator(node)} takes a mean over it")
    for name in ("weight", "bias"):
        if isinstance(given.get(name), fx.Node):
            broadcast([over, trace.of(given[name])])
    return first_of(node, dims)


def first_of(node: fx.Node, dims: Dims) -> Any:
    """``dims`` for the first of the results, nothing known of the others."""
    found = node.meta["val"]
    if isinstance(found, Tensor):
        return dims
    why = f"{operator(node)} made it"
    rest = (dims_of(v.shape, [why]) if isinstance(v, Tensor) else [] for v in found[1:])
    return [dims, *rest]


def _batch_norm(trace: Trace, node: fx.Node) -> Any:
    given = arguments(node)
    dims = trace.of(given["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(given.get(name), fx.Node):
            unify(trace.of(given[name])[0], dims[1])
    if given.get("training"):
        fix(dims[1], "batch norm is in training mode")
    return first_of(node, dims)


def _group_norm(trace: Trace, node: fx.Node) -> Any:
    given = arguments(node)
    dims = trace.of(given["input"])
    fix(dims[1], f"{operator(node)} takes a mean over it")
    for name in ("weight", "bias"):
        if isinstance(given.get(name), fx.Node):
            unify(trace.of(given[name])[0], dims[1])
    return first_of(node, dims)


def _along(trace: Trace, node: fx.Node) -> Any:
    """Operators that keep the shape and mix the entries along some dims: softmax, cumsum."""
    given = arguments(node)
    dims = trace.of(given["self"])
    wanted = given.get("dim", given.get("dims"))
    for dim in [wanted] if isinstance(wanted, int) else wanted or range(len(dims)):
        fix(dims[dim], f"{operator(node)} mixes what lies along it")
    found = node.meta["val"]
    return dims if isinstance(found, Tensor) else [dims for _ in found]


def _reduce(trace: Trace, node: fx.Node) -> Any:
    given = arguments(node)
    source = given["self"]
    dims: Dims = list(trace.of(source))
    wanted = given.get("dim")
    over = [wanted] if isinstance(wanted, int) else list(wanted or range(len(dims)))
    gone = {dim % len(dims) for dim in over} if dims else set()
    for dim in gone:
        fix(dims[dim], f"{operator(node)} reduces it")
    if given.get("keepdim"):
        kept: Dims = [[] if index in gone else axes for index, axes in enumerate(dims)]
    else:
        kept = [axes for index, axes in enumerate(dims) if index not in gone]
    found = node.meta["val"]
    return kept if isinstance(found, Tensor) else [kept for _ in found]


RULES = {
    **dict.fromkeys(
        ("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm"), _layer_norm),
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), _batch_norm),
    **dict.fromkeys(("group_norm", "native_group_norm", "instance_norm"), _group_norm),
    **dict.fromkeys(
        ("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod", "flip", "roll",
         "sort", "logcumsumexp"), _along),
    **dict.fromkeys(
        ("sum", "mean", "amax", "amin", "any", "all", "var", "std", "logsumexp", "prod", "argmax",
         "argmin", "max", "min", "norm", "linalg_vector_norm"), _reduce),
}  # fmt: skip
