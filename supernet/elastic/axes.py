"""Axes: which dims of which tensors index the same thing, and so must be cut together.

Every dim of a tensor is a list of axes, outermost first: a linear layer gives one axis of 32
channels; seen as 4 heads of 8 it is two; flattened, one dim that holds both. Where an operator
lines two dims up (a sum, a product), their axes become one. An axis may also be several side by
side, as queries, keys and values are in the rows of one weight.

Einops has the notation (https://einops.rocks), unification the method (Robinson 1965).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
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
    "regroup",
    "section",
    "size_of",
    "unify",
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


def unify(left: Sequence[Axis], right: Sequence[Axis]) -> None:
    """Both dims index the same: their axes become one, taken apart where one is finer."""
    a, b = factors(left), factors(right)
    while a and b:
        x, y = a[0], b[0]
        if x is y or x.size == y.size:
            _merge(x, y)
            a, b = factors(a[1:]), factors(b[1:])
        elif (rest := quotient(x.size, y.size)) is not None:
            _split(x, y.size, rest)
            a, b = factors(a), factors(b)
        elif (rest := quotient(y.size, x.size)) is not None:
            _split(y, x.size, rest)
            a, b = factors(a), factors(b)
        else:
            break
    fix([*a, *b], "its sizes do not line up")


def _merge(x: Axis, y: Axis) -> None:
    if x is y:
        return
    if not x.concat:
        x.become(y)
    elif not y.concat:
        y.become(x)
    else:
        _align(x, y)
        x._same = y


def _align(x: Axis, y: Axis) -> None:
    """Two axes made of parts side by side, cut at the same places."""
    a, b = _parts(x), _parts(y)
    while a and b:
        p, q = a[0], b[0]
        if p.size == q.size:
            unify([p], [q])
        elif _cut(*((p, q.size) if p.size > q.size else (q, p.size))):
            a, b = [part for p in a for part in _parts(p)], [part for q in b for part in _parts(q)]
            continue
        else:
            fix([*a, *b], "its parts do not line up")
            return
        a, b = a[1:], b[1:]


def _parts(axis: Axis) -> Axes:
    top = axis.root()
    return [inner for part in top.concat for inner in _parts(part)] or [top]


def _cut(axis: Axis, at: int) -> bool:
    """Make two parts side by side of an axis that has none yet; False where it can't be."""
    if axis.product or axis.concat or not isinstance(axis.size, int):
        return False
    axis.concat = [axis.child(at), axis.child(axis.size - at)]
    return True


def _split(axis: Axis, outer: Size, inner: Size) -> None:
    """Make two nested axes of one."""
    parts = _parts(axis) if axis.concat else []
    if not parts:
        axis.product = [axis.child(outer), axis.child(inner)]
    elif len(parts) == outer and all(part.size == inner for part in parts):
        for part in parts[1:]:
            unify([parts[0]], [part])
        axis.product, axis.concat = [Axis(outer, ["equal parts lie side by side in it"])], []
        axis.product.append(parts[0])
    else:
        fix([axis], "it is seen in two ways that do not fit")
        axis.product, axis.concat = [axis.child(outer), axis.child(inner)], []


def regroup(axes: Sequence[Axis], sizes: Sequence[Size]) -> list[Axes] | None:
    """The same axes as dims of these sizes, in the same order; None where they don't fit."""
    rest = factors(axes)
    found: list[Axes] = []
    for size in sizes:
        dim: Axes = []
        while size != 1:
            rest = factors(rest)
            if not rest:
                return None
            first = rest[0]
            if (left := quotient(size, first.size)) is not None:
                dim.append(first)
                rest, size = rest[1:], left
            elif (inner := quotient(first.size, size)) is not None:
                _split(first, size, inner)
            else:
                return None
        found.append(dim)
    return None if rest else found


def section(axes: Sequence[Axis], start: int, stop: int, where: str) -> Axes:
    """The axes of the entries from ``start`` to ``stop`` of a dim."""
    flat = factors(axes)
    size = prod(axis.size for axis in flat)
    if start == 0 and stop == size:
        return flat
    if not all(axis.fixed for axis in flat):
        inner = prod(axis.size for axis in flat[1:])
        if len(flat) > 1 and stop - start == inner and start % inner == 0:
            fix(flat[:1], f"{where} takes one of it")
            return flat[1:]
        if len(flat) == 1 and _cut_out(flat[0], start, stop):
            return _between(flat[0], start, stop)
    why = f"{where} takes a part of it"
    fix(flat, why)
    return [] if stop - start == 1 else [Axis(stop - start, [why])]


def _cut_out(axis: Axis, start: int, stop: int) -> bool:
    for at in (start, stop):
        offset = 0
        for part in _parts(axis):
            if offset < at < offset + part.size and not _cut(part, at - offset):
                return False
            offset += part.size
    return True


def _between(axis: Axis, start: int, stop: int) -> Axes:
    found, offset = [], 0
    for part in _parts(axis):
        if start <= offset < stop:
            found.append(part)
        offset += part.size
    if len(found) == 1:
        return found
    whole = Axis(stop - start)
    whole.concat = found
    return [whole]


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
