"""Rules for arithmetic: what it makes of the ranges of its operands."""

from __future__ import annotations

import math
from typing import Any

from torch.fx import Node

from supernet.domain.graph import dtype_of
from supernet.domain.interval import ANY, BIT, ValueRange
from supernet.domain.rule import Arguments, Ranges, Rule

__all__ = ["ARITHMETIC"]


def _first(given: Arguments) -> Any:
    return next(iter(given.values()))


def _add(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    return v[given["self"]] + v[given["other"]] * v[given.get("alpha", 1)]


def _sub(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    return v[given["self"]] + -(v[given["other"]] * v[given.get("alpha", 1)])


def _rsub(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    return v[given["other"]] + -(v[given["self"]] * v[given.get("alpha", 1)])


def _mul(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    return v[given["self"]] * v[given["other"]]


def _quotient(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    """Division by numbers of one sign, rounded as asked."""
    top, bottom = v[given["self"]], v[given["other"]]
    if bottom.least <= 0 <= bottom.most or not bottom.is_bounded:
        return ANY
    ends = [a / b if isinstance(a, float) else _exact(a, b) for a in top.ends for b in bottom.ends]
    least, most = min(ends), max(ends)
    mode = given.get("rounding_mode") if "rounding_mode" in given else None
    if dtype_of(node) in ("float32", "float64", "float16", "bfloat16") and mode is None:
        return ValueRange(least, most)
    return ValueRange(_floor(least), math.ceil(most) if math.isfinite(most) else most)


def _exact(a: float, b: float) -> float:
    whole, rest = divmod(a, b)
    return whole if rest == 0 else whole + 0.5  # enough to round either way


def _floor(value: float) -> float:
    return math.floor(value) if math.isfinite(value) else value


def _remainder(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    top, bottom = v[given["self"]], v[given["other"]]
    if bottom.least <= 0 or not bottom.is_bounded:
        return ANY
    step = 0 if "float" in (dtype_of(node) or "") else 1
    if top.least >= 0 and top.most < bottom.least:
        return top
    return ValueRange(0, bottom.most - step)


def _fmod(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    most = max(abs(end) for end in v[given["other"]].ends)
    top = v[given["self"]]
    return ValueRange(0 if top.least >= 0 else -most, 0 if top.most <= 0 else most)


def _and(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    a, b = (v[value] for value in list(given.values())[:2])
    positive = [one.most for one in (a, b) if one.least >= 0]
    return ValueRange(0, min(positive)) if positive else ANY


def _or(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    a, b = (v[value] for value in list(given.values())[:2])
    most = max(a.most, b.most)
    if min(a.least, b.least) < 0 or not math.isfinite(most):
        return ANY
    return ValueRange(0, (1 << int(most).bit_length()) - 1)


def _not(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    return BIT if dtype_of(node) == "bool" else -v[_first(given)] + ValueRange(-1, -1)


def _left(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    a, by = (v[value] for value in list(given.values())[:2])
    if by.least < 0 or by.most > 62:
        return ANY
    return a * ValueRange(2 ** int(by.least), 2 ** int(by.most))


def _right(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    a, by = (v[value] for value in list(given.values())[:2])
    if by.least < 0 or by.most > 62 or not a.is_bounded:
        return ANY
    ends = [int(end) >> int(bits) for end in a.ends for bits in by.ends]
    return ValueRange(min(ends), max(ends))


def _neg(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    return -v[_first(given)]


def _abs(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    found = v[_first(given)]
    ends = [abs(end) for end in found.ends]
    return ValueRange(0 if found.least <= 0 <= found.most else min(ends), max(ends))


def _sign(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    found = v[_first(given)]
    return ValueRange(0 if found.least >= 0 else -1, 0 if found.most <= 0 else 1)


def _rounded(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    found = v[_first(given)]
    least, most = _floor(found.least), -_floor(-found.most)
    return ValueRange(least, most)


def _pow(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    base, power = v[_first(given)], list(given.values())[1]
    if not isinstance(power, (int, float)) or power != int(power) or not 0 <= power <= 64:
        return ValueRange(0, math.inf) if base.least >= 0 else ANY
    if not base.is_bounded or isinstance(base.least, float):  # whose power may overflow
        return ValueRange(0, math.inf) if power % 2 == 0 or base.least >= 0 else ANY
    ends = [end ** int(power) for end in base.ends]
    crosses = power % 2 == 0 and base.least <= 0 <= base.most
    return ValueRange(0 if crosses else min(ends), max(ends))


def _sqrt(v: Ranges, node: Node, given: Arguments) -> ValueRange:
    found = v[_first(given)].meet(0, math.inf)
    return ValueRange(math.sqrt(found.least), math.sqrt(found.most))


_GROUPS: dict[str, Rule] = {
    "add": _add,
    "sub": _sub,
    "rsub": _rsub,
    "mul": _mul,
    "div true_divide floor_divide": _quotient,
    "remainder": _remainder,
    "fmod": _fmod,
    "bitwise_and __and__": _and,
    "bitwise_or __or__ bitwise_xor __xor__": _or,
    "bitwise_not": _not,
    "bitwise_left_shift __lshift__": _left,
    "bitwise_right_shift __rshift__": _right,
    "neg": _neg,
    "abs": _abs,
    "sign": _sign,
    "floor ceil round trunc": _rounded,
    "pow": _pow,
    "sqrt": _sqrt,
}
ARITHMETIC = {name: rule for names, rule in _GROUPS.items() for name in names.split()}
"""By operator."""
