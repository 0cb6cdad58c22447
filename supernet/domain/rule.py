"""A rule for the ranges of one operator: what it is, and what it may ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from torch.fx import Node

from supernet.domain.interval import ValueRange
from supernet.domain.sizes import Sizes

__all__ = ["Arguments", "Ranges", "Rule"]

Arguments: TypeAlias = dict[str, Any]


class Ranges(Protocol):
    """The ranges known so far (`supernet.domain.values.Values`)."""

    sizes: Sizes

    def __getitem__(self, value: Any) -> ValueRange:
        """The range of an operator's argument: a node, a number, or None."""
        ...

    def parts(self, node: Any) -> tuple[ValueRange, ...]:
        """The ranges of an operator's several results."""
        ...

    def refined(self, node: Any, condition: Any, *, holds: bool) -> ValueRange:
        """The range of ``node`` where ``condition`` holds, or where it doesn't."""
        ...


Rule: TypeAlias = Callable[[Ranges, Node, Arguments], "ValueRange | tuple[ValueRange, ...]"]
