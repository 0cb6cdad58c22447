"""Axes through operators that put values side by side, pad them, or make them of one number."""

from __future__ import annotations

from typing import Any

from torch import fx

from supernet.elastic.axes.axes import Axes, Axis, dims_of, factors, fix
from supernet.elastic.axes.product_rules import broadcast
from supernet.elastic.axes.tracing import Dims, Trace, arguments, operator

__all__ = ["RULES"]


def _cat(trace: Trace, node: fx.Node) -> Dims:
    given = arguments(node)
    parts = [trace.of(part) for part in given["tensors"]]
    dim = given["dim"] % len(parts[0])
    blank = [[*dims[:dim], [], *dims[dim + 1 :]] for dims in parts]
    found = broadcast(blank)
    joined: Axes = []
    for dims in parts:
        if len(dims[dim]) == 1:
            joined.append(
                factors(dims[dim])[0] if len(factors(dims[dim])) == 1 else _one(dims[dim])
            )
        else:
            joined.append(_one(dims[dim]))
    sizes = [axis.size for axis in joined]
    whole = Axis(sum(sizes[1:], start=sizes[0]))
    if all(isinstance(size, int) for size in sizes):
        whole.concat = joined
    else:
        fix(joined, "cat puts others beside it")
        fix([whole], "cat made it")
    found[dim] = [whole]
    return found


def _one(axes: Axes) -> Axis:
    """One axis for a dim that has several, or none."""
    size: Any = 1
    for axis in factors(axes):
        size = size * axis.size
    if not axes:
        return Axis(size, ["it is a single entry"])
    one = Axis(size)
    one.product = factors(axes)
    return one


def _stack(trace: Trace, node: fx.Node) -> Dims:
    given = arguments(node)
    found = broadcast([trace.of(part) for part in given["tensors"]])
    count = len(given["tensors"])
    new: Axes = [Axis(count, ["stack puts values beside each other"])] if count > 1 else []
    found.insert(given["dim"] if given["dim"] >= 0 else given["dim"] + len(found) + 1, new)
    return found


def _filled(trace: Trace, node: fx.Node) -> Dims:
    """A tensor of one number: cut as its users are."""
    return dims_of(node.meta["val"].shape)


def _filled_like(trace: Trace, node: fx.Node) -> Dims:
    return trace.of(node.all_input_nodes[0])


def _counted(trace: Trace, node: fx.Node) -> Dims:
    return dims_of(node.meta["val"].shape, [f"{operator(node)} counts along it"])


def _padded(trace: Trace, node: fx.Node) -> Dims:
    given = arguments(node)
    dims = list(trace.of(given["self"]))
    pads = list(given["pad"])
    for back in range(len(pads) // 2):
        at = len(dims) - 1 - back
        if pads[2 * back : 2 * back + 2] != [0, 0]:
            fix(dims[at], "it is padded")
            dims[at] = dims_of([node.meta["val"].shape[at]], ["it is padded"])[0]
    return dims


RULES = {
    "cat": _cat,
    "concat": _cat,
    "stack": _stack,
    **dict.fromkeys(("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full",
                     "new_empty", "scalar_tensor"), _filled),
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "empty_like"), _filled_like),
    **dict.fromkeys(("arange", "linspace", "eye", "tril_indices", "triu_indices"), _counted),
    **dict.fromkeys(("pad", "constant_pad_nd"), _padded),
}  # fmt: skip
