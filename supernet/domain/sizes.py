"""Bounds of sizes that are free in a program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from supernet.domain.interval import ANY, ValueRange
from supernet.signature import Signature

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from profiler.shapes import ShapeGrid

__all__ = ["Sizes"]


class Sizes:
    """What the free sizes of ``program`` can be in the batches of ``grid``."""

    def __init__(self, program: ExportedProgram, signature: Signature, grid: ShapeGrid) -> None:
        free = {
            "rows": ValueRange(1, grid.max_rows),
            "length": ValueRange(signature.min_length, grid.lengths[-1]),
        }
        self._free: dict[Any, ValueRange] = {}
        self._same: dict[Any, Any] = {}
        first: dict[str, Any] = {}
        self._known: dict[Any, ValueRange] = {}
        users = program.graph_signature.user_inputs
        held = {node.name: node.meta.get("val") for node in program.graph.nodes}
        for name, spec in zip(users, signature.inputs, strict=True):
            for size, dim in zip(held[name].shape, spec.dims, strict=True):
                if isinstance(size, torch.SymInt) and isinstance(dim, str):
                    self._free[size.node.expr] = free[dim]
                    # The trace may name one size twice: a request has one length.
                    self._same[size.node.expr] = first.setdefault(dim, size.node.expr)

    def expression(self, size: Any) -> Any:
        """A size in terms of the free sizes, each under one name."""
        return size.node.expr.subs(self._same) if isinstance(size, torch.SymInt) else int(size)

    def bound(self, size: Any) -> ValueRange:
        """The range of a size: a number, or one that depends on the free sizes."""
        if not isinstance(size, torch.SymInt):
            return ValueRange(int(size), int(size))
        expression = size.node.expr
        if expression not in self._known:
            self._known[expression] = self._of(expression)
        return self._known[expression]

    def _of(self, expression: Any) -> ValueRange:
        from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

        if not expression.free_symbols <= set(self._free):
            return ANY  # it depends on values
        ranges = {
            symbol: ValueRanges(int(self._free[symbol].least), int(self._free[symbol].most))
            for symbol in expression.free_symbols
        }
        found = bound_sympy(expression, ranges)
        if not (found.lower.is_Integer and found.upper.is_Integer):
            return ANY
        return ValueRange(int(found.lower), int(found.upper))
