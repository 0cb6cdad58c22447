"""What is left of a graph where a product has nothing to sum over, and the clearing up after."""

from __future__ import annotations

import operator as python
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from supernet.elastic.axes.axes import Size
from supernet.elastic.axes.tracing import arguments, operator

__all__ = ["put_bias", "simplify"]

aten = torch.ops.aten

_ZEROS = "elastic_zeros"  # of a node's meta: all its entries are zero
_MOVES = frozenset(
    {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "transpose", "permute", "squeeze",
     "unsqueeze", "expand", "contiguous", "clone", "to", "_to_copy", "dropout", "detach", "alias",
     "slice", "select", "neg"}
)  # fmt: skip


def put_bias(graph: fx.Graph, product: fx.Node, sizes: Sequence[Size]) -> None:
    """Put a product's bias, or zeros, in its place: what it gives where it sums over nothing.

    `sizes`: of its dims in this graph.
    """
    given = arguments(product)
    bias = given.get("bias") if "bias" in given else given.get("self")
    if operator(product) in ("matmul", "mm", "bmm", "einsum"):
        bias = None
    value = product.meta["val"]
    with graph.inserting_before(product):
        if isinstance(bias, fx.Node):
            if operator(product).startswith("conv"):
                places = value.dim() - given["weight"].meta["val"].dim() + 1
                shape = [-1] + [1] * (value.dim() - 1 - places)
                bias = graph.call_function(aten.reshape.default, (bias, shape))
                bias.meta["val"] = product.args[2].meta["val"].reshape(shape)  # type: ignore[union-attr]
        else:
            kind = {"dtype": value.dtype, "device": value.device}
            bias = graph.call_function(aten.zeros.default, ([1] * value.dim(),), kind)
        given_sizes = [_computed(graph, product, size) for size in sizes]
        put = graph.call_function(aten.expand.default, (bias, given_sizes))
    put.meta = dict(product.meta)
    put.meta[_ZEROS] = bias.target is aten.zeros.default
    product.replace_all_uses_with(put)


def _computed(graph: fx.Graph, product: fx.Node, expression: Size) -> Any:
    """A node, or an int, that gives a size and depends on no more than the inputs' sizes."""
    if isinstance(expression, int) or expression.is_Integer:
        return int(expression)
    for node in graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        for dim, size in enumerate(value.shape if isinstance(value, Tensor) else ()):
            if not isinstance(size, int) and size.node.expr == expression:
                return graph.call_function(aten.sym_size.int, (node, dim))
    join = _ARITHMETIC.get(type(expression).__name__)
    if join is None:
        raise ValueError(f"the size {expression} of {product.name} cannot be computed")
    parts = [_computed(graph, product, part) for part in expression.args]
    whole = parts[0]
    for part in parts[1:]:
        whole = graph.call_function(join, (whole, part))
    return whole


# Of sizes, as torch's traces write them.
_ARITHMETIC = {
    "Add": python.add, "Mul": python.mul, "FloorDiv": python.floordiv, "CleanDiv": python.floordiv,
    "Mod": python.mod, "PythonMod": python.mod, "Pow": python.pow,
}  # fmt: skip


def simplify(graph: fx.Graph) -> None:
    """Leave out sums with zeros, checks that the trace has made, and what nobody uses.

    Views become reshapes: what takes an attention's place may lie otherwise in memory.
    """
    for node in list(graph.nodes):
        if operator(node) == "_assert_tensor_metadata":
            graph.erase_node(node)
            continue
        if _is_inert(node):
            node.replace_all_uses_with(node.all_input_nodes[0])
            continue
        if node.target is aten.view.default:
            node.target = aten.reshape.default
        if node.op != "call_function":
            continue
        taken = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]
        zeros = [n for n in taken if n.meta.get(_ZEROS)]
        if not zeros:
            continue
        name = operator(node)
        if (name in _MOVES and zeros[0] is node.args[0]) or name in ("mul", "div"):
            node.meta[_ZEROS] = name != "div" or zeros[0] is node.args[0]
        elif name == "add" and len(taken) == 2:
            other = taken[0] if taken[1] is zeros[0] else taken[1]
            same = other.meta["val"].shape == node.meta["val"].shape
            plain = arguments(node).get("alpha", 1) == 1 or other is node.args[0]
            if same and plain and other.meta["val"].dtype == node.meta["val"].dtype:
                node.replace_all_uses_with(other)
    graph.eliminate_dead_code(is_impure_node=_is_needed)


def _is_inert(node: fx.Node) -> bool:
    """A dropout that does nothing, or a copy that nobody could tell from what it copies."""
    if operator(node) == "dropout":
        return arguments(node)["train"] is False
    returned = any(user.op == "output" for user in node.users)
    return operator(node) == "clone" and not node.kwargs and not returned


def _is_needed(node: fx.Node) -> bool:
    """Whether a node counts though nobody uses its result. What is random has been excluded: torch
    takes a dropout that does nothing for random."""
    if node.op in ("placeholder", "output"):
        return True
    schema = getattr(node.target, "_schema", None)
    return schema is not None and (bool(schema.is_mutable) or not schema.returns)
