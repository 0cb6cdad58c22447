"""Sums of products: matrix products, einsum, convolutions, attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from supernet.dataflow.interpreter import Call, Rule, top
from supernet.dataflow.intervals import ANY, FALSE, UNBOUNDED, ZERO, Interval, pointwise
from supernet.dataflow.pointwise import combine
from supernet.dataflow.reductions import GAP, hidden
from supernet.dataflow.sizes import Dim, Odd, Size
from supernet.dataflow.values import Span, Trouble, Value, follows, places, worst
from supernet.dataflow.views import moved_axes

__all__ = ["RULES", "contract"]

Labelled = tuple[Value, str]


def contract(call: Call, operands: Sequence[Labelled], out: str) -> Any:
    """A sum of products over every label that is not in ``out``, as einsum writes it."""
    of: dict[str, Dim] = {}
    for value, labels in operands:
        for label, dim in zip(labels, value.dims, strict=True):
            known = of.setdefault(label, dim)
            differ = known and dim and known != dim
            if differ and any(not isinstance(factor, int) for factor in (*known, *dim)):
                return top(call, "pairs rows or lengths that lie differently", sure=True)
            of[label] = known or dim
    plain = [(value.plain(), labels) for value, labels in operands]
    summed = [label for label in of if label not in out]
    dims = tuple(of[label] for label in out)
    coupled, moved = call.scalar_troubles()
    if any(follows(of[label], "rows") for label in summed):
        coupled = call.trouble("sums over the rows of the batch")
    elif len(places(dims, "rows")) > 1:
        coupled = call.trouble("meets every row with every other")
    for label in summed:
        moved = worst([moved, _over_length(call, plain, label, of[label])])
    made = ANY if all(value.finite for value, _ in plain) else UNBOUNDED
    spans = tuple(
        Span(_padded(plain, out[place.dim], place.factor, made), made)
        for place in places(dims, "length")
    )
    return Value(
        dims,
        "same" if all(value.rows == "same" for value, _ in plain) else "own",
        made,
        made,
        spans,
        coupled=worst([*(value.coupled for value, _ in plain), coupled]),
        moved=worst([*(value.moved for value, _ in plain), moved]),
    )


def _pads(operands: Sequence[Labelled], label: str, factor: int) -> list[Interval]:
    """What each operand has at the padded places of ``label``; all of it where it has no such."""
    found = []
    for value, labels in operands:
        interval = value.range
        if label in labels:
            where = places(value.dims, "length")
            at = [i for i, p in enumerate(where) if p == (labels.index(label), factor)]
            interval = value.spans[at[0]].pad if at else value.range
        found.append(interval)
    return found


def _over_length(call: Call, operands: Sequence[Labelled], label: str, dim: Dim) -> Trouble | None:
    for factor, kind in enumerate(dim):
        if isinstance(kind, Odd) and kind.length:
            return call.trouble("sums over a dim that follows the length")
        if kind != "length":
            continue
        pads = _pads(operands, label, factor)
        if not (any(pad.zero for pad in pads) and all(pad.finite for pad in pads)):
            return call.trouble("sums over the padding", sure=all(pad.tame for pad in pads))
    return None


def _padded(operands: Sequence[Labelled], label: str, factor: int, made: Interval) -> Interval:
    if made is UNBOUNDED:
        return UNBOUNDED
    return ZERO if any(pad.zero for pad in _pads(operands, label, factor)) else made


def _matmul(call: Call) -> Any:
    a, b = call.tensors[:2]
    return _product(call, a, b)


def _product(call: Call, a: Value, b: Value) -> Any:
    """``torch.matmul``, with its batch dims broadcast."""
    left, right = len(a.dims), len(b.dims)
    batch = "bcdefghij"[: max(left, right) - 2] if max(left, right) > 2 else ""
    inner = "k"
    a_labels = batch[len(batch) - (left - 2) :] + "m" + inner if left > 1 else inner
    b_labels = batch[len(batch) - (right - 2) :] + inner + "n" if right > 1 else inner
    out = batch + ("m" if left > 1 else "") + ("n" if right > 1 else "")
    return contract(call, [(a, a_labels), (b, b_labels)], out)


def _linear(call: Call) -> Any:
    value, weight = call["input"], call["weight"]
    rank = len(weight.dims)
    made = _product(call, value, moved_axes(weight, list(range(rank))[::-1]))
    return _added(call, made, call.get("bias"))


def _added(call: Call, made: Any, bias: Value | None) -> Any:
    return made if bias is None else combine(call, [made, bias], pointwise("add"))


def _plus_product(call: Call) -> Any:
    """``addmm``, ``baddbmm``, ``addmv``."""
    first, a, b = call.tensors[:3]
    if call.get("beta", 1) != 1 or call.get("alpha", 1) != 1:
        added = combine(call, [first], lambda i: ANY if i.finite else UNBOUNDED)
        return _added(call, _product(call, a, b), added)
    return _added(call, _product(call, a, b), first)


def _einsum(call: Call) -> Any:
    equation = str(call["equation"]).replace(" ", "")
    tensors: list[Value] = call["tensors"]
    if "." in equation:
        return top(call, "is an einsum with an ellipsis", sure=False)
    given, arrow, out = equation.partition("->")
    parts = given.split(",")
    if not arrow:
        letters = "".join(parts)
        out = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    if any(len(set(part)) != len(part) for part in parts):
        return top(call, "is an einsum over a diagonal", sure=False)
    return contract(call, list(zip(tensors, parts, strict=True)), out)


def _convolution(call: Call) -> Any:
    value: Value = (call.get("input") or call["self"]).plain()
    weight: Value = call["weight"]
    spatial = len(weight.dims) - 2
    if len(value.dims) != spatial + 2 or not _fixed(call.tensors[1:]):
        return top(call, "is a convolution without a batch, or by other than weights", sure=False)
    coupled = moved = None
    if any(follows(dim, "rows") for dim in value.dims[1:]):
        coupled = call.trouble("mixes the rows of the batch")
    if follows(value.dims[1], "length"):
        moved = call.trouble("sums over the padding")
    sizes = call.dims()
    dims: list[Dim] = [value.dims[0], *sizes[1:]]
    made = ANY if all(v.finite for v in call.tensors) else UNBOUNDED
    spans = [Span(made, made) for place in places(value.dims, "length") if place.dim == 0]
    where = places(value.dims, "length")
    for axis in range(2, len(value.dims)):
        dim = value.dims[axis]
        if not follows(dim, "length"):
            continue
        if dim == ("length",) == sizes[axis] and _reaches(call, axis - 2) == 0:
            span = value.spans[next(i for i, p in enumerate(where) if p.dim == axis)]
            wide = _width(weight, axis) > 1
            if wide and not span.pad.zero:
                what = "reaches from the last position into the padding"
                moved = worst([moved, call.trouble(what, sure=span.pad.tame)])
            spans.append(Span(made, made))
        else:
            moved = worst(
                [moved, call.trouble("makes another length of the padded one", sure=False)]
            )
            spans += [Span(made, made)] * len(places((sizes[axis],), "length"))
    return Value(
        tuple(dims), value.rows, made, made, tuple(spans),
        coupled=worst([coupled, *(v.plain().coupled for v in call.tensors)]),
        moved=worst([moved, *(v.moved for v in call.tensors)]),
    )  # fmt: skip


def _sizes(argument: Any) -> list[Size]:
    if isinstance(argument, Size):
        return [argument]
    items = argument if isinstance(argument, (list, tuple)) else ()
    return [size for item in items for size in _sizes(item)]


def _fixed(others: Sequence[Value]) -> bool:
    """Whether these are the same for every request, whatever its length."""
    return all(
        v.rows == "same"
        and not any(follows(dim, "rows") or follows(dim, "length") for dim in v.dims)
        for v in others
    )


def _width(weight: Value, axis: int) -> int:
    dim = weight.dims[axis]
    return int(dim[0]) if dim and isinstance(dim[0], int) else 1


def _reaches(call: Call, axis: int) -> int:
    """0 for a convolution with stride 1 that is not transposed: position i comes from around i."""
    stride = call.get("stride", 1)
    stride = stride if isinstance(stride, int) else list(stride)[min(axis, len(stride) - 1)]
    return 0 if stride == 1 and not call.get("transposed", False) else 1


def _pooled(call: Call) -> Any:
    """Pooling and resampling over dims of a fixed size."""
    value: Value = (call.get("self") or call.get("input") or call.tensors[0]).plain()
    several = call.node.meta["val"]
    first = call.dims(None if not isinstance(several, (tuple, list)) else 0)[0]
    if first != value.dims[0] or not _fixed(call.tensors[1:]):
        return top(call, "changes its first dim, or is by other than weights", sure=False)
    sizes_given = [s for argument in call.given.values() for s in _sizes(argument)]
    coupled = moved = None
    if any(size.follows("rows") for size in sizes_given):
        coupled = call.trouble("computes with the number of rows")
    if any(size.follows("length") for size in sizes_given):
        moved = call.trouble("computes with the padded length")
    if any(follows(dim, "rows") for dim in value.dims[1:]):
        coupled = call.trouble("mixes the rows of the batch")
    if any(follows(dim, "length") for dim in value.dims):
        moved = call.trouble("goes over the padding")
    bound = value.range if "max" in call.name or "avg" in call.name else UNBOUNDED
    if "avg" in call.name and bound.finite:
        bound = bound.hull(ZERO)
    made = bound if bound.finite else UNBOUNDED
    sizes = call.dims(None if not isinstance(several, (tuple, list)) else 0)
    dims = (value.dims[0], *sizes[1:])
    result = Value(
        dims, value.rows, made, made, (Span(made, made),) * len(places(dims, "length")),
        coupled=worst([value.coupled, coupled]), moved=worst([value.moved, moved]),
    )  # fmt: skip
    if not isinstance(several, (tuple, list)):
        return result
    index = replace(result, valid=ANY, range=ANY)
    return tuple(result if i == 0 else index for i in range(len(several)))


def _attention(call: Call) -> Any:
    """Scaled dot product attention: queries [..., L, E], keys [..., S, E], values [..., S, V]."""
    query, key, value = (call[name].plain() for name in ("query", "key", "value"))
    mask = call.get("attn_mask")
    batch = "bcdefghij"[: len(query.dims) - 2]
    if call.get("enable_gqa"):
        repeated = any(v.dims[-3] != query.dims[-3] for v in (key, value))
        if repeated:  # groups of heads, numbers alone
            key, value = (_ungrouped(v, query) for v in (key, value))
    weights = contract(call, [(query, batch + "le"), (key, batch + "se")], batch + "ls")
    if not isinstance(weights, Value) or weights.coupled:
        return top(call, "attends to other rows", sure=True)
    if follows(weights.dims[-1], "rows"):
        return top(call, "attends to other rows", sure=True)
    trouble = None
    if weights.dims[-1] == ("length",):
        if not _masked(call, weights, mask):
            trouble = call.trouble("attends to the padding", sure=_surely_seen(mask))
    elif follows(weights.dims[-1], "length"):
        trouble = call.trouble("attends over a dim that follows the length")
    silenced = tuple(Span(ZERO, span.first) for span in weights.spans)
    scores = replace(weights, spans=silenced)
    made = contract(call, [(scores, batch + "ls"), (value, batch + "sv")], batch + "lv")
    if not isinstance(made, Value):
        return made
    others = [mask.plain()] if isinstance(mask, Value) else []
    numbers = ANY if value.finite else UNBOUNDED
    return replace(
        made, valid=numbers, range=numbers, spans=(Span(numbers, numbers),) * len(made.spans),
        coupled=worst([made.coupled, *(v.coupled for v in others), _mask_rows(call, made, others)]),
        moved=worst([made.moved, *(v.moved for v in others), trouble]),
        rows="own" if any(v.rows != "same" for v in others) else made.rows,
    )  # fmt: skip


def _mask_rows(call: Call, made: Value, masks: Sequence[Value]) -> Trouble | None:
    """A mask's rows must lie where the queries' rows do."""
    rank = len(made.dims)
    own = {place.dim - rank for place in places(made.dims, "rows")}
    found = {place.dim - len(mask.dims) for mask in masks for place in places(mask.dims, "rows")}
    return None if found <= own else call.trouble("has a mask for other rows")


def _ungrouped(value: Value, query: Value) -> Value:
    dims = (*value.dims[:-3], query.dims[-3], *value.dims[-2:])
    return replace(value, dims=dims)


def _masked(call: Call, weights: Value, mask: Any) -> bool:
    """Whether no valid query sees a padded key."""
    if call.get("is_causal") and weights.dims[-2] == ("length",):
        return True
    if not isinstance(mask, Value) or not mask.dims or mask.dims[-1] != ("length",):
        return False
    span = mask.spans[-1]
    if span.pad == FALSE and _is_boolean(call):
        return True  # a query that sees no key at all gets the same with and without padding
    if _is_boolean(call):
        return False
    scores = Span(*(pointwise("add")(ANY, interval) for interval in span))
    return hidden(scores) or span.first.lo - span.pad.hi >= GAP + 2 * ANY.hi


def _surely_seen(mask: Any) -> bool:
    if not isinstance(mask, Value) or not mask.spans:
        return True
    pad = mask.spans[-1].pad
    return pad.tame and pad.hi > -GAP and pad != Interval(0.0, 1.0)


def _is_boolean(call: Call) -> bool:
    import torch

    mask = call.node.kwargs.get("attn_mask")
    if mask is None and len(call.node.args) > 3:
        mask = call.node.args[3]
    made = getattr(mask, "meta", {}).get("val")
    return isinstance(made, torch.Tensor) and made.dtype is torch.bool


def _distances(call: Call) -> Any:
    """Of every vector [P, M] to every other [R, M]."""
    batch = "bcdefghij"[: len(call["x1"].dims) - 2]
    return contract(call, [(call["x1"], batch + "pm"), (call["x2"], batch + "rm")], batch + "pr")


def _spectrum(call: Call) -> Any:
    """Fourier transforms over dims of a fixed size."""
    value: Value = call["self"].plain()
    axes = [axis % len(value.dims) for axis in call["dim"]]
    coupled = moved = None
    if any(follows(value.dims[axis], "rows") for axis in axes):
        coupled = call.trouble("sums over the rows of the batch")
    if any(follows(value.dims[axis], "length") for axis in axes):
        moved = call.trouble("sums over the padding")
    made = call.dims()
    dims = tuple(made[axis] if axis in axes else dim for axis, dim in enumerate(value.dims))
    return Value(
        dims, value.rows, UNBOUNDED, UNBOUNDED,
        (Span(UNBOUNDED, UNBOUNDED),) * len(places(dims, "length")),
        coupled=worst([value.coupled, coupled]), moved=worst([value.moved, moved]),
    )  # fmt: skip


def _sampled(call: Call) -> Any:
    """``grid_sampler``: an image [B, C, H, W] read where [B, H, W, 2] says."""
    image, grid = call["input"].plain(), call["grid"].plain()
    symbolic = any(not isinstance(f, int) for v in (image, grid) for dim in v.dims[1:] for f in dim)
    if symbolic or image.dims[0] != grid.dims[0]:
        return top(call, "samples rows or lengths that lie differently", sure=False)
    own = "same" if image.rows == grid.rows == "same" else "own"
    return Value(
        (image.dims[0], *call.dims()[1:]), own, UNBOUNDED, UNBOUNDED,  # type: ignore[arg-type]
        coupled=worst([image.coupled, grid.coupled]), moved=worst([image.moved, grid.moved]),
    )  # fmt: skip


RULES: dict[str, Rule] = {
    "_cdist_forward": _distances, "cdist": _distances, "grid_sampler_2d": _sampled,
    "grid_sampler": _sampled, "_fft_r2c": _spectrum, "_fft_c2r": _spectrum, "_fft_c2c": _spectrum,
    "matmul": _matmul, "mm": _matmul, "bmm": _matmul, "mv": _matmul, "dot": _matmul,
    "linear": _linear, "addmm": _plus_product, "baddbmm": _plus_product, "addmv": _plus_product,
    "einsum": _einsum, "convolution": _convolution,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(
        ("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
         "max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d_with_indices",
         "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
         "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool1d",
         "adaptive_max_pool2d", "adaptive_max_pool3d", "upsample_nearest1d", "upsample_nearest2d",
         "upsample_nearest3d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d",
         "upsample_trilinear3d", "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa",
         "_upsample_bicubic2d_aa", "pixel_shuffle", "pixel_unshuffle", "reflection_pad1d",
         "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d",
         "replication_pad3d", "channel_shuffle",
         "im2col", "col2im", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
         "glu", "avg_pool2d"), _pooled),
    "scaled_dot_product_attention": _attention,
}  # fmt: skip
