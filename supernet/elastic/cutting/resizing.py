"""Sizes in a sub-network's graph: what reshapes, slices, splits and groups must be told anew."""

from __future__ import annotations

import operator as python
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from supernet.elastic.axes.axes import Axes, Axis, Size, factors, leaves, quotient, units
from supernet.elastic.axes.tracing import Trace, arguments, operator
from supernet.elastic.axes.unification import regroup

__all__ = ["Cuts", "cut_size", "is_cut", "resize", "stays"]

aten = torch.ops.aten

Cuts: TypeAlias = Mapping[Axis, int]
"""How many units of an axis stay, the first ones, for every axis that is cut."""


def is_cut(axes: Sequence[Axis], cuts: Cuts) -> bool:
    """Whether less of a dim stays than there is."""
    return any(axis in cuts for axis in leaves(axes))


def stays(axes: Sequence[Axis], cuts: Cuts) -> npt.NDArray[np.bool_]:
    """Which entries of a dim stay."""
    kept = np.ones(prod(axis.size for axis in factors(axes)), dtype=np.bool_)
    for axis in dict.fromkeys(leaves(axes)):
        if axis in cuts:
            kept &= units(axes, axis) < cuts[axis]
    return kept


def cut_size(axes: Sequence[Axis], cuts: Cuts) -> Size:
    """Of a dim, once cut."""
    size: Size = 1
    for axis in factors(axes):
        if axis.concat:
            parts = [cut_size([part], cuts) for part in axis.concat]
            size = size * sum(parts[1:], start=parts[0])
        else:
            size = size * cuts.get(axis, axis.size)
    return size


def resize(trace: Trace, before: fx.Node, node: fx.Node, cuts: Cuts) -> None:
    """Give a copied node the sizes that follow from the cuts."""
    name = operator(before)
    given = arguments(before)
    if name in _SIZED:
        argument = _SIZED[name]
        offset = 0
        if name == "unflatten":
            offset = given["dim"] % len(trace.of(given["self"]))
        sizes = list(arguments(node)[argument])
        dims = trace.of(before)[offset : offset + len(sizes)]
        if any(is_cut(axes, cuts) for axes in dims):
            new = [_new_size(node, s, a, cuts) for s, a in zip(sizes, dims, strict=True)]
            _set_argument(node, argument, new)
    elif name in ("slice", "narrow"):
        _resize_slice(trace, node, given, cuts)
    elif name in ("split", "split_with_sizes", "chunk", "tensor_split"):
        source, dim = given["self"], given["dim"]
        if is_cut(trace.of(source)[dim], cuts):
            sizes = [cut_size(part[dim], cuts) for part in trace.dims[before]]
            node.args = (node.args[0], sizes, dim)
            node.kwargs = {}
            node.target = aten.split_with_sizes.default
    elif name.startswith("conv") and given.get("groups", 1) > 1:
        channels = trace.of(given["input"])[-len(trace.of(given["weight"])) + 1]
        groups = regroup(channels, [given["groups"], cut_size(channels, {}) // given["groups"]])
        if groups is not None and is_cut(groups[0], cuts):
            _set_argument(node, "groups", int(cut_size(groups[0], cuts)))


_SIZED = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), "size"),
    "reshape": "shape",
    "expand": "size",
    "unflatten": "sizes",
    **dict.fromkeys(("zeros", "ones", "full", "empty"), "size"),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "new_empty"), "size"),
}


def _new_size(node: fx.Node, size: Any, axes: Axes, cuts: Cuts) -> Any:
    """For an argument that gives the size of a dim: -1 and sizes of other dims stay."""
    if not is_cut(axes, cuts) or (isinstance(size, int) and size == -1):
        return size
    new = cut_size(axes, cuts)
    if isinstance(size, int):
        return int(new)
    old = cut_size(axes, {})
    fixed = [prod(s for s in _ints(axes, c)) for c in (cuts, {})]
    assert quotient(new, fixed[0]) == quotient(old, fixed[1])
    with node.graph.inserting_before(node):
        scaled = node.graph.call_function(python.mul, (size, fixed[0]))
        return node.graph.call_function(python.floordiv, (scaled, fixed[1]))


def _ints(axes: Axes, cuts: Cuts) -> list[int]:
    sizes = [cut_size([axis], cuts) for axis in factors(axes)]
    return [size for size in sizes if isinstance(size, int)]


def _resize_slice(trace: Trace, node: fx.Node, given: Mapping[str, Any], cuts: Cuts) -> None:
    axes = trace.of(given["self"])[given["dim"]]
    if not is_cut(axes, cuts):
        return
    kept = stays(axes, cuts)
    start = given["start"] or 0
    first = int(kept[:start].sum())
    if operator(node) == "narrow":
        _set_argument(node, "start", first)
        _set_argument(node, "length", int(kept[start:][: given["length"]].sum()))
    elif given.get("end") is not None and given["end"] < len(kept):
        _set_argument(node, "start", first)
        _set_argument(node, "end", int(kept[: given["end"]].sum()))
    else:
        _set_argument(node, "start", first)


def _set_argument(node: fx.Node, name: str, value: Any) -> None:
    """Set an argument of a call by its name."""
    place = [argument.name for argument in node.target._schema.arguments].index(name)  # type: ignore[union-attr]
    if place < len(node.args):
        args = list(node.args)
        args[place] = value
        node.args = tuple(args)
    else:
        node.kwargs = {**node.kwargs, name: value}
