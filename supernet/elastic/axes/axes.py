"""Axes: which dims of which tensors index the same thing, and so must be cut together.

Every dim of a tensor is a list of axes, outermost first: a linear layer gives one axis of 32
channels; seen as 4 heads of 8 it is two; flattened, one dim that holds both. An axis may also be
several side by side, as queries, keys and values are in the rows of one weight.
``supernet.elastic.axes.unification`` makes axes one where an operator lines them up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import SymInt

__all__ = [
    "Axes",
    "Axis",
    "Size",
    "dims_of",
    "factors",
    "fix",
    "leaves",
    "note",
    "quotient",
    "size_of",
    "units",
]

Size: TypeAlias = Any
"""An int, or a sympy expression of the sizes that the program leaves free."""


class Axis:
    """What one dim, or a factor of it, indexes.

    `fixed`: why nothing may be left out along it; empty where it may. `uses`: what the program
    does with it, as (role, name of the node) in program order. `product` and `concat` are what
    it turned out to be made of: nested (outermost first), or side by side.
    """

    __slots__ = ("_same", "concat", "fixed", "product", "size", "uses")

    def __init__(self, size: Size, fixed: Iterable[str] = ()) -> None:
        self.size = size
        self.fixed = dict.fromkeys(fixed)
        self.uses: dict[tuple[str, str], None] = {}
        self.product: list[Axis] = []
        self.concat: list[Axis] = []
        self._same: Axis | None = None

    def root(self) -> Axis:
        """The axis that stands for all that were found to be one."""
        axis = self
        while axis._same is not None:
            axis = axis._same
        return axis

    def child(self, size: Size) -> Axis:
        """A part of it, of which all that is known of the whole holds."""
        part = Axis(size, self.fixed)
        part.uses.update(self.uses)
        return part

    def become(self, other: Axis) -> None:
        """From now on they are one; ``other`` may be made of parts, ``self`` is not."""
        self._same = other
        for part in (other, *leaves([other])):
            part.fixed.update(self.fixed)
            part.uses.update(self.uses)

    def __repr__(self) -> str:
        top = self.root()
        inside = top.product or top.concat
        return f"{id(top) % 9973}:{top.size}" + (f"{inside}" if inside else "")


Axes: TypeAlias = list[Axis]


def size_of(value: int | SymInt) -> Size:
    """A traced size as an int or a sympy expression."""
    if isinstance(value, int):
        return value
    expression = value.node.expr
    return int(expression) if expression.is_Integer else expression


def dims_of(sizes: Iterable[int | SymInt], fixed: Iterable[str] = ()) -> list[Axes]:
    """A new axis for every dim; none for dims of size 1, which line up with anything."""
    reasons = tuple(fixed)
    return [[] if size_of(s) == 1 else [Axis(size_of(s), reasons)] for s in sizes]


def quotient(whole: Size, part: Size) -> Size | None:
    """``whole / part`` where that is a whole number for whatever sizes; None otherwise."""
    if isinstance(whole, int) and isinstance(part, int):
        return whole // part if part and whole % part == 0 else None
    import sympy

    ratio = sympy.cancel(sympy.sympify(whole) / part)
    if sympy.fraction(ratio)[1] != 1:
        return None
    return int(ratio) if ratio.is_Integer else ratio


def factors(axes: Sequence[Axis]) -> Axes:
    """The same dim with every nested axis taken apart."""
    found: Axes = []
    for axis in axes:
        top = axis.root()
        found.extend(factors(top.product) if top.product else [top])
    return found


def leaves(axes: Sequence[Axis]) -> Axes:
    """The axes that a dim is made of in the end, nested or side by side."""
    found: Axes = []
    for axis in factors(axes):
        found.extend(leaves(axis.concat) if axis.concat else [axis])
    return found


def fix(axes: Sequence[Axis], why: str) -> None:
    """Nothing may be left out along any of these."""
    for axis in (*factors(axes), *leaves(axes)):
        axis.fixed.setdefault(why)


def note(axes: Sequence[Axis], role: str, node: str) -> None:
    """Record on every part of a dim what the node does with it."""
    for axis in (*factors(axes), *leaves(axes)):
        axis.uses.setdefault((role, node))


def units(axes: Sequence[Axis], axis: Axis) -> npt.NDArray[np.int64]:
    """Which unit of ``axis`` every entry of a dim belongs to, -1 for none. All sizes are ints."""
    place = np.full(1, -1, dtype=np.int64)
    for factor in factors(axes):
        own = _own_units(factor, axis)
        place = np.maximum(place[:, None], own[None, :]).reshape(-1)
    return place


def _own_units(factor: Axis, axis: Axis) -> npt.NDArray[np.int64]:
    if factor is axis.root():
        return np.arange(factor.size, dtype=np.int64)
    if factor.concat:
        return np.concatenate([units([part], axis) for part in factor.concat])
    return np.full(factor.size, -1, dtype=np.int64)
