"""Views, permutations and repetitions: the same entries in other dims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from supernet.dataflow.interpreter import Call, Rule, top
from supernet.dataflow.sizes import Dim, Size, join, regroup
from supernet.dataflow.values import Span, Value, places

__all__ = ["RULES", "as_dim", "moved_axes", "respanned"]


def _view(call: Call) -> Any:
    value: Value = call["self"]
    dims = regroup(value.dims, call.sizes())
    if dims is None:
        return top(call, "cuts through rows or lengths", sure=False)
    return replace(value, dims=dims, weight=value.weight if dims == value.dims else None)


def moved_axes(value: Value, order: Sequence[int]) -> Value:
    """``value`` with its dims in another order."""
    where = places(value.dims, "length")
    dims = tuple(value.dims[axis] for axis in order)
    spans = tuple(
        span
        for axis in order
        for place, span in zip(where, value.spans, strict=True)
        if place.dim == axis
    )
    kept = list(order) == list(range(len(order)))
    return replace(value, dims=dims, spans=spans, weight=value.weight if kept else None)


def _permute(call: Call) -> Value:
    value: Value = call["self"]
    return moved_axes(value, [axis % len(value.dims) for axis in call["dims"]])


def _transpose(call: Call) -> Value:
    value: Value = call["self"]
    rank = len(value.dims)
    order = list(range(rank))
    a, b = call.get("dim0", call.get("axis0", 0)), call.get("dim1", call.get("axis1", 1))
    if rank > 1:
        order[a % rank], order[b % rank] = order[b % rank], order[a % rank]
    return moved_axes(value, order)


def _t(call: Call) -> Value:
    value: Value = call["self"]
    return moved_axes(value, list(range(len(value.dims)))[::-1])


def _movedim(call: Call) -> Value:
    value: Value = call["self"]
    rank = len(value.dims)
    sources, targets = (
        [a % rank for a in (axes if isinstance(axes, (list, tuple)) else [axes])]
        for axes in (call["source"], call["destination"])
    )
    rest = iter(axis for axis in range(rank) if axis not in sources)
    placed = dict(zip(targets, sources, strict=True))
    return moved_axes(value, [placed[i] if i in placed else next(rest) for i in range(rank)])


def _unsqueeze(call: Call) -> Value:
    value: Value = call["self"]
    at = call["dim"] % (len(value.dims) + 1)
    return replace(value, dims=(*value.dims[:at], (), *value.dims[at:]), weight=None)


def _expand(call: Call) -> Any:
    value: Value = call["self"]
    sizes = call.sizes()
    ahead = len(sizes) - len(value.dims)
    dims: list[Dim] = []
    for position, size in enumerate(sizes):
        own = value.dims[position - ahead] if position >= ahead else ()
        if own:
            dims.append(own)
            continue
        grown = (*((size.number,) if size.number != 1 else ()), *size.others)
        if len(size.others) > 1 or (size.others and size.number != 1):
            return top(call, "repeats to a size of several factors", sure=False)
        dims.append(grown)
    return respanned(value, tuple(dims), ahead)


def respanned(value: Value, dims: tuple[Dim, ...], ahead: int) -> Value:
    """Spans for dims of which some are new: along those every entry is the same."""
    old = dict(zip(places(value.dims, "length"), value.spans, strict=True))
    spans = []
    for place in places(dims, "length"):
        known = old.get(place._replace(dim=place.dim - ahead)) if place.dim >= ahead else None
        spans.append(known or Span(value.valid, value.range))
    kept = dims == value.dims
    return replace(
        value, dims=dims, spans=tuple(spans),
        offset=value.offset if len(spans) <= 1 and value.spans else None,
        weight=value.weight if kept else None,
    )  # fmt: skip


def _repeat(call: Call) -> Any:
    value: Value = call["self"]
    repeats = call["repeats"]
    ahead = len(repeats) - len(value.dims)
    dims: list[Dim] = []
    for position, count in enumerate(repeats):
        own = value.dims[position - ahead] if position >= ahead else ()
        if isinstance(count, Size):
            grown = (*((count.number,) if count.number != 1 else ()), *count.others)
        else:
            grown = (count,) if count != 1 else ()
        if any(not isinstance(factor, int) for factor in grown) and (own or len(grown) > 1):
            return top(call, "repeats rows or lengths", sure=False)
        dims.append(join([*grown, *own]))
    if len({*places(tuple(dims), "length")}) < len(value.spans):
        return top(call, "repeats rows or lengths", sure=False)
    return _respanned_repeat(value, tuple(dims))


def _respanned_repeat(value: Value, dims: tuple[Dim, ...]) -> Value:
    count = len(places(dims, "length"))
    if count == len(value.spans):
        return replace(value, dims=dims, offset=None, weight=None)
    return respanned(value, dims, len(dims) - len(value.dims))


def _repeat_interleave(call: Call) -> Any:
    value: Value = call["self"]
    count, dim = call.get("repeats"), call.get("dim")
    if not isinstance(count, int) or dim is None:
        return top(call, "repeats by a count of its own", sure=False)
    at = dim % len(value.dims)
    dims = (*value.dims[:at], join([*value.dims[at], count]), *value.dims[at + 1 :])
    return replace(value, dims=dims, offset=None, weight=None)


def _as_numbers(call: Call) -> Value:
    """A complex tensor as pairs of real numbers, or the other way round."""
    value: Value = call["self"].plain()
    pairs = call.name == "view_as_real"
    return replace(value, dims=(*value.dims, (2,)) if pairs else value.dims[:-1])


def as_dim(size: Size) -> Dim:
    """The factors of a size, in no order that memory would have."""
    return (*((size.number,) if size.number != 1 else ()), *size.others)


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as",
         "squeeze", "_reshape_alias"), _view),
    "permute": _permute, "transpose": _transpose, "swapaxes": _transpose, "t": _t,
    "numpy_T": _t, "movedim": _movedim, "moveaxis": _movedim, "unsqueeze": _unsqueeze,
    "view_as_real": _as_numbers, "view_as_complex": _as_numbers,
    "expand": _expand, "expand_as": _expand, "broadcast_to": _expand, "repeat": _repeat,
    "tile": _repeat, "repeat_interleave": _repeat_interleave,
}  # fmt: skip
