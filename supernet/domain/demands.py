"""Demands of an operator on a number inside the program, traced back to demands on the inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch.fx import Node

from supernet.domain.graph import ALIASES, arguments, dtype_of, name_of
from supernet.domain.indices import Requirement
from supernet.domain.interval import ValueRange
from supernet.domain.values import Values

__all__ = ["Narrowing"]

_Part: TypeAlias = tuple[Any, float, float]
"""An argument, and the least and the most that it may be."""

_POINTS = frozenset(("index_select", "gather", "take", "take_along_dim", "index", "embedding"))


class Narrowing:
    """Ranges of the inputs, by placeholder name, under which demands are met."""

    def __init__(self, values: Values, leaves: Mapping[str, ValueRange]) -> None:
        self._values = values
        self.leaves = dict(leaves)

    def meets(self, demand: Requirement) -> bool:
        """Whether the demand is met, if need be by narrowing ``leaves``."""
        found = self._values[demand.operand]
        if self._points_within(found, demand):
            return True
        if demand.size is None and found.most < 0:
            return True  # a negative divisor
        before = dict(self.leaves)
        if self._ask(demand.operand, demand.least, demand.most, depth=0):
            return True
        self.leaves = before
        return False

    def _points_within(self, found: ValueRange, demand: Requirement) -> bool:
        """Whether places along a free dimension are proven to lie in one of that very size."""
        if found.inside(demand.least, demand.most):
            return True
        if found.below is None or demand.size is None or found.least < demand.least:
            return False
        room = self._values.sizes.expression(demand.size) - found.below
        return room >= 0 if isinstance(room, int) else bool(room.is_nonnegative)

    def _ask(self, value: Any, least: float, most: float, depth: int) -> bool:
        if self._values[value].inside(least, most):
            return True
        if not isinstance(value, Node) or depth > 100:
            return False
        if value.name in self.leaves:
            held = self.leaves[value.name]
            low, high = max(held.least, least), min(held.most, most)
            if low > high or "float" in (dtype_of(value) or ""):
                return False
            self.leaves[value.name] = ValueRange(low, high)
            return True
        way = _WAYS.get(name_of(value))
        if way is None:
            return False
        parts = way(self._values, arguments(value), least, most)
        return parts is not None and all(self._ask(*part, depth + 1) for part in parts)


Way: TypeAlias = Callable[[Values, dict[str, Any], float, float], list[_Part] | None]


def _all(v: Values, given: dict[str, Any], least: float, most: float) -> list[_Part]:
    return [(next(iter(given.values())), least, most)]


def _moved(v: Values, given: dict[str, Any], least: float, most: float) -> list[_Part] | None:
    """A sum: whichever part is known leaves room for the other."""
    a, b = given["self"], given["other"]
    if given.get("alpha", 1) != 1:
        return None
    mine, other = (a, b) if v[b].is_bounded and _is_narrower(v[b], v[a]) else (b, a)
    known = v[other]
    return [(mine, least - known.least, most - known.most)] if known.is_bounded else None


def _taken(v: Values, given: dict[str, Any], least: float, most: float) -> list[_Part] | None:
    a, b = given["self"], given["other"]
    if given.get("alpha", 1) != 1:
        return None
    if v[b].is_bounded and _is_narrower(v[b], v[a]):
        return [(a, least + v[b].most, most + v[b].least)]
    return [(b, v[a].most - most, v[a].least - least)] if v[a].is_bounded else None


def _is_narrower(a: ValueRange, b: ValueRange) -> bool:
    return a.most - a.least <= b.most - b.least


def _scaled(v: Values, given: dict[str, Any], least: float, most: float) -> list[_Part] | None:
    a, b = given["self"], given["other"]
    if v[a].least == v[a].most:
        a, b = b, a
    factor = v[b].least
    if factor != v[b].most or factor <= 0 or not math.isfinite(most):
        return None
    return [(a, math.ceil(least / factor), math.floor(most / factor))]


def _divided(v: Values, given: dict[str, Any], least: float, most: float) -> list[_Part] | None:
    by = v[given["other"]]
    if by.least != by.most or by.least <= 0 or given.get("rounding_mode", "floor") != "floor":
        return None
    return [(given["self"], least * by.least, most * by.least + by.least - 1)]


def _chosen(v: Values, given: dict[str, Any], least: float, most: float) -> list[_Part]:
    """Both branches, unless the condition itself keeps one within bounds."""
    return [
        (given[name], least, most)
        for name, holds in (("self", True), ("other", False))
        if not v.refined(given[name], given["condition"], holds=holds).inside(least, most)
    ]


def _filled(v: Values, given: dict[str, Any], least: float, most: float) -> list[_Part]:
    kept = v.refined(given["self"], given["mask"], holds=False).inside(least, most)
    return [(given["value"], least, most), *([] if kept else [(given["self"], least, most)])]


def _clamped(v: Values, given: dict[str, Any], least: float, most: float) -> list[_Part] | None:
    low = v[given["min"]] if given.get("min") is not None else None
    high = v[given["max"]] if given.get("max") is not None else None
    if (low is not None and low.most > most) or (high is not None and high.least < least):
        return None
    keeps_low = low is not None and low.least >= least
    keeps_high = high is not None and high.most <= most
    return [(given["self"], -math.inf if keeps_low else least, math.inf if keeps_high else most)]


def _each(v: Values, given: dict[str, Any], least: float, most: float) -> list[_Part]:
    return [(part, least, most) for part in next(iter(given.values()))]


def _two(v: Values, given: dict[str, Any], least: float, most: float) -> list[_Part]:
    return [(part, least, most) for part in list(given.values())[:2]]


_WAYS: dict[str, Way] = {
    **dict.fromkeys(ALIASES, _all),
    **dict.fromkeys(("to", "_to_copy", "type_as", "long", "amax", "amin", "getitem"), _all),
    **dict.fromkeys(("cat", "concat", "stack", "concatenate"), _each),
    **dict.fromkeys(("minimum", "maximum"), _two),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max"), _clamped),
    "add": _moved,
    "sub": _taken,
    "mul": _scaled,
    "floor_divide": _divided,
    "where": _chosen,
    "masked_fill": _filled,
}
