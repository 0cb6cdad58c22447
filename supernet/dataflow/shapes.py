"""Operators that move entries and compute nothing: views, slices, joins, and constant tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from supernet.dataflow.interpreter import Call, Rule, top
from supernet.dataflow.intervals import TRUE, ZERO, Interval
from supernet.dataflow.pointwise import aligned
from supernet.dataflow.sizes import Dim, Size, join, regroup
from supernet.dataflow.values import Span, Value, follows, places, worst

__all__ = ["RULES", "moved_axes"]

_END = 2**62  # slices to the end are written with the largest integer


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


def _squeeze(call: Call) -> Any:
    return _view(call)


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
    return _respanned(value, tuple(dims), ahead)


def _respanned(value: Value, dims: tuple[Dim, ...], ahead: int) -> Value:
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
    return _respanned(value, dims, len(dims) - len(value.dims))


def _repeat_interleave(call: Call) -> Any:
    value: Value = call["self"]
    count, dim = call.get("repeats"), call.get("dim")
    if not isinstance(count, int) or dim is None:
        return top(call, "repeats by a count of its own", sure=False)
    at = dim % len(value.dims)
    dims = (*value.dims[:at], join([*value.dims[at], count]), *value.dims[at + 1 :])
    return replace(value, dims=dims, offset=None, weight=None)


def _slice(call: Call) -> Any:
    value: Value = call["self"]
    dim = (call.get("dim") or 0) % len(value.dims)
    start, end, step = call.get("start"), call.get("end"), call.get("step") or 1
    own, size = value.dims[dim], call.sizes()[dim]
    whole = start in (0, None) and step == 1
    if whole and (end is None or (isinstance(end, int) and end >= _END)):
        return value
    if whole and isinstance(end, Size) and _as_dim(end) == own:
        return value
    if all(isinstance(factor, int) for factor in own):
        return _sliced_numbers(call, value, dim, size, whole)
    if whole and end == 1 and own == ("length",):
        return _at_first(value, dim, keep=True)
    return _cut(call, value, dim, size, "takes some of")


def _as_dim(size: Size) -> Dim:
    return (*((size.number,) if size.number != 1 else ()), *size.others)


def _sliced_numbers(call: Call, value: Value, dim: int, size: Size, whole: bool) -> Any:
    """A slice of a dim of fixed size; ``table[:length]`` is a table of positions."""
    made = _as_dim(size)
    dims = (*value.dims[:dim], made, *value.dims[dim + 1 :])
    if all(isinstance(factor, int) for factor in made):
        return replace(value, dims=dims, offset=None, weight=None)
    if whole and made == ("length",):
        grown = _respanned(replace(value, dims=(*dims[:dim], (), *dims[dim + 1 :])), dims, 0)
        return replace(grown, offset=_counts(value, dim), weight=None)
    return top(call, "takes a part that follows the size", sure=False)


def _counts(value: Value, dim: int) -> float | None:
    """0 where a fixed table holds 0, 1, 2, … along ``dim`` and nothing else."""
    weight = value.weight
    if weight is None or weight.is_floating_point() or weight.numel() != weight.shape[dim]:
        return None
    import torch

    own = weight.detach().reshape(-1).cpu()
    return 0.0 if torch.equal(own, torch.arange(own.numel(), dtype=own.dtype)) else None


def _select(call: Call) -> Any:
    value: Value = call["self"]
    dim, index = call["dim"] % len(value.dims), call["index"]
    own = value.dims[dim]
    dims = (*value.dims[:dim], *value.dims[dim + 1 :])
    if all(isinstance(factor, int) for factor in own):
        return replace(value, dims=dims, offset=None, weight=None)
    if own == ("length",) and index == 0 and isinstance(index, int):
        return _at_first(value, dim, keep=False)
    return _cut(call, value, dim, None, "takes one of")


def _at_first(value: Value, dim: int, *, keep: bool) -> Value:
    where = places(value.dims, "length")
    index = next(i for i, place in enumerate(where) if place.dim == dim)
    dims = (*value.dims[:dim], *(((),) if keep else ()), *value.dims[dim + 1 :])
    spans = tuple(span for i, span in enumerate(value.spans) if i != index)
    first = value.spans[index].first
    return replace(
        value, dims=dims, spans=spans, valid=first, range=value.range, offset=None, weight=None
    )


def _cut(call: Call, value: Value, dim: int, size: Size | None, what: str) -> Any:
    """Some of the rows, or of the positions."""
    made = top(call, f"{what} the positions", sure=True)
    own = value.dims[dim]
    coupled = call.trouble(f"{what} the rows") if follows(own, "rows") else None
    # From the end of the padded length it is surely another; from the start it may be the same.
    sure = size is None or call.name != "slice" or _from_end(call)
    moved = call.trouble(f"{what} the positions", sure=sure) if follows(own, "length") else None
    return replace(
        made, valid=value.range, range=value.range, rows=value.rows,
        spans=tuple(Span(value.range, value.range) for _ in made.spans),
        coupled=worst([value.coupled, coupled]), moved=worst([value.moved, moved]),
    )  # fmt: skip


def _from_end(call: Call) -> bool:
    bounds = (call.get("start"), call.get("end"))
    return any(isinstance(bound, int) and bound < 0 for bound in bounds)


def _parts(call: Call) -> Any:
    """``split``, ``chunk``, ``unbind`` along a dim of fixed size."""
    value: Value = call["self"]
    dim = (call.get("dim") or 0) % len(value.dims)
    if not all(isinstance(factor, int) for factor in value.dims[dim]):
        what = "takes rows or lengths apart"
        return top(call, what, sure=False)
    gone = call.name == "unbind"
    made = []
    for index in range(len(call.node.meta["val"])):
        own = () if gone else (_as_dim(call.sizes(index)[dim]),)
        dims = (*value.dims[:dim], *own, *value.dims[dim + 1 :])
        made.append(replace(value, dims=dims, offset=None, weight=None))
    return tuple(made)


def _cat(call: Call) -> Any:
    values: list[Value] = [v for v in call["tensors"] if v.dims != ((0,),)]
    rank = len(values[0].dims)
    dim = (call.get("dim") or 0) % rank
    if any(not isinstance(factor, int) for v in values for factor in v.dims[dim]):
        which = "rows" if any(follows(v.dims[dim], "rows") for v in values) else "positions"
        return top(call, f"joins {which}", sure=which == "rows")
    without = [(*v.dims[:dim], (), *v.dims[dim + 1 :]) for v in values]
    return _joined(call, values, without, dim, _as_dim(call.sizes()[dim]))


def _stack(call: Call) -> Any:
    values: list[Value] = call["tensors"]
    dim = (call.get("dim") or 0) % (len(values[0].dims) + 1)
    grown = [replace(v, dims=(*v.dims[:dim], (), *v.dims[dim:])) for v in values]
    return _joined(call, grown, [v.dims for v in grown], dim, join([len(values)]))


def _joined(
    call: Call, values: Sequence[Value], shapes: Sequence[tuple[Dim, ...]], dim: int, made: Dim
) -> Any:
    common, _ = aligned(shapes)
    if common is None or any(len(v.spans) != len(values[0].spans) for v in values):
        return top(call, "joins tensors whose rows or lengths lie differently", sure=False)
    plain = [value.plain() for value in values]
    return Value(
        (*common[:dim], made, *common[dim + 1 :]),
        "same" if all(v.rows == "same" for v in plain) else "own",
        _hull([v.valid for v in plain]),
        _hull([v.range for v in plain]),
        tuple(
            Span(_hull([s.pad for s in same]), _hull([s.first for s in same]))
            for same in zip(*(v.spans for v in plain), strict=True)
        ),
        coupled=worst(v.coupled for v in plain),
        moved=worst(v.moved for v in plain),
    )


def _hull(intervals: Sequence[Interval]) -> Interval:
    made = intervals[0]
    for interval in intervals[1:]:
        made = made.hull(interval)
    return made


def _filled(interval: Callable[[Call], Interval]) -> Rule:
    """A tensor of one number."""

    def rule(call: Call) -> Any:
        sizes = call.sizes()
        if any(len(size.others) > 1 for size in sizes):
            return top(call, "is of a size of several factors", sure=False)
        dims = tuple(_as_dim(size) for size in sizes)
        number = interval(call)
        coupled, moved = (
            call.scalar_troubles() if isinstance(call.get("fill_value"), Size) else (None, None)
        )
        spans = (Span(number, number),) * len(places(dims, "length"))
        if any(follows(dim, which) and which not in dim for dim in dims for which in _BOTH):
            return top(call, "is of a size that follows rows or length", sure=False)
        return Value(dims, "same", number, number, spans, coupled=coupled, moved=moved)

    return rule


_BOTH: tuple[Literal["rows", "length"], ...] = ("rows", "length")


def _fill_value(call: Call) -> Interval:
    value = call.get("fill_value", call.get("s"))
    if isinstance(value, Size):
        return Interval(0.0, float(2**62))
    return Interval.at(float(value))


def _arange(call: Call) -> Any:
    start, step = call.get("start", 0) or 0, call.get("step", 1)
    (size,) = call.sizes()
    dim = _as_dim(size)
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
    if value.dims[-2:] != (("length",), ("length",)):
        symbolic = any(not isinstance(f, int) for dim in value.dims[-2:] for f in dim)
        if symbolic:
            return top(call, "cuts a triangle through rows or lengths", sure=False)
        some = value.valid.hull(ZERO)
        return replace(value, valid=some, range=value.range.hull(ZERO))
    rows, columns = value.spans[-2:]
    low = call.name.startswith("tril")
    if not isinstance(cut, int):
        return top(call, "cuts a triangle through rows or lengths", sure=False)
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


def _flip(call: Call) -> Any:
    value: Value = call["self"]
    for axis in call["dims"]:
        if not all(isinstance(factor, int) for factor in value.dims[axis % len(value.dims)]):
            return _cut(call, value, axis % len(value.dims), None, "turns round")
    return replace(value, offset=None, weight=None)


def _pad(call: Call) -> Any:
    value: Value = call["self"]
    room = call["pad"]
    dims = list(value.dims)
    made = call.sizes()
    for pair in range(len(room) // 2):
        axis = len(dims) - 1 - pair
        if room[2 * pair] == 0 == room[2 * pair + 1]:
            continue
        if any(not isinstance(factor, int) for factor in dims[axis]):
            which = "rows" if follows(dims[axis], "rows") else "positions"
            return top(call, f"adds {which}", sure=which == "rows")
        dims[axis] = _as_dim(made[axis])
    fill = call.get("value")
    number = Interval.at(float(fill if fill is not None else 0.0))
    return replace(
        value, dims=tuple(dims), valid=value.valid.hull(number), range=value.range.hull(number),
        spans=tuple(span.map(lambda i: i.hull(number)) for span in value.spans),
        offset=None, weight=None,
    )  # fmt: skip


def _numeric(fill: Interval) -> Callable[[Call], Interval]:
    return lambda call: fill


_ONE, _NOTHING = _filled(_numeric(TRUE)), _filled(_numeric(ZERO))
_FULL = _filled(_fill_value)

RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as",
         "squeeze", "_reshape_alias"), _view),
    "permute": _permute, "transpose": _transpose, "swapaxes": _transpose, "t": _t,
    "numpy_T": _t, "movedim": _movedim, "moveaxis": _movedim, "unsqueeze": _unsqueeze,
    "expand": _expand, "expand_as": _expand, "broadcast_to": _expand, "repeat": _repeat,
    "tile": _repeat,
    "repeat_interleave": _repeat_interleave, "slice": _slice, "select": _select,
    "split": _parts, "split_with_sizes": _parts, "chunk": _parts, "unbind": _parts,
    "cat": _cat, "concat": _cat, "stack": _stack, "full": _FULL, "full_like": _FULL,
    "new_full": _FULL, "scalar_tensor": _FULL, "zeros": _NOTHING, "zeros_like": _NOTHING,
    "new_zeros": _NOTHING, "ones": _ONE, "ones_like": _ONE, "new_ones": _ONE,
    "arange": _arange, "tril": _triangle, "triu": _triangle, "flip": _flip,
    "constant_pad_nd": _pad, "pad": _pad,
}  # fmt: skip
