"""Axes through what remains: elementwise operators, lookups, pools.

``trace`` walks a program with all rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from supernet.elastic.axes import join_rules, norm_rules, product_rules, view_rules
from supernet.elastic.axes.axes import Axes, dims_of, fix, size_of
from supernet.elastic.axes.product_rules import broadcast
from supernet.elastic.axes.tracing import Dims, Trace, arguments, operator, tensors
from supernet.elastic.axes.unification import section, unify

__all__ = ["trace"]

_Rule: TypeAlias = Callable[[Trace, fx.Node], Any]

# Elementwise, but not tagged as such by torch.
_POINTWISE = frozenset(
    {"hardswish", "prelu", "masked_fill", "where", "true_divide", "floor_divide", "rsub", "pow",
     "multiply", "divide", "subtract", "negative", "square", "clip", "absolute", "logical_and",
     "logical_or", "__and__", "__or__", "and", "or", "xor", "softsign"}
)  # fmt: skip


def trace(program: ExportedProgram) -> Trace:
    """The axes of every value of a program that writes into no tensor (``functional``)."""
    walk = Trace(program)
    walk.begin()
    for node in program.graph.nodes:
        if node.op == "output":
            for value in node.all_input_nodes:
                _fix_all(walk, value, "the model returns it")
        elif node.op != "placeholder":
            _step(walk, node)
    for name, users in walk.uses.items():
        if len(users) > 1:
            for dim in walk.of(walk.weights[name]):
                fix(dim, f"the weight {name!r} is used in {len(users)} places")
    return walk


def _step(walk: Trace, node: fx.Node) -> None:
    if any(n in walk.varying for n in node.all_input_nodes):
        walk.varying.add(node)
    value = node.meta.get("val")
    if not isinstance(value, (Tensor, list, tuple)):
        walk.dims[node] = []
        return
    rule = _rule(node)
    try:
        walk.dims[node] = rule(walk, node)
        if isinstance(value, Tensor) and len(walk.dims[node]) == value.dim():
            return
        if isinstance(value, (list, tuple)) and len(walk.dims[node]) == len(value):
            return
    except (NotImplementedError, IndexError, KeyError, TypeError, ValueError):
        pass  # a form of the operator that its rule does not know
    walk.dims[node] = _unknown(walk, node)


def _rule(node: fx.Node) -> _Rule:
    name = operator(node)
    if name in _RULES:
        return _RULES[name]
    tags = getattr(node.target, "tags", ())
    if name in _POINTWISE or torch.Tag.pointwise in tags:
        return _pointwise
    return _unknown


def _unknown(walk: Trace, node: fx.Node) -> Any:
    why = f"the operator {operator(node)} is not understood"
    for value in node.all_input_nodes:
        _fix_all(walk, value, why)
    found = node.meta["val"]
    if isinstance(found, Tensor):
        return dims_of(found.shape, [why])
    return [dims_of(v.shape, [why]) if isinstance(v, Tensor) else [] for v in found]


def _fix_all(walk: Trace, node: fx.Node, why: str) -> None:
    found = walk.dims.get(node, [])
    if isinstance(node.meta.get("val"), (list, tuple)):
        found = [dim for dims in found for dim in dims]
    for dim in found:
        fix(dim, why)


def _pointwise(walk: Trace, node: fx.Node) -> Dims:
    values = [walk.of(value) for value in tensors(node)]
    if operator(node) == "prelu" and len(values[1]) == 1 and values[1][0]:
        unify(values[1][0], values[0][1])
        return values[0]
    return broadcast(values)


def _gated(walk: Trace, node: fx.Node) -> Dims:
    """Of a dim its first half times the sigmoid of its second."""
    given = arguments(node)
    dims, dim = list(walk.of(given["self"])), given["dim"]
    half = node.meta["val"].shape[dim]
    if not isinstance(half, int):
        raise NotImplementedError
    first, second = (section(dims[dim], at, at + half, "glu") for at in (0, half))
    unify(first, second)
    dims[dim] = first
    return dims


def _embedding(walk: Trace, node: fx.Node) -> Dims:
    given = arguments(node)
    table = walk.of(given["weight"])
    for axes in table:
        fix(axes, "it is looked up in a table")
    return [*walk.of(given["indices"]), table[1]]


def _index(walk: Trace, node: fx.Node) -> Dims:
    """Picked along one dim: a table of biases by distance, say."""
    given = arguments(node)
    dims = list(walk.of(given["self"]))
    places = [(at, index) for at, index in enumerate(given["indices"]) if index is not None]
    if len(places) != 1 or places[0][1].meta["val"].dtype is torch.bool:
        raise NotImplementedError
    at, picked = places[0][0], walk.of(places[0][1])
    fix(dims[at], "index picks of it")
    for axes in picked:
        fix(axes, "it picks of a table")
    return [*dims[:at], *picked, *dims[at + 1 :]]


def _index_select(walk: Trace, node: fx.Node) -> Dims:
    given = arguments(node)
    dims = list(walk.of(given["self"]))
    why = "index_select picks of it"
    fix(dims[given["dim"]], why)
    dims[given["dim"]] = dims_of([node.meta["val"].shape[given["dim"]]], [why])[0]
    return dims


def _pool(walk: Trace, node: fx.Node) -> Any:
    """Over the places of an image, channel by channel."""
    first = node.all_input_nodes[0]
    dims, before = list(walk.of(first)), first.meta["val"].shape
    found = node.meta["val"]
    after = found.shape if isinstance(found, Tensor) else found[0].shape
    places = int(re.findall(r"(\d)d", operator(node))[-1])
    pooled: list[Axes] = []
    for index, axes in enumerate(dims):
        if index >= len(dims) - places:
            fix(axes, "it is a place in an image")
            axes = dims_of([after[index]], ["it is a place in an image"])[0]
        elif size_of(before[index]) != size_of(after[index]):
            raise NotImplementedError
        pooled.append(axes)
    return norm_rules.first_of(node, pooled)


_POOLS = [
    f"{kind}_pool{n}d" for n in (1, 2, 3) for kind in ("max", "avg", "adaptive_avg", "adaptive_max")
]
_RULES: dict[str, _Rule] = {
    **product_rules.RULES,
    **view_rules.RULES,
    **join_rules.RULES,
    **norm_rules.RULES,
    "glu": _gated,
    "embedding": _embedding,
    "index": _index,
    "index_select": _index_select,
    **dict.fromkeys(
        [*_POOLS, "max_pool2d_with_indices", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
         "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"], _pool),
}  # fmt: skip
