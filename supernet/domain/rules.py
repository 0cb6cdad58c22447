"""Rules by operator: what each makes of its arguments' ranges; none stands for "any number"."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from supernet.domain.arithmetic import ARITHMETIC
from supernet.domain.graph import ALIASES, dtype_of
from supernet.domain.interval import ANY, BIT, ValueRange
from supernet.domain.rule import Arguments, Ranges, Rule

__all__ = ["RULES"]


_ZERO = ValueRange(0, 0)


def _first(given: Arguments) -> Any:
    return next(iter(given.values()))


def _same(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    return v[_first(given)]


def _padded(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    fill = given.get("value")
    return v[_first(given)].hull(_ZERO if fill is None else v[fill])


def _clamp(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    found = v[_first(given)]
    low, high = given.get("min"), given.get("max")
    if low is not None:
        bound = v[low]
        found = ValueRange(max(found.least, bound.least), max(found.most, bound.most), found.below)
    if high is not None:
        bound = v[high]
        found = ValueRange(min(found.least, bound.least), min(found.most, bound.most), found.below)
    return found


def _minimum(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    a, b = (v[value] for value in list(given.values())[:2])
    below = a.below if a.below is not None else b.below
    return ValueRange(min(a.least, b.least), min(a.most, b.most), below)


def _maximum(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    a, b = (v[value] for value in list(given.values())[:2])
    return ValueRange(max(a.least, b.least), max(a.most, b.most))


def _where(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    condition = given["condition"]
    yes = v.refined(given["self"], condition, holds=True)
    return yes.hull(v.refined(given["other"], condition, holds=False))


def _masked_fill(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    return v.refined(given["self"], given["mask"], holds=False).hull(v[given["value"]])


def _count(v: Ranges, given: Arguments) -> tuple[ValueRange, Any]:
    """How many numbers each result takes in, and that as an expression where it is one size."""
    value = _first(given).meta["val"]
    dims = given.get("dim")
    chosen = range(value.ndim) if dims is None or dims == [] else dims
    chosen = [chosen] if isinstance(chosen, int) else list(chosen)
    if value.ndim == 0:
        return ValueRange(1, 1), None
    sizes = [value.shape[dim] for dim in chosen]
    count = ValueRange(1, 1)
    for size in sizes:
        count = count * v.sizes.bound(size)
    return count, sizes[0] if len(sizes) == 1 else None


def _sum(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    """Also of a running sum, whose parts take in fewer."""
    found, (count, size) = v[_first(given)], _count(v, given)
    parts = ValueRange(1, count.most) if "cumsum" in str(node.target) else count
    whole = found * parts
    if found.inside(0, 1) and size is not None:
        return ValueRange(whole.least, whole.most, v.sizes.expression(size) + 1)
    return whole


def _extreme(v: Ranges, node: Node, given: Arguments) -> ValueRange | tuple[ValueRange, ...]:
    found = v[_first(given)]
    if isinstance(node.meta.get("val"), (tuple, list)):
        return found, _positions(v, given, given.get("dim"))
    return v[given["self"]].hull(v[given["other"]]) if "other" in given else found


def _arg(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    return _positions(v, given, given.get("dim"))


def _sorted(v: Ranges, node: Node, given: Arguments) -> tuple[ValueRange, ...]:
    return v[_first(given)], _positions(v, given, given.get("dim", -1))


def _positions(v: Ranges, given: Arguments, dim: int | None) -> ValueRange:
    """Places along a dimension of the first argument."""
    value = _first(given).meta["val"]
    if dim is None or value.ndim == 0:
        return ValueRange(0, max(_count(v, {"self": _first(given)})[0].most - 1, 0))
    size = value.shape[dim]
    return ValueRange(0, v.sizes.bound(size).most - 1, v.sizes.expression(size))


def _arange(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    start, end, step = (v[given.get(name, default)] for name, default in
                        (("start", 0), ("end", None), ("step", 1)))  # fmt: skip
    if step.least != step.most or step.least <= 0 or not end.is_bounded:
        return start.hull(end)
    end_given = given["end"].meta.get("val") if isinstance(given["end"], Node) else given["end"]
    if "float" in (dtype_of(node) or "") or not isinstance(end_given, (int, torch.SymInt)):
        return ValueRange(start.least, max(end.most, start.least))
    return ValueRange(start.least, max(end.most - 1, start.least), v.sizes.expression(end_given))


def _full(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    key = next(key for key in ("fill_value", "value", "s") if key in given)
    return v[given[key]]


def _joined(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    ranges = [v[part] for part in _first(given)]
    whole = ranges[0]
    for one in ranges[1:]:
        whole = whole.hull(one)
    return whole


def _cast(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    found, dtype = v[_first(given)], dtype_of(node) or ""
    if "float" in dtype or not found.is_bounded:
        return found
    if dtype == "bool":
        return BIT
    return ValueRange(math.trunc(found.least), math.trunc(found.most), found.below)


def _scattered(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    new = given.get("src", given.get("value", given.get("values", given.get("source"))))
    return v[given["self"]].hull(v[new]) if new is not None else ANY


def _within(least: float, most: float) -> Rule:
    return lambda v, node, given: ValueRange(least, most)


def _of_size(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    """Places between the sorted borders of `bucketize` and `searchsorted`."""
    borders = given.get("boundaries", given.get("sorted_sequence"))
    value = borders.meta.get("val") if isinstance(borders, Node) else None
    if not isinstance(value, Tensor) or value.ndim == 0:
        return ANY
    return ValueRange(0, v.sizes.bound(value.shape[-1]).most)


def _getitem(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    parts, index = v.parts(node.args[0]), node.args[1]
    return parts[index] if isinstance(index, int) and index < len(parts) else v[node.args[0]]


def _positive(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    return ValueRange(0, math.inf)


def _relu(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    found = v[_first(given)]
    return ValueRange(max(found.least, 0), max(found.most, 0), found.below)


_GROUPS: dict[str, Rule] = {
    "eq ne lt le gt ge logical_and logical_or logical_not logical_xor isnan isinf isfinite any all "
    "isin": _within(0, 1),
    "sigmoid softmax _softmax hardsigmoid one_hot": _within(0, 1),
    "tanh sin cos erf cosine_similarity": _within(-1, 1),
    "exp rsqrt softplus square norm linalg_vector_norm var std cdist": _positive,
    "zeros zeros_like new_zeros": _within(0, 0),
    "ones ones_like new_ones": _within(1, 1),
    "full full_like new_full scalar_tensor fill": _full,
    "cat concat stack concatenate hstack vstack": _joined,
    "sort topk kthvalue": _sorted,
    "argmax argmin": _arg,
    "argsort": lambda v, node, given: _positions(v, given, given.get("dim", -1)),
    "max min amax amin median mean mode cummax cummin": _extreme,
    "sum cumsum": _sum,
    "to _to_copy type_as float long int double half bool _cast_Long": _cast,
    "scatter scatter_copy index_put slice_scatter select_scatter index_copy index_fill copy": (
        _scattered
    ),
    "bucketize searchsorted": _of_size,
}

RULES: dict[str, Rule] = {
    **ARITHMETIC,
    **dict.fromkeys(ALIASES, _same),
    **{name: rule for names, rule in _GROUPS.items() for name in names.split()},
    "tril": _padded,
    "triu": _padded,
    "diag_embed": _padded,
    "constant_pad_nd": _padded,
    "pad": _padded,
    "dropout": _padded,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "minimum": _minimum,
    "maximum": _maximum,
    "where": _where,
    "masked_fill": _masked_fill,
    "arange": _arange,
    "relu": _relu,
    "getitem": _getitem,
}
