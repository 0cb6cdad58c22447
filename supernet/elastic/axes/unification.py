"""Making axes one: where an operator lines two dims up, sees them otherwise, or takes a part.

Einops has the notation (https://einops.rocks), unification the method (Robinson 1965, "A
Machine-Oriented Logic Based on the Resolution Principle").
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from supernet.elastic.axes.axes import Axes, Axis, Size, factors, fix, quotient

__all__ = ["regroup", "section", "unify"]


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
