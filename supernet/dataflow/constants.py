"""Tensors of one number, counts, and triangles: what code makes without looking at any input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from supernet.dataflow.interpreter import Call, Rule, top
from supernet.dataflow.intervals import TRUE, UNBOUNDED, ZERO, Interval
from supernet.dataflow.sizes import Size
from supernet.dataflow.values import Span, Value, follows, places
from supernet.dataflow.views import as_dim

__all__ = ["RULES"]

_BOTH: tuple[Literal["rows", "length"], ...] = ("rows", "length")


def _filled(interval: Callable[[Call], Interval]) -> Rule:
    """A tensor of one number."""

    def rule(call: Call) -> Any:
        sizes = call.sizes()
        if any(len(size.others) > 1 for size in sizes):
            return top(call, "is of a size of several factors", sure=False)
        dims = tuple(as_dim(size) for size in sizes)
        number = interval(call)
        value = call.get("fill_value", call.get("value", call.get("s")))
        coupled, moved = (None, None)
        if isinstance(value, Size):
            coupled, moved = call.scalar_troubles()
        elif isinstance(value, Value):  # ``fill`` with a tensor
            return top(call, "is filled with a tensor", sure=False)
        spans = (Span(number, number),) * len(places(dims, "length"))
        if any(follows(dim, which) and which not in dim for dim in dims for which in _BOTH):
            return top(call, "is of a size that follows rows or length", sure=False)
        return Value(dims, "same", number, number, spans, coupled=coupled, moved=moved)

    return rule


def _fill_value(call: Call) -> Interval:
    value = call.get("fill_value", call.get("value", call.get("s")))
    if isinstance(value, Size):
        return Interval(0.0, float(2**62))
    return Interval.at(float(value))


def _arange(call: Call) -> Any:
    start, step = call.get("start", 0) or 0, call.get("step", 1)
    (size,) = call.sizes()
    dim = as_dim(size)
    fixed = isinstance(start, int) and step in (1, None)
    if fixed and dim in (("rows",), ("length",)):
        count = Interval(float(start), float(2**62))
        if dim == ("rows",):
            shifted = call.trouble("counts the rows of the batch") if start else None
            return Value((dim,), "index", count, count, coupled=shifted)
        first = Interval.at(float(start))
        return Value((dim,), "same", count, count, (Span(count, first),), offset=float(start))
    end = call["end"]
    if isinstance(start, Size) or isinstance(end, Size) or size.others:
        return top(call, "counts from or to a size", sure=True)
    ends = sorted((float(start), float(end)))
    number = Interval(ends[0], ends[1])
    return Value((dim,), "same", number, number)


def _triangle(call: Call) -> Any:
    """``tril`` and ``triu`` of a square of positions."""
    value: Value = call["self"].plain()
    cut = call.get("diagonal") or 0
    if not isinstance(cut, int):
        return top(call, "cuts a triangle where a size says", sure=False)
    if value.dims[-2:] != (("length",), ("length",)):
        symbolic = any(not isinstance(f, int) for dim in value.dims[-2:] for f in dim)
        if symbolic:
            return top(call, "cuts a triangle through rows or lengths", sure=False)
        some = value.valid.hull(ZERO)
        return replace(value, valid=some, range=value.range.hull(ZERO))
    rows, columns = value.spans[-2:]
    low = call.name.startswith("tril")
    # A padded column lies right of every valid row's diagonal, column 0 left of it or on it.
    beyond = (ZERO if cut <= 0 else columns.pad.hull(ZERO)) if low else columns.pad
    if not low and cut > 1:
        beyond = columns.pad.hull(ZERO)
    first = columns.first if (low and cut >= 0) else columns.first.hull(ZERO)
    if not low and cut >= 1:
        first = ZERO
    made = (
        *value.spans[:-2],
        rows.map(lambda interval: interval.hull(ZERO)),
        Span(beyond, first),
    )
    some = value.valid.hull(ZERO)
    return replace(value, valid=some, range=value.range.hull(ZERO), spans=made)


def _numeric(fill: Interval) -> Callable[[Call], Interval]:
    return lambda call: fill


_ONE, _NOTHING = _filled(_numeric(TRUE)), _filled(_numeric(ZERO))
_FULL, _EMPTY = _filled(_fill_value), _filled(_numeric(UNBOUNDED))

RULES: dict[str, Rule] = {
    "full": _FULL, "full_like": _FULL, "new_full": _FULL, "scalar_tensor": _FULL, "fill": _FULL,
    "zeros": _NOTHING, "zeros_like": _NOTHING, "new_zeros": _NOTHING, "ones": _ONE,
    "ones_like": _ONE, "new_ones": _ONE, "empty": _EMPTY, "empty_like": _EMPTY,
    "new_empty": _EMPTY, "arange": _arange, "tril": _triangle, "triu": _triangle,
}  # fmt: skip
