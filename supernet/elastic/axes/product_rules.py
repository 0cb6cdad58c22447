"""Axes through matrix products, convolutions and attention: what is made, and what summed over."""

from __future__ import annotations

from typing import Any

from torch import fx

from supernet.elastic.axes.axes import Axes, Axis, dims_of, factors, fix, note
from supernet.elastic.axes.tracing import Dims, Trace, arguments, operator
from supernet.elastic.axes.unification import regroup, unify

__all__ = ["RULES"]


def contract(trace: Trace, node: fx.Node, left: Axes, right: Axes, of: tuple[Any, Any]) -> None:
    """``node`` sums over both, which are one axis; ``of`` are the values whose dims they are."""
    unify(left, right)
    if all(value in trace.varying for value in of):
        fix(left, f"{operator(node)} sums over it in two values that follow the input")
    else:
        note(left, "contracted", node.name)


def _linear(trace: Trace, node: fx.Node) -> Dims:
    given = arguments(node)
    x, weight = trace.of(given["input"]), trace.of(given["weight"])
    contract(trace, node, x[-1], weight[1], (given["input"], given["weight"]))
    return [*x[:-1], _made(trace, node, weight[0], given["bias"])]


def _made(trace: Trace, node: fx.Node, axes: Axes, bias: Any) -> Axes:
    note(axes, "made", node.name)
    if isinstance(bias, fx.Node):
        for own in trace.of(bias)[-1:]:
            if own:
                unify(own, axes)
    return axes


def _matmul(trace: Trace, node: fx.Node) -> Dims:
    given = arguments(node)
    left, right = given.get("self"), given.get("mat2", given.get("other"))
    return product(trace, node, left, right)


def product(trace: Trace, node: fx.Node, left: Any, right: Any) -> Dims:
    """``left @ right``, batches included."""
    a, b = trace.of(left), trace.of(right)
    if len(a) < 2 or len(b) < 2:
        for dim in (*a, *b):
            fix(dim, f"{operator(node)} takes a vector")
        return dims_of(node.meta["val"].shape, ["a product with a vector made it"])
    contract(trace, node, a[-1], b[-2], (left, right))
    both = left in trace.varying and right in trace.varying
    batch = broadcast([a[:-2], b[:-2]])
    if both:
        for dim in batch:
            note(dim, "attended", node.name)
        for dim in (a[-2], b[-1]):
            fix(dim, "attention reads and writes it as a whole")
    for value, dim in ((left, a[-2]), (right, b[-1])):
        if value not in trace.varying:
            note(dim, "made", node.name)
    return [*batch, a[-2], b[-1]]


def _addmm(trace: Trace, node: fx.Node) -> Dims:
    given = arguments(node)
    left = given.get("mat1", given.get("batch1"))
    right = given.get("mat2", given.get("batch2"))
    return broadcast([trace.of(given["self"]), product(trace, node, left, right)])


def broadcast(values: list[Dims]) -> Dims:
    """The dims of values that are taken together elementwise, lined up from the last."""
    found: Dims = [[] for _ in range(max(map(len, values)))]
    for dims in values:
        offset = len(found) - len(dims)
        for index, axes in enumerate(dims):
            if found[offset + index] and axes:
                unify(found[offset + index], axes)
            found[offset + index] = found[offset + index] or axes
    return found


def _attention(trace: Trace, node: fx.Node) -> Dims:
    given = arguments(node)
    query, key, value = (trace.of(given[name]) for name in ("query", "key", "value"))
    for axes in (query[-1], key[-1], value[-1]):
        fix(axes, "it is the size of an attention head")
    unify(query[-1], key[-1])
    unify(key[-2], value[-2])
    fix(key[-2], "attention takes a softmax over it")
    batch = broadcast([key[:-2], value[:-2]])
    if given.get("enable_gqa") and batch[-1] != query[-3]:
        own = factors(query[-3])
        share = _prod(own) // max(1, _prod(factors(batch[-1])))
        batch = [*batch[:-1], [*batch[-1], *([Axis(share)] if share > 1 else [])]]
    batch = broadcast([query[:-2], batch])
    if isinstance(given["attn_mask"], fx.Node):
        broadcast([trace.of(given["attn_mask"]), [*batch, query[-2], key[-2]]])
    for axes in batch:
        note(axes, "attended", node.name)
    return [*batch, query[-2], value[-1]]


def _prod(axes: Axes) -> Any:
    size: Any = 1
    for axis in axes:
        size = size * axis.size
    return size


def _convolution(trace: Trace, node: fx.Node) -> Dims:
    given = arguments(node)
    x, weight = trace.of(given["input"]), trace.of(given["weight"])
    shape = node.meta["val"].shape
    spatial = dims_of(shape[len(shape) - len(weight) + 2 :], ["it is a place in an image"])
    lead, groups = x[: len(x) - len(weight) + 1], int(given.get("groups", 1))
    channels = x[len(lead)]
    if given.get("transposed"):
        for axes in (*x, *weight):
            fix(axes, "a transposed convolution is not understood")
        return [*lead, *dims_of(shape[len(lead) :], ["a transposed convolution made it"])]
    for axes in (*weight[2:], *x[len(lead) + 1 :]):
        fix(axes, "a convolution slides over it")
    if groups == 1:
        contract(trace, node, channels, weight[1], (given["input"], given["weight"]))
        return [*lead, _made(trace, node, weight[0], given["bias"]), *spatial]
    inner = regroup(channels, [groups, _prod(factors(channels)) // groups])
    outer = regroup(weight[0], [groups, _prod(factors(weight[0])) // groups])
    if inner is None or outer is None:
        for axes in (channels, *weight[:2]):
            fix(axes, "the groups of a convolution do not fit it")
        return [*lead, weight[0], *spatial]
    unify(inner[0], outer[0])
    if inner[1] or weight[1]:
        contract(trace, node, inner[1], weight[1], (given["input"], given["weight"]))
    note(inner[0], "grouped", node.name)
    note(outer[1], "made", node.name)
    return [*lead, _carried(trace, node, weight[0], given["bias"]), *spatial]


def _carried(trace: Trace, node: fx.Node, axes: Axes, bias: Any) -> Axes:
    if isinstance(bias, fx.Node):
        unify(trace.of(bias)[0], axes)
    return axes


def _einsum(trace: Trace, node: fx.Node) -> Dims:
    given = arguments(node)
    equation, operands = str(given["equation"]).replace(" ", ""), list(given["tensors"])
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    repeats = any(len(set(term)) != len(term) for term in terms)
    if not arrow or "." in equation or repeats or len(terms) != len(operands):
        for operand in operands:
            for axes in trace.of(operand):
                fix(axes, f"einsum {equation!r} is not understood")
        return dims_of(node.meta["val"].shape, ["an einsum made it"])
    letters: dict[str, list[tuple[Any, Axes]]] = {}
    for term, operand in zip(terms, operands, strict=True):
        for letter, axes in zip(term, trace.of(operand), strict=True):
            letters.setdefault(letter, []).append((operand, axes))
    for letter, found in letters.items():
        _einsum_letter(trace, node, letter in right, found)
    return [next((a for _, a in letters[letter] if a), []) for letter in right]


def _einsum_letter(trace: Trace, node: fx.Node, stays: bool, found: list[tuple[Any, Axes]]) -> None:
    axes = found[0][1]
    for _, other in found[1:]:
        unify(axes, other)
    varying = [operand in trace.varying for operand, _ in found]
    attends = sum(operand in trace.varying for operand in arguments(node)["tensors"]) > 1
    if stays and len(found) == 1 and attends:
        fix(axes, "attention reads and writes it as a whole")
    if stays and len(found) > 1 and all(varying):
        note(axes, "attended", node.name)
    elif stays and not any(varying):
        note(axes, "made", node.name)
    elif not stays and (len(found) == 1 or all(varying)):
        fix(axes, "einsum sums over it in values that follow the input")
    elif not stays:
        note(axes, "contracted", node.name)


RULES = {
    "linear": _linear,
    **dict.fromkeys(("matmul", "mm", "bmm"), _matmul),
    **dict.fromkeys(("addmm", "baddbmm"), _addmm),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _convolution),
    "scaled_dot_product_attention": _attention,
    "einsum": _einsum,
}
