"""Operators that treat every entry by itself, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from supernet.dataflow.interpreter import Call
from supernet.dataflow.intervals import UNBOUNDED, Interval, pointwise
from supernet.dataflow.sizes import Dim, Size
from supernet.dataflow.values import Place, Span, Trouble, Value, places, worst

__all__ = ["aligned", "combine", "entrywise"]

_BITWISE = {
    "bitwise_and": "boolean_and", "__and__": "boolean_and", "bitwise_or": "boolean_or",
    "__or__": "boolean_or", "bitwise_not": "boolean_not", "mul": "boolean_and",
}  # fmt: skip
_KEPT = frozenset({
    "contiguous", "clone", "detach", "alias", "lift_fresh_copy", "positive", "_to_copy", "to",
    "type_as", "float", "dropout", "feature_dropout", "alpha_dropout",
})  # fmt: skip
_SHIFTING = frozenset({"add", "sub"})
_ORDERED = frozenset({"lt", "le", "gt", "ge", "eq", "ne", "sub"})
_ZERO = Interval.at(0.0)


def entrywise(call: Call) -> Value:
    """Every operator with torch's tag ``pointwise``, and those that only copy or convert."""
    name = call.name.rstrip("_") if not call.name.startswith("_") else call.name
    operands = [_operand(value) for value in call.given.values() if _numeric(value)]
    values = [value for value in operands if isinstance(value, Value)]
    if name in _KEPT and len(values) >= 1:
        return _kept(call, values[0])
    rule = pointwise(_BITWISE.get(name, name) if call.dtype is torch.bool else name)
    made = combine(call, operands, _within(_scaled(call, rule), call.dtype))
    return _ordered(call, name, operands, made)


def combine(call: Call, operands: Sequence[Any], rule: Callable[..., Interval]) -> Value:
    """Broadcast ``operands`` (values, intervals or None) through ``rule``, entry by entry."""
    values = [operand for operand in operands if isinstance(operand, Value)]
    dims, misfit = aligned([value.dims for value in values])
    coupled, moved = call.scalar_troubles()
    if dims is None:
        trouble = call.trouble(f"combines {misfit} in different places")
        dims = call.dims()
        return _uncertain(dims, values, trouble)
    plain = [value.plain() for value in values]
    if len(places(dims, "rows")) > 1:
        coupled = call.trouble("meets every row with every other")

    def applied(numbers: Sequence[Interval]) -> Interval:
        rest = iter(numbers)
        return rule(*(next(rest) if isinstance(o, Value) else o for o in operands))

    along = [
        [_span(value, len(dims), place) for value in plain] for place in places(dims, "length")
    ]
    spans = tuple(
        Span(applied([span.pad for span in own]), applied([span.first for span in own]))
        for own in along
    )
    return Value(
        dims,
        "same" if all(value.rows == "same" for value in values) else "own",
        applied([value.valid for value in plain]),
        applied([value.range for value in plain]),
        spans,
        coupled=worst([*(v.coupled for v in plain), coupled]),
        moved=worst([*(v.moved for v in plain), moved]),
    )


def aligned(shapes: Sequence[Sequence[Dim]]) -> tuple[tuple[Dim, ...] | None, str]:
    """The broadcast dims; None and what does not fit where factors lie differently."""
    rank = max((len(dims) for dims in shapes), default=0)
    made: list[Dim] = []
    for position in range(rank):
        found: set[Dim] = set()
        for dims in shapes:
            at = position - rank + len(dims)
            if at >= 0 and dims[at]:
                found.add(dims[at])
        if len(found) > 1:
            symbolic = any(not isinstance(factor, int) for dim in found for factor in dim)
            if symbolic:
                return None, "rows or lengths"
        made.append(next(iter(found), ()))
    return tuple(made), ""


def _uncertain(dims: tuple[Dim, ...], values: Sequence[Value], trouble: Trouble) -> Value:
    spans = (Span(UNBOUNDED, UNBOUNDED),) * len(places(dims, "length"))
    coupled = worst([*(v.coupled for v in values), trouble])
    moved = worst([*(v.moved for v in values), trouble])
    return Value(dims, "own", UNBOUNDED, UNBOUNDED, spans, coupled=coupled, moved=moved)


def _span(value: Value, rank: int, place: Place) -> Span:
    """This value's entries along one length factor of the broadcast result."""
    dim = place.dim - rank + len(value.dims)
    if dim < 0 or not value.dims[dim]:
        return Span(value.valid, value.range)
    index = places(value.dims, "length").index(Place(dim, place.factor))
    return value.spans[index]


def _kept(call: Call, value: Value) -> Value:
    """A copy or conversion: the same numbers, rounded or cut where the dtype is another."""
    if call.dtype is torch.bool and not _is_bool(call):
        made = combine(call, [value], pointwise("truth"))
        return made if value.rows != "index" else made.plain()
    floating = call.dtype.is_floating_point or call.dtype.is_complex
    if floating or call.dtype is _source_dtype(call):
        return value
    if _was_integer(call) and value.range == _within(pointwise("clone"), call.dtype)(value.range):
        return value
    return combine(call, [value], _within(pointwise("trunc"), call.dtype))


def _source_dtype(call: Call) -> torch.dtype | None:
    source = call.node.args[0] if call.node.args else None
    made = getattr(source, "meta", {}).get("val")
    return made.dtype if isinstance(made, torch.Tensor) else None


def _is_bool(call: Call) -> bool:
    return _source_dtype(call) is torch.bool


def _was_integer(call: Call) -> bool:
    dtype = _source_dtype(call)
    return dtype is not None and not dtype.is_floating_point and not dtype.is_complex


def _numeric(value: Any) -> bool:
    return value is None or isinstance(value, (Value, Size, bool, int, float))


def _operand(value: Any) -> Any:
    if value is None or isinstance(value, Value):
        return value
    if isinstance(value, Size):
        return Interval(0.0, float(2**62)) if value.others else Interval.at(float(value.number))
    return Interval.at(float(value))


def _scaled(call: Call, rule: Callable[..., Interval]) -> Callable[..., Interval]:
    """``add`` and ``sub`` with their third argument, ``div`` with its rounding."""
    alpha = call.get("alpha")
    if alpha is not None:
        factor = _operand(alpha)
        times = pointwise("mul")

        def scaled(a: Interval, b: Interval, *rest: Any) -> Interval:
            if factor == Interval.at(1.0):
                return rule(a, b)
            return rule(a, times(b, factor)) if call.name in _SHIFTING else UNBOUNDED

        return scaled
    if call.get("rounding_mode") is not None:
        floor, ceil = pointwise("floor"), pointwise("ceil")
        return lambda a, b, *rest: floor(rule(a, b)).hull(ceil(rule(a, b)))
    return rule


def _within(rule: Callable[..., Interval], dtype: torch.dtype) -> Callable[..., Interval]:
    """Integers that overflow wrap around: then any number of the dtype may come out."""
    if dtype.is_floating_point or dtype.is_complex:
        return rule
    limits = (0, 1) if dtype is torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    least, most = float(limits[0]), float(limits[1])

    def wrapped(*operands: Any) -> Interval:
        made = rule(*operands)
        fits = not made.nan and least <= made.lo and made.hi <= most
        return made if fits else Interval(least, most)

    return wrapped


def _ordered(call: Call, name: str, operands: Sequence[Any], made: Value) -> Value:
    """What two counts along lengths tell of each other: a padded index is beyond every valid one,
    which is why a causal mask hides padded keys from valid queries."""
    counts = [o for o in operands if isinstance(o, Value) and o.offset is not None]
    if name in _SHIFTING and len(counts) == 1 and len(made.spans) == 1:
        others = [o for o in operands if isinstance(o, Interval)]
        values = [o for o in operands if isinstance(o, Value)]
        shift = others[0] if others else None
        alike = call.get("alpha", 1) == 1 and isinstance(operands[0], Value)
        if len(values) == 1 and alike and shift is not None and shift.lo == shift.hi:
            by = shift.lo if name == "add" else -shift.lo
            return replace(made, offset=float(counts[0].offset or 0.0) + by)
        return made
    if name not in _ORDERED or len(counts) != 2 or len(made.spans) != 2:
        return made
    first, second = operands[0], operands[1]
    if first.offset != second.offset or call.get("alpha", 1) != 1:
        return made
    rank = len(made.dims)
    where = [_only_place(value, rank) for value in (first, second)]
    order = [place.dim for place in places(made.dims, "length")]
    if None in where or where[0] == where[1]:
        return made
    spans = list(made.spans)
    compare = pointwise(name)
    beyond, before = Interval(1.0, float(2**62)), Interval(-float(2**62), -1.0)
    for dim, difference in zip(where, (beyond, before), strict=True):
        index = order.index(dim)  # type: ignore[arg-type]
        pad = difference if name == "sub" else compare(difference, _ZERO)
        spans[index] = Span(pad, spans[index].first)
    return replace(made, spans=tuple(spans))


def _only_place(value: Value, rank: int) -> int | None:
    found = places(value.dims, "length")
    return found[0].dim + rank - len(value.dims) if len(found) == 1 else None
