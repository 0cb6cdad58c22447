"""The range of every number in a program, followed from its inputs through its operators.

Integer arithmetic that may leave its dtype wraps, so that its result may be any number of it.
Ranges of floats leave rounding aside; overflow of ordinary float arithmetic is not followed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.fx import Node

from supernet.domain.graph import arguments, dtype_of, name_of
from supernet.domain.interval import ANY, BIT, ValueRange, of_dtype
from supernet.domain.rules import RULES
from supernet.domain.sizes import Sizes
from supernet.guards import is_finite

__all__ = ["Values"]

Found: TypeAlias = ValueRange | tuple[ValueRange, ...]
_FEW = 1 << 16  # numbers of a floating constant that are worth looking at


class Values:
    """Ranges by node. ``leaves``: those of the user's inputs, by placeholder name.

    ``held`` are the program's parameters, buffers and constants by placeholder name.
    """

    def __init__(
        self, nodes: Any, leaves: Mapping[str, ValueRange], held: Mapping[str, Tensor], sizes: Sizes
    ) -> None:
        self.sizes = sizes
        self._leaves, self._held = leaves, held
        self._known: dict[Node, Found] = {}
        self.wraps: set[Node] = set()
        """Operators whose integers may leave their dtype."""
        for node in nodes:
            self._known[node] = self._of(node)

    def __getitem__(self, value: Any) -> ValueRange:
        """The range of an operator's argument: a node, a number, or None."""
        if isinstance(value, Node):
            found = self._known.get(value, ANY)
            return found if isinstance(found, ValueRange) else hull(found)
        if isinstance(value, (bool, int, float)):
            return ValueRange(value, value) if value == value else ANY
        if isinstance(value, torch.SymInt):
            return self.sizes.bound(value)
        return ANY

    def holds_infinity(self, node: Node) -> bool:
        """Whether a weight or a constant holds an infinity or a NaN."""
        held = self._held.get(node.name)
        return held is not None and held.is_floating_point() and not is_finite(held)

    def parts(self, node: Any) -> tuple[ValueRange, ...]:
        """The ranges of an operator's several results."""
        found = self._known.get(node, ANY)
        return found if isinstance(found, tuple) else (found,)

    def refined(self, node: Any, condition: Any, *, holds: bool) -> ValueRange:
        """The range of ``node`` where ``condition`` holds, or where it doesn't."""
        found = self[node]
        if not isinstance(condition, Node):
            return found
        name, given = name_of(condition), list(arguments(condition).values())
        if name in ("logical_not", "bitwise_not"):
            return self.refined(node, given[0], holds=not holds)
        both = name in ("logical_and", "bitwise_and", "__and__")
        if (both and holds) or (name in ("logical_or", "bitwise_or", "__or__") and not holds):
            for part in given[:2]:
                one = self.refined(node, part, holds=holds)
                found = found.meet(one.least, one.most)
            return found
        if name not in _COMPARED or len(given) < 2:
            return found
        mine, other = given[0], given[1]
        if mine is not node and other is node:
            name, mine, other = _MIRRORED[name], other, mine
        if mine is not node:
            return found
        step = 1 if _whole(dtype_of(node)) else 0
        least, most = _COMPARED[name if holds else _OPPOSITE[name]](self[other], step)
        return found.meet(least, most)

    def _of(self, node: Node) -> Found:
        value = node.meta.get("val")
        if node.op == "placeholder":
            return self._of_input(node, value)
        if isinstance(value, torch.SymInt):
            return self.sizes.bound(value)
        if node.op != "call_function":
            return ANY
        rule: Callable[[Values, Node, dict[str, Any]], Found] | None = RULES.get(name_of(node))
        found = ANY if rule is None else rule(self, node, arguments(node))
        if isinstance(value, Tensor):
            return self._kept(node, found if isinstance(found, ValueRange) else hull(found), value)
        if isinstance(value, (tuple, list)) and isinstance(found, tuple):
            return tuple(
                self._kept(node, one, part) for one, part in zip(found, value, strict=False)
            )
        if isinstance(value, (tuple, list)):
            return tuple(self._kept(node, found, part) for part in value)  # type: ignore[arg-type]
        return found

    def _kept(self, node: Node, found: ValueRange, value: Any) -> ValueRange:
        """What arithmetic gave as the dtype holds it."""
        if not isinstance(value, Tensor):
            return found
        if value.dtype is torch.bool:
            return found.meet(0, 1) if found.inside(0, 1) else BIT
        whole = of_dtype(str(value.dtype).removeprefix("torch."))
        if found.inside(*whole.ends):
            return found
        if found is not ANY:
            self.wraps.add(node)
        return whole

    def _of_input(self, node: Node, value: Any) -> ValueRange:
        if node.name in self._leaves:
            return self._leaves[node.name]
        held = self._held.get(node.name)
        if held is None or not held.numel() or held.is_complex():
            return ANY
        if held.is_floating_point() and held.numel() > _FEW:
            return ANY
        low, high = (end.item() for end in held.detach().aminmax())
        return ValueRange(low, high) if low == low else ANY


def hull(found: tuple[ValueRange, ...]) -> ValueRange:
    """The range of all of them together."""
    whole = found[0] if found else ANY
    for one in found[1:]:
        whole = whole.hull(one)
    return whole


def _whole(dtype: str | None) -> bool:
    return dtype is not None and "float" not in dtype


_COMPARED: dict[str, Callable[[ValueRange, int], tuple[float, float]]] = {
    "lt": lambda other, step: (ANY.least, other.most - step),
    "le": lambda other, step: (ANY.least, other.most),
    "gt": lambda other, step: (other.least + step, ANY.most),
    "ge": lambda other, step: (other.least, ANY.most),
    "eq": lambda other, step: other.ends,
    "ne": lambda other, step: ANY.ends,
}
_MIRRORED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le", "eq": "eq", "ne": "ne"}
_OPPOSITE = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}
