"""Demands of an operator on an integer operand, lest it raise: places in a table, divisors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.fx import Node

from supernet.domain.engine import words
from supernet.domain.graph import arguments, dtype_of, inner_operators, name_of
from supernet.domain.sizes import Sizes

__all__ = ["Requirement", "hidden", "requirements"]


@dataclass(frozen=True, slots=True, eq=False)
class Requirement:
    """``operand`` of ``node`` must lie between ``least`` and ``most``.

    ``size``: of the dimension that it points into, as the program has it; None for a divisor.
    """

    node: Node
    operand: Node
    least: float
    most: float
    size: Any = None

    @property
    def wraps(self) -> bool:
        """Whether the operator itself counts negative places from the end."""
        return self.size is not None and self.least < 0

    def __str__(self) -> str:
        what = "the divisor" if self.size is None else "an index"
        return f"{what} of {name_of(self.node)}"


_Found: TypeAlias = Iterator[tuple[Any, Any, bool]]
"""Operand, size of the dimension, whether negative places count from the end."""


def _into_dim(index: str, *, wraps: bool = False) -> Callable[[dict[str, Any]], _Found]:
    def find(given: dict[str, Any]) -> _Found:
        shape = given["self"].meta["val"].shape
        if shape:
            yield given[index], shape[given["dim"]], wraps

    return find


def _into_weight(given: dict[str, Any]) -> _Found:
    yield given["indices"], given["weight"].meta["val"].shape[0], False


def _into_dims(given: dict[str, Any]) -> _Found:
    shape = given["self"].meta["val"].shape
    at = 0
    for index in given["indices"]:
        is_mask = dtype_of(index) in ("bool", "uint8")
        if isinstance(index, Node) and not is_mask:
            yield index, shape[at], True
        # A mask stands for as many dimensions as it has.
        at += index.meta["val"].ndim if isinstance(index, Node) and is_mask else 1


def _into_all(given: dict[str, Any]) -> _Found:
    yield given["index"], given["self"].meta["val"].numel(), True


def _into_classes(given: dict[str, Any]) -> _Found:
    yield given["self"], given["num_classes"], False


def _into_targets(given: dict[str, Any]) -> _Found:
    yield given["target"], given["self"].meta["val"].shape[-1], False


_TABLES: dict[str, Callable[[dict[str, Any]], _Found]] = {
    **dict.fromkeys(("embedding", "embedding_bag", "_embedding_bag"), _into_weight),
    **dict.fromkeys(
        ("index", "_unsafe_index", "index_put", "_index_put_impl", "_unsafe_index_put"), _into_dims
    ),
    **dict.fromkeys(("take", "put"), _into_all),
    **dict.fromkeys(
        words(
            """index_select gather scatter scatter_add scatter_reduce index_add index_copy
            index_fill index_reduce"""
        ),
        _into_dim("index"),
    ),
    "take_along_dim": _into_dim("indices"),
    "one_hot": _into_classes,
    **dict.fromkeys(("nll_loss", "nll_loss_nd", "cross_entropy_loss", "nll_loss2d"), _into_targets),
}
_DIVISIONS = frozenset(("floor_divide", "remainder", "fmod", "div", "__floordiv__", "divide"))
_UNREADABLE = frozenset(("max_unpool2d", "max_unpool3d", "embedding_renorm"))
"""Operators that index, in ways that nothing here follows."""


def requirements(nodes: Any, sizes: Sizes) -> Iterator[Requirement]:
    """Those of every operator, whether or not they are met."""
    for node in nodes:
        name = name_of(node).removesuffix("_")
        if node.op != "call_function":
            continue
        given = arguments(node)
        if name in _TABLES:
            for operand, size, wraps in _TABLES[name](given):
                if isinstance(operand, Node):
                    count = sizes.bound(size).least
                    yield Requirement(node, operand, -count if wraps else 0, count - 1, size)
        elif name in _DIVISIONS and isinstance(given.get("other"), Node) and _is_whole(node):
            yield Requirement(node, given["other"], 1, float("inf"))


def _is_whole(node: Node) -> bool:
    return "float" not in (dtype_of(node) or "float")


def hidden(program: Any) -> str | None:
    """An index that cannot be looked at, in words; None where there is none."""
    for node in inner_operators(program):
        if name_of(node).removesuffix("_") in {*_TABLES, *_UNREADABLE}:
            return f"an index of {name_of(node)} in a graph within the graph"
    for node in program.graph.nodes:
        name = name_of(node)
        if name.removesuffix("_") in _UNREADABLE:
            return f"an index of {name}"
        if name in ("slice", "select", "narrow") and _by_value(node):
            return f"an index of {name}"
        if node.op == "call_function" and _is_custom(node.target):
            return f"what {node.target} does with its input"
    return None


def _by_value(node: Node) -> bool:
    """Whether a place is a number that the program reads from a tensor."""
    for value in node.args[1:]:
        size = value.meta.get("val") if isinstance(value, Node) else value
        if isinstance(size, torch.SymInt):
            shapes = size.node.shape_env
            if any(shapes.is_unbacked_symint(symbol) for symbol in size.node.expr.free_symbols):
                return True
    return False


def _is_custom(target: Any) -> bool:
    """Whether an operator is neither torch's own nor Python arithmetic."""
    return isinstance(target, torch._ops.OpOverload) and target.namespace not in (
        "aten", "prim", "prims", "higher_order",
    )  # fmt: skip
