"""Some of the entries, or those of several tensors: slices, splits, joins, rims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from supernet.dataflow.interpreter import Call, Rule, top
from supernet.dataflow.intervals import Interval
from supernet.dataflow.pointwise import aligned, combine
from supernet.dataflow.sizes import Dim, Size, join
from supernet.dataflow.values import Span, Trouble, Value, follows, places, worst
from supernet.dataflow.views import as_dim, respanned

__all__ = ["RULES"]

_END = 2**62  # slices to the end are written with the largest integer


def _slice(call: Call) -> Any:
    value: Value = call["self"]
    dim = (call.get("dim") or 0) % len(value.dims)
    start, end, step = call.get("start"), call.get("end"), call.get("step") or 1
    own, size = value.dims[dim], call.sizes()[dim]
    if isinstance(start, Size) and as_dim(replace(start, number=-start.number)) == own:
        start = 0  # as many before the end as there are
    whole = start in (0, None) and step == 1
    if _symbolic(start):
        return top(call, "begins where a size says", sure=False)
    if whole and (end is None or (isinstance(end, int) and end >= _END)):
        return value
    if whole and isinstance(end, Size) and as_dim(end) == own:
        return value
    if all(isinstance(factor, int) for factor in own):
        return _sliced_numbers(call, value, dim, size, whole)
    if whole and end == 1 and own == ("length",):
        return _at_first(value, dim, keep=True)
    return _cut(call, value, dim, size, "takes some of")


def _sliced_numbers(call: Call, value: Value, dim: int, size: Size, whole: bool) -> Any:
    """A slice of a dim of fixed size; ``table[:length]`` is a table of positions."""
    made = as_dim(size)
    dims = (*value.dims[:dim], made, *value.dims[dim + 1 :])
    if all(isinstance(factor, int) for factor in made) and not _symbolic(call.get("end")):
        return replace(value, dims=dims, offset=None, weight=None)
    if whole and made == ("length",):  # of a table that is as long as any request
        grown = respanned(replace(value, dims=(*dims[:dim], (), *dims[dim + 1 :])), dims, 0)
        return replace(grown, offset=_counts(value, dim), weight=None)
    return top(call, "takes a part that follows the size", sure=False)


def _counts(value: Value, dim: int) -> float | None:
    """0 where a fixed table holds 0, 1, 2, … along ``dim`` and nothing else."""
    weight = value.weight
    if weight is None or weight.is_floating_point() or weight.numel() != weight.shape[dim]:
        return None
    own = weight.detach().reshape(-1).cpu()
    return 0.0 if torch.equal(own, torch.arange(own.numel(), dtype=own.dtype)) else None


def _select(call: Call) -> Any:
    value: Value = call["self"]
    dim, index = call["dim"] % len(value.dims), call["index"]
    own = value.dims[dim]
    dims = (*value.dims[:dim], *value.dims[dim + 1 :])
    if _symbolic(index):
        return top(call, "takes the one that a size says", sure=False)
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
    start = call.get("start")
    return isinstance(start, int) and start < 0


def _parts(call: Call) -> Any:
    """``split``, ``chunk``, ``unbind`` along a dim of fixed size."""
    value: Value = call["self"]
    dim = (call.get("dim") or 0) % len(value.dims)
    if not all(isinstance(factor, int) for factor in value.dims[dim]):
        return top(call, "takes rows or lengths apart", sure=False)
    bounds = call.get("split_sizes", call.get("split_size", 1))
    if any(
        _symbolic(bound) for bound in (bounds if isinstance(bounds, (list, tuple)) else [bounds])
    ):
        return _followed(call, value, "is taken apart where a size says")
    gone = call.name == "unbind"
    made = []
    for index in range(len(call.node.meta["val"])):
        own = () if gone else (as_dim(call.sizes(index)[dim]),)
        dims = (*value.dims[:dim], *own, *value.dims[dim + 1 :])
        made.append(replace(value, dims=dims, offset=None, weight=None))
    return tuple(made)


def _symbolic(bound: Any) -> bool:
    """Whether it follows the rows or the length."""
    return isinstance(bound, Size) and bool(bound.others)


def _followed(call: Call, value: Value, what: str) -> Any:
    """What a size among the arguments decides is another for every batch and every padding."""
    made = top(call, what, sure=True)
    trouble = call.trouble(what)
    return tuple(one.troubled(trouble, trouble) for one in made)


def _cat(call: Call) -> Any:
    values: list[Value] = [v for v in call["tensors"] if v.dims != ((0,),)]
    rank = len(values[0].dims)
    dim = (call.get("dim") or 0) % rank
    if any(not isinstance(factor, int) for v in values for factor in v.dims[dim]):
        if any(follows(v.dims[dim], "rows") for v in values):
            return top(call, "joins rows", sure=True)
        return _longer(call, values, dim, call.trouble("joins positions", sure=False))
    without = [(*v.dims[:dim], (), *v.dims[dim + 1 :]) for v in values]
    return _joined(call, values, without, dim, as_dim(call.sizes()[dim]))


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
        if _symbolic(room[2 * pair]) or _symbolic(room[2 * pair + 1]):
            follow = call.trouble("adds as many as a size says")
            return _longer(call, [value.troubled(follow, None)], axis, follow)
        if any(not isinstance(factor, int) for factor in dims[axis]):
            if follows(dims[axis], "rows"):
                return top(call, "adds rows", sure=True)
            return _longer(call, [value], axis, call.trouble("adds positions", sure=False))
        dims[axis] = as_dim(made[axis])
    fill = call.get("value")
    number = Interval.at(float(fill if fill is not None else 0.0))
    return replace(
        value, dims=tuple(dims), valid=value.valid.hull(number), range=value.range.hull(number),
        spans=tuple(span.map(lambda i: i.hull(number)) for span in value.spans),
        offset=None, weight=None,
    )  # fmt: skip


def _longer(call: Call, values: Sequence[Value], axis: int, moved: Trouble) -> Any:
    """More positions along ``axis``; what rows there are stays where it is."""
    common, _ = aligned([(*v.dims[:axis], (), *v.dims[axis + 1 :]) for v in values])
    if common is None:
        return top(call, "joins tensors whose rows or lengths lie differently", sure=False)
    plain = [value.plain() for value in values]
    dims = (*common[:axis], call.dims()[axis], *common[axis + 1 :])
    number = _hull([v.range for v in plain])
    return Value(
        dims, "same" if all(v.rows == "same" for v in plain) else "own", number, number,
        (Span(number, number),) * len(places(dims, "length")),
        coupled=worst(v.coupled for v in plain), moved=worst([moved, *(v.moved for v in plain)]),
    )  # fmt: skip


def _diagonal(call: Call) -> Any:
    value: Value = call["self"].plain()
    pair = [
        call.get(name, default) % len(value.dims) for name, default in (("dim1", 0), ("dim2", 1))
    ]
    if any(not isinstance(factor, int) for axis in pair for factor in value.dims[axis]):
        return top(call, "takes a diagonal of rows or positions", sure=False)
    kept = [dim for axis, dim in enumerate(value.dims) if axis not in pair]
    return replace(value, dims=(*kept, call.dims()[-1]))


def _copied(call: Call) -> Any:
    """``copy``: the source in the shape of the first."""
    return combine(call, [call["self"], call["src"]], lambda first, source: source)


def _placed(call: Call) -> Any:
    """``slice_scatter``, ``select_scatter``: some of a dim of fixed size from another tensor."""
    value: Value = call["self"]
    axis = (call.get("dim") or 0) % len(value.dims)
    if not all(isinstance(factor, int) for factor in value.dims[axis]):
        return top(call, "writes some of the rows or positions", sure=False)
    source: Value = call["src"]
    ahead, behind = source.dims[:axis], source.dims[axis + (call.name == "slice_scatter") :]
    wide = replace(source, dims=(*ahead, (), *behind))
    return combine(call, [value, wide], lambda first, other: first.hull(other))


RULES: dict[str, Rule] = {
    "slice": _slice, "select": _select, "split": _parts, "split_with_sizes": _parts,
    "chunk": _parts, "unbind": _parts, "cat": _cat, "concat": _cat, "stack": _stack,
    "flip": _flip, "constant_pad_nd": _pad, "pad": _pad, "diagonal": _diagonal, "copy": _copied,
    "slice_scatter": _placed, "select_scatter": _placed,
}  # fmt: skip
