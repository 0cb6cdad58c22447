"""Operators that read or write at places that another tensor names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from supernet.dataflow.interpreter import Call, Rule, top
from supernet.dataflow.intervals import ANY, BIT, UNBOUNDED, Interval
from supernet.dataflow.pointwise import aligned
from supernet.dataflow.sizes import Dim, join
from supernet.dataflow.values import Span, Value, follows, places, worst

__all__ = ["RULES"]


def _embedding(call: Call) -> Any:
    """Rows of a table: ids [...] → [..., width]."""
    table, ids = call["weight"], call["indices"].plain()
    if table.rows != "same" or any(follows(dim, w) for dim in table.dims for w in _BOTH):
        return top(call, "looks up in a table that follows the input", sure=False)

    def looked_up(index: Interval) -> Interval:
        """A padded id is 0, and the entry for it often zeros."""
        known: Interval = table.range
        if table.weight is None or index.nan or index.lo != index.hi:
            return known
        at = int(index.lo)
        if not 0 <= at < table.weight.shape[0]:
            return known
        least, most = (float(v) for v in torch.aminmax(table.weight.detach()[at]))
        return UNBOUNDED if least != least else Interval(least, most)

    return Value(
        (*ids.dims, *table.dims[1:]), ids.rows, table.range, table.range,
        tuple(span.map(looked_up) for span in ids.spans),
        coupled=worst([ids.coupled, table.coupled]), moved=worst([ids.moved, table.moved]),
    )  # fmt: skip


_BOTH: tuple[Literal["rows", "length"], ...] = ("rows", "length")


def _index_select(call: Call) -> Any:
    value: Value = call["self"]
    axis = call["dim"] % max(len(value.dims), 1)
    return _taken(call, value, axis, [call["index"]])


def _index(call: Call) -> Any:
    """``x[i]``, ``x[:, i]``, ``x[i, j]``: index tensors side by side."""
    value: Value = call["self"]
    indices = list(call["indices"])
    used = [axis for axis, index in enumerate(indices) if isinstance(index, Value)]
    if not used or used != list(range(used[0], used[-1] + 1)):
        return top(call, "reads at several places apart", sure=False)
    if any(_dtype(call, axis) is torch.bool for axis in used):
        return top(call, "takes as many entries as a mask says", sure=True)
    return _taken(call, value, used[0], [indices[axis] for axis in used])


def _dtype(call: Call, axis: int) -> Any:
    index = call.node.args[1][axis]  # type: ignore[index]
    made = getattr(index, "meta", {}).get("val")
    return made.dtype if isinstance(made, torch.Tensor) else None


def _taken(call: Call, value: Value, axis: int, indices: Sequence[Value]) -> Any:
    """``value`` read at ``indices`` along the dims from ``axis`` on."""
    where, _ = aligned([index.dims for index in indices])
    if where is None:
        return top(call, "reads at places that lie differently", sure=False)
    read = value.dims[axis : axis + len(indices)]
    coupled = moved = None
    rows_read = False
    for dim, index in zip(read, indices, strict=True):
        if follows(dim, "rows"):
            if dim != ("rows",) or index.rows != "index":
                coupled = call.trouble("reads other rows of the batch")
            rows_read = True
        elif index.rows == "index":
            coupled = call.trouble("reads where the place in the batch says")
        if follows(dim, "length") and (dim != ("length",) or index.offset != 0.0):
            # Valid indices are the same with padding; those from the end are not.
            known = dim == ("length",) and index.valid.lo >= 0
            if not known:
                moved = call.trouble("reads at a place it works out", sure=False)
    dims = (*value.dims[:axis], *where, *value.dims[axis + len(indices) :])
    if len(places(dims, "rows")) > 1:
        coupled = call.trouble("meets every row with every other")
    own = value.rows != "same" or any(index.rows == "own" for index in indices) or rows_read
    return Value(
        dims,
        "own" if own else "same",
        value.range,
        value.range,
        tuple(
            _read_span(value, axis, indices, place, len(where)) for place in places(dims, "length")
        ),
        coupled=worst([value.plain().coupled if value.rows == "index" else value.coupled,
                       *(index.coupled for index in indices), coupled]),
        moved=worst([value.moved, *(index.moved for index in indices), moved]),
    )  # fmt: skip


def _read_span(value: Value, axis: int, indices: Sequence[Value], place: Any, added: int) -> Span:
    """Along a length that was there before, or that an index counting positions stands for."""
    spans = dict(zip(places(value.dims, "length"), value.spans, strict=True))
    if place.dim < axis:
        return spans[place]
    if place.dim >= axis + added:
        return spans[place._replace(dim=place.dim - added + len(indices))]
    for offset, index in enumerate(indices):
        if index.offset == 0.0 and value.dims[axis + offset] == ("length",):
            rank = added - len(index.dims)
            mine = [p.dim + axis + rank for p in places(index.dims, "length")]
            if place.dim in mine:
                return next(span for p, span in spans.items() if p.dim == axis + offset)
    return Span(value.range, value.range)


def _gather(call: Call) -> Any:
    """Along one dim; the others of index and source lie side by side."""
    value, index = call["self"].plain(), call["index"].plain()
    axis = call["dim"] % max(len(value.dims), 1)
    if not value.dims or len(value.dims) != len(index.dims):
        return top(call, "gathers from another number of dims", sure=False)
    read = value.dims[axis]
    coupled = moved = None
    if follows(read, "rows"):
        coupled = call.trouble("reads other rows of the batch")
    if follows(read, "length") and not (read == ("length",) and index.valid.lo >= 0):
        moved = call.trouble("reads at a place it works out", sure=False)
    for at, (own, other) in enumerate(zip(value.dims, index.dims, strict=True)):
        symbolic = any(not isinstance(factor, int) for factor in (*own, *other))
        if at != axis and symbolic and own != other and not (own and own[0] == 1):
            return top(call, "gathers where rows or lengths lie differently", sure=False)
    return Value(
        index.dims,
        "same" if value.rows == "same" == index.rows else "own",
        value.range,
        value.range,
        (Span(value.range, value.range),) * len(index.spans),
        coupled=worst([value.coupled, index.coupled, coupled]),
        moved=worst([value.moved, index.moved, moved]),
    )


def _scattered(call: Call) -> Any:
    """Written along one dim of a fixed size, everything else side by side."""
    if not isinstance(call.get("index"), Value):
        return top(call, "writes at several places", sure=False)
    value, index = call["self"].plain(), call["index"].plain()
    source = call.get("src", call.get("source"))
    axis = call["dim"] % max(len(value.dims), 1)
    tensors = [value, index, *([source.plain()] if isinstance(source, Value) else [])]
    if call.name.startswith("index_") or len({len(v.dims) for v in tensors}) != 1:
        return top(call, "writes at places named by an index", sure=False)
    for v in tensors:
        if any(not isinstance(factor, int) for factor in v.dims[axis]):
            return top(call, "writes to places among rows or positions", sure=False)
    for at in range(len(value.dims)):
        found = {v.dims[at] for v in tensors}
        if at != axis and len(found) > 1 and any(_symbolic(dim) for dim in found):
            return top(call, "writes where rows or lengths lie differently", sure=False)
    dims = value.dims
    number = value.range
    extra = call.get("value")
    if isinstance(source, Value):
        number = number.hull(source.range)
    elif isinstance(extra, (int, float)):
        number = number.hull(Interval.at(float(extra)))
    else:
        number = UNBOUNDED
    if "add" in call.name or "reduce" in call.name:
        number = ANY if number.finite else UNBOUNDED
    spans = (Span(number, number),) * len(places(dims, "length"))
    return Value(
        dims, "same" if all(v.rows == "same" for v in tensors) else "own", number, number, spans,
        coupled=worst(v.coupled for v in tensors), moved=worst(v.moved for v in tensors),
    )  # fmt: skip


def _symbolic(dim: Dim) -> bool:
    return any(not isinstance(factor, int) for factor in dim)


def _one_hot(call: Call) -> Any:
    value: Value = call["self"].plain()
    count = call.get("num_classes", -1)
    if not isinstance(count, int) or count < 0:
        return top(call, "makes as many classes as the batch holds", sure=True)
    return replace(
        value, dims=(*value.dims, join([count])), valid=BIT, range=BIT,
        spans=(Span(BIT, BIT),) * len(value.spans),
    )  # fmt: skip


def _counted_out(call: Call) -> Any:
    """As many results as values of the whole batch say."""
    return top(call, "gives as many entries as the values say", sure=True)


RULES: dict[str, Rule] = {
    "embedding": _embedding, "index_select": _index_select, "index": _index, "gather": _gather,
    "take_along_dim": _gather,
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy",
                     "index_fill", "index_put"), _scattered),
    "one_hot": _one_hot,
    **dict.fromkeys(("nonzero", "masked_select", "masked_scatter", "unique_dim", "_unique2",
                     "unique_consecutive", "bincount"), _counted_out),
}  # fmt: skip
