"""Operators that make one number of many, and those that normalise, sum up or sort along a dim."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from supernet.dataflow.interpreter import Call, Rule
from supernet.dataflow.intervals import ANY, BIT, TAME, UNBOUNDED, ZERO, Interval
from supernet.dataflow.pointwise import entrywise
from supernet.dataflow.values import Span, Value, follows, places, worst

__all__ = ["GAP", "RULES", "hidden", "softmaxed"]

GAP = 1000.0
"""So far below the largest, an entry's share of a softmax is 0 in float64, too."""
_LOW = -1000.0  # what people write where they mean minus infinity: -1e4, -1e9


def _neutral(kind: str, span: Span) -> bool:
    """Whether the padded entries cannot change the result."""
    pad, first = span
    if kind == "sum":
        return pad.zero
    if kind == "any":
        return pad.zero
    if kind in ("all", "prod"):
        return pad == Interval(1.0, 1.0)
    if pad.nan or first.nan:
        return False
    if kind in ("max", "argmax"):  # of equal ones torch names the first, and padding is last
        return pad.hi <= first.lo
    if kind in ("min", "argmin"):
        return pad.lo >= first.hi
    return kind == "logsumexp" and hidden(span)


def hidden(span: Span) -> bool:
    """Whether padded entries have no share in a softmax: far below one that is always there, or
    minus infinity (a row of nothing else is NaN with padding and without)."""
    pad, first = span
    return not pad.nan and (pad.hi == -math.inf or first.lo - pad.hi >= GAP)


def _surely(kind: str, pad: Interval) -> bool:
    """Whether padding surely counts, not merely for lack of knowledge or of a lower mask."""
    if kind in ("max", "argmax", "logsumexp", "softmax") and pad.hi <= _LOW:
        return False
    if kind in ("any", "all") and pad == BIT:
        return False
    return pad.tame or kind in ("mean", "spread")


def _axes(call: Call, value: Value) -> list[int]:
    """The dims reduced; all where none is named."""
    given = call.get("dim", call.get("dims"))
    rank = len(value.dims)
    if given is None or given == []:
        return list(range(rank))
    return [axis % rank for axis in (given if isinstance(given, (list, tuple)) else [given])]


def _total(a: Interval) -> Interval:
    if a.zero:
        return ZERO
    if not a.finite:
        return UNBOUNDED
    return Interval(0.0 if a.lo >= 0 else min(a.lo, -TAME), 0.0 if a.hi <= 0 else max(a.hi, TAME))


def _size(a: Interval) -> Interval:
    return Interval(0.0, TAME) if a.finite else Interval(0.0, math.inf, a.nan or not a.finite)


_RANGE: dict[str, Callable[[Interval], Interval]] = {
    "sum": _total, "mean": lambda a: a, "max": lambda a: a, "min": lambda a: a,
    "any": lambda a: BIT, "all": lambda a: BIT, "spread": _size,
    "argmax": lambda a: Interval(0.0, float(2**62)),
    "argmin": lambda a: Interval(0.0, float(2**62)),
    "prod": lambda a: BIT if a.lo >= 0 and a.hi <= 1 and not a.nan else UNBOUNDED,
    "logsumexp": lambda a: ANY if a.finite else UNBOUNDED,
}  # fmt: skip


def _reduction(kind: str, range_of: Callable[[Interval], Interval] | None = None) -> Rule:
    f = range_of or _RANGE[kind]

    def rule(call: Call) -> Any:
        if call.node.target.overloadpacket.__name__ in ("max", "min") and call.get("other"):  # type: ignore[union-attr]
            return entrywise(call)
        value: Value = (call.get("self") or call.get("x") or call.tensors[0]).plain()
        made = _reduced(call, value, _axes(call, value), kind, f)
        several = call.node.meta["val"]
        if isinstance(several, Tensor):
            return made
        place = replace(made, valid=ANY, range=ANY, spans=(Span(ANY, ANY),) * len(made.spans))
        if call.name in ("max", "min"):  # the index as well, which a tie could move
            place = _reduced(call, value, _axes(call, value), f"arg{kind}", _RANGE[f"arg{kind}"])
        return (made, place)

    return rule


def _reduced(
    call: Call, value: Value, axes: Sequence[int], kind: str, f: Callable[[Interval], Interval]
) -> Value:
    gone = [value.dims[axis] for axis in axes]
    coupled = moved = None
    if any(follows(dim, "rows") for dim in gone):
        coupled = call.trouble("goes over the rows of the batch")
    left, lost = [], False
    for place, span in zip(places(value.dims, "length"), value.spans, strict=True):
        if place.dim not in axes:
            left.append(span)
            continue
        lost = True
        if not _neutral(kind, span):
            what = "goes over the padding"
            moved = worst([moved, call.trouble(what, sure=_surely(kind, span.pad))])
    if any(follows(dim, "length") and "length" not in dim for dim in gone):
        moved = worst([moved, call.trouble("goes over a dim that follows the length")])
    keep = bool(call.get("keepdim", False))
    dims = tuple(
        () if axis in axes else dim
        for axis, dim in enumerate(value.dims)
        if keep or axis not in axes
    )
    everything = f(value.range)
    return Value(
        dims, value.rows, f(value.valid), everything,
        tuple(Span(everything, everything) if lost else span.map(f) for span in left),
        coupled=worst([value.coupled, coupled]), moved=worst([value.moved, moved]),
    )  # fmt: skip


def _softmax(call: Call) -> Value:
    value: Value = (call.get("self") or call["input"]).plain()
    axis = call["dim"] % max(len(value.dims), 1)
    shares = Interval(-math.inf, 0.0) if "log" in call.name else BIT
    return softmaxed(call, value, axis, shares)


def softmaxed(call: Call, value: Value, axis: int, shares: Interval) -> Value:
    """``value`` after a softmax along ``axis``, whose results lie in ``shares``."""
    dim = value.dims[axis] if value.dims else ()
    coupled = moved = None
    if follows(dim, "rows"):
        coupled = call.trouble("goes over the rows of the batch")
    nothing = ZERO if shares == BIT else Interval(-math.inf, -math.inf)
    where = places(value.dims, "length")
    empty = value.range.lo == -math.inf  # a row of minus infinities alone gives NaN
    unsure = False
    for place, span in zip(where, value.spans, strict=True):
        if place.dim != axis:
            continue
        empty = empty and span.first.lo == -math.inf
        if not hidden(span):
            sure = _surely("softmax", span.pad)
            moved = worst([moved, call.trouble("shares among the padding", sure=sure)])
            unsure = unsure or not sure
    if follows(dim, "length") and "length" not in dim:
        moved = call.trouble("goes over a dim that follows the length")
    unknown = value.range.nan or value.range.hi == math.inf
    made = shares._replace(nan=empty or unknown)
    seen = UNBOUNDED if unsure else made  # a share that may be 0, for all that is known
    spans = tuple(
        Span(nothing if hidden(span) and not made.nan else seen, made)
        if place.dim == axis
        else Span(made, made)
        for place, span in zip(where, value.spans, strict=True)
    )
    return Value(
        value.dims, value.rows, made, made, spans,
        coupled=worst([value.coupled, coupled]), moved=worst([value.moved, moved]),
    )  # fmt: skip


def _running(call: Call) -> Any:
    """``cumsum`` and the like: an entry depends on those before it, so padding at the end is
    harmless to it."""
    value: Value = call["self"].plain()
    axis = call["dim"] % max(len(value.dims), 1)
    dim = value.dims[axis] if value.dims else ()
    made = _total(value.range)
    spans = tuple(Span(made, made) for _ in value.spans)
    coupled = moved = None
    if follows(dim, "rows"):
        coupled = call.trouble("runs over the rows of the batch")
    if follows(dim, "length") and dim != ("length",):
        moved = call.trouble("runs over a dim that follows the length")
    result = Value(
        value.dims, value.rows, made, made, spans,
        coupled=worst([value.coupled, coupled]), moved=worst([value.moved, moved]),
    )  # fmt: skip
    several = call.node.meta["val"]
    return result if isinstance(several, Tensor) else tuple(result for _ in several)


def _ranked(call: Call) -> Any:
    """``sort``, ``topk`` and the like along one dim."""
    value: Value = call["self"].plain()
    if "dim" not in call.given:
        return _reduced(call, value, range(len(value.dims)), "spread", lambda a: a)
    given = call.get("dim")
    axis = (-1 if given is None else given) % max(len(value.dims), 1)
    dim = value.dims[axis] if value.dims else ()
    coupled = moved = None
    if follows(dim, "rows"):
        coupled = call.trouble("sorts the rows of the batch")
    if follows(dim, "length"):
        moved = call.trouble("sorts the padding, too")
    several = call.node.meta["val"]
    results = []
    for index in range(1 if isinstance(several, Tensor) else len(several)):
        sizes = call.dims(None if isinstance(several, Tensor) else index)
        gone = len(sizes) < len(value.dims)
        own = () if gone else (sizes[axis],)
        if follows(dim, "length") or follows(dim, "rows"):
            own = () if gone else (dim,)
        spans = tuple(
            Span(value.range, value.range)
            for place in places(value.dims, "length")
            if not gone or place.dim != axis
        )
        number = value.range if index == 0 and len(sizes) == len(value.dims) else ANY
        results.append(
            Value(
                (*value.dims[:axis], *own, *value.dims[axis + 1 :]),
                value.rows,
                number,
                number,
                spans,
                coupled=worst([value.coupled, coupled]),
                moved=worst([value.moved, moved]),
            )
        )
    return results[0] if isinstance(several, Tensor) else tuple(results)


def _normalised(call: Call) -> Any:
    """Layer and RMS norm: over the last dims of a fixed size."""
    value: Value = (call.get("input") or call["self"]).plain()
    count = len(call["normalized_shape"])
    rank = len(value.dims)
    return _over(call, value, range(rank - count, rank))


def _over(call: Call, value: Value, axes: Sequence[int]) -> Any:
    """Scaled by statistics over ``axes``."""
    coupled = moved = None
    if any(follows(value.dims[axis], "rows") for axis in axes):
        coupled = call.trouble("takes statistics over the rows of the batch")
    if any(follows(value.dims[axis], "length") for axis in axes):
        moved = call.trouble("takes statistics over the padding")
    made = ANY if all(v.finite for v in call.tensors) else UNBOUNDED
    result = Value(
        value.dims, value.rows, made, made, (Span(made, made),) * len(value.spans),
        coupled=worst([coupled, *(v.plain().coupled for v in call.tensors)]),
        moved=worst([moved, *(v.moved for v in call.tensors)]),
    )  # fmt: skip
    several = call.node.meta["val"]
    if isinstance(several, Tensor):
        return result
    return tuple(result if i == 0 else _statistics(result, axes) for i in range(len(several)))


def _statistics(result: Value, axes: Sequence[int]) -> Value:
    kept = [p for p in places(result.dims, "length") if p.dim not in axes]
    dims = tuple(() if axis in axes else dim for axis, dim in enumerate(result.dims))
    return replace(result, dims=dims, spans=(Span(UNBOUNDED, UNBOUNDED),) * len(kept))


def _channels(call: Call) -> Any:
    """Group and instance norm: statistics over everything but the rows (and groups)."""
    value: Value = (call.get("input") or call["self"]).plain()
    if call.get("use_input_stats") is False:
        return _over(call, value, [])
    return _over(call, value, range(1, len(value.dims)))


def _batch_norm(call: Call) -> Any:
    """With the running statistics every entry is by itself; in training it is not."""
    value: Value = (call.get("input") or call["self"]).plain()
    training = call.get("training", call.get("train", False))
    return _over(call, value, [0, *range(2, len(value.dims))] if training else [])


RULES: dict[str, Rule] = {
    "sum": _reduction("sum"), "nansum": _reduction("sum"),
    "count_nonzero": _reduction("sum", lambda a: Interval(0.0, float(2**62))),
    "mean": _reduction("mean"), "amax": _reduction("max"), "amin": _reduction("min"),
    "max": _reduction("max"), "min": _reduction("min"), "argmax": _reduction("argmax"),
    "argmin": _reduction("argmin"), "any": _reduction("any"), "all": _reduction("all"),
    "prod": _reduction("prod"), "var": _reduction("spread"), "std": _reduction("spread"),
    "var_mean": _reduction("spread", lambda a: ANY if a.finite else UNBOUNDED),
    "norm": _reduction("sum", _size), "linalg_vector_norm": _reduction("sum", _size),
    "logsumexp": _reduction("logsumexp"), "softmax": _softmax, "_softmax": _softmax,
    "_safe_softmax": _softmax, "log_softmax": _softmax, "_log_softmax": _softmax,
    "cumsum": _running, "cumprod": _running, "cummax": _running, "cummin": _running,
    "logcumsumexp": _running, "sort": _ranked, "argsort": _ranked, "topk": _ranked,
    "kthvalue": _ranked, "median": _ranked, "mode": _ranked,
    "layer_norm": _normalised, "native_layer_norm": _normalised, "rms_norm": _normalised,
    "_fused_rms_norm": _normalised,
    "group_norm": _channels, "native_group_norm": _channels, "instance_norm": _channels,
    "batch_norm": _batch_norm, "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit": _batch_norm, "cudnn_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
}  # fmt: skip
