"""Ranges of numbers, and what pointwise operators make of them.

Interval arithmetic (Moore, "Interval Analysis", 1966) with one assumption, stated once: values that
a model computes from finite inputs stay below ``TAME`` in size, so that the sum of such a value and
the lowest float32 is still lower than any other. What leaves that range is not bounded at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

__all__ = ["ANY", "BIT", "FALSE", "TAME", "TRUE", "UNBOUNDED", "ZERO", "Interval", "pointwise"]

TAME = 1e30


class Interval(NamedTuple):
    """Numbers from ``lo`` to ``hi``, both included, and whether a NaN may be among them."""

    lo: float
    hi: float
    nan: bool = False

    @property
    def finite(self) -> bool:
        return not self.nan and self.lo > -math.inf and self.hi < math.inf

    @property
    def tame(self) -> bool:
        return not self.nan and self.lo >= -TAME and self.hi <= TAME

    @property
    def zero(self) -> bool:
        return self == ZERO

    def hull(self, other: Interval) -> Interval:
        return Interval(min(self.lo, other.lo), max(self.hi, other.hi), self.nan or other.nan)

    @staticmethod
    def at(value: float) -> Interval:
        """The one number ``value``."""
        return Interval(0.0, 0.0, True) if math.isnan(value) else Interval(value, value)


ZERO = Interval(0.0, 0.0)
FALSE, TRUE, BIT = ZERO, Interval(1.0, 1.0), Interval(0.0, 1.0)
ANY = Interval(-TAME, TAME)
"""What a layer computes from finite inputs."""
UNBOUNDED = Interval(-math.inf, math.inf, True)

Rule: TypeAlias = Callable[..., Interval]


def pointwise(name: str) -> Rule:
    """The rule for the operator ``aten::name``; nothing is known of those without one."""
    return _RULES.get(name, lambda *operands: UNBOUNDED)


def _kept(result: Interval, *operands: Interval) -> Interval:
    """``result``, within what tame operands can give."""
    if all(operand.tame for operand in operands):
        return Interval(max(result.lo, -TAME), min(result.hi, TAME), result.nan)
    return result


def _corners(f: Callable[[float, float], float], a: Interval, b: Interval) -> Interval:
    found = [f(x, y) for x in a[:2] for y in b[:2]]
    if any(math.isnan(value) for value in found):
        return UNBOUNDED
    return _kept(Interval(min(found), max(found), a.nan or b.nan), a, b)


def _add(a: Interval, b: Interval) -> Interval:
    # An infinity of one sign stays one; of both signs their sum is a NaN.
    clash = (a.lo == -math.inf and b.hi == math.inf) or (a.hi == math.inf and b.lo == -math.inf)
    if clash:
        return UNBOUNDED
    return _kept(Interval(a.lo + b.lo, a.hi + b.hi, a.nan or b.nan), a, b)


def _neg(a: Interval) -> Interval:
    return Interval(-a.hi, -a.lo, a.nan)


def _sub(a: Interval, b: Interval) -> Interval:
    return _add(a, _neg(b))


def _times(x: float, y: float) -> float:
    return math.nan if 0.0 in (x, y) and math.inf in (abs(x), abs(y)) else x * y


def _mul(a: Interval, b: Interval) -> Interval:
    if (a.zero and not b.finite) or (b.zero and not a.finite):
        return UNBOUNDED
    return _corners(_times, a, b)


def _div(a: Interval, b: Interval) -> Interval:
    if b.nan or b.lo <= 0.0 <= b.hi:
        return UNBOUNDED
    return _mul(a, Interval(1.0 / b.hi, 1.0 / b.lo))


def _monotone(f: Callable[[float], float]) -> Rule:
    def rule(a: Interval, *rest: object) -> Interval:
        return Interval(_safely(f, a.lo), _safely(f, a.hi), a.nan)

    return rule


def _safely(f: Callable[[float], float], x: float) -> float:
    try:
        return f(x)
    except OverflowError:
        return math.inf


def _bounded(lo: float, hi: float) -> Rule:
    """A function with these values for every number, infinities included."""
    return lambda a, *rest: Interval(lo, hi, a.nan)


def _periodic(a: Interval, *rest: object) -> Interval:
    return Interval(-1.0, 1.0, not a.finite)


def _abs(a: Interval) -> Interval:
    least = 0.0 if a.lo <= 0.0 <= a.hi else min(abs(a.lo), abs(a.hi))
    return Interval(least, max(abs(a.lo), abs(a.hi)), a.nan)


def _exp(a: Interval) -> Interval:
    return _kept(Interval(_safely(math.exp, a.lo), _safely(math.exp, a.hi), a.nan), a)


def _log(a: Interval) -> Interval:
    if a.lo <= 0.0:
        return UNBOUNDED if a.lo < 0.0 else Interval(-math.inf, _log_of(a.hi), a.nan)
    return Interval(math.log(a.lo), _log_of(a.hi), a.nan)


def _log_of(x: float) -> float:
    return math.log(x) if 0.0 < x < math.inf else (math.inf if x > 0 else -math.inf)


def _sqrt(a: Interval) -> Interval:
    if a.lo < 0.0:
        return UNBOUNDED
    return Interval(math.sqrt(a.lo), math.sqrt(a.hi), a.nan)


def _reciprocal(a: Interval) -> Interval:
    return _div(TRUE, a)


def _rsqrt(a: Interval) -> Interval:
    return _reciprocal(_sqrt(a)) if a.lo >= 0.0 else UNBOUNDED


def _pow(a: Interval, b: Interval) -> Interval:
    if b.lo != b.hi:
        return UNBOUNDED
    if b.lo == 0.5:
        return _sqrt(a)
    if b.lo == -0.5:
        return _rsqrt(a)
    if b.lo == 2.0:
        bound = _abs(a)
        return _kept(Interval(bound.lo * bound.lo, bound.hi * bound.hi, a.nan), a)
    if b.lo == 1.0:
        return a
    whole = b.lo > 0.0 and b.lo == int(b.lo)
    return _kept(Interval(-math.inf, math.inf, a.nan), a) if whole and a.tame else UNBOUNDED


def _gated(a: Interval, *rest: object) -> Interval:
    """GELU, SiLU and the like: between the number and a little below zero."""
    if not a.finite:
        return UNBOUNDED
    return Interval(min(a.lo, -0.5) if a.lo < 0.0 else 0.0, max(a.hi, 0.0))


def _through_zero(a: Interval, *rest: object) -> Interval:
    """Functions that leave zero as it is."""
    if a.zero:
        return ZERO
    return ANY if a.finite else UNBOUNDED


def _max(a: Interval, b: Interval) -> Interval:
    return Interval(max(a.lo, b.lo), max(a.hi, b.hi), a.nan or b.nan)


def _min(a: Interval, b: Interval) -> Interval:
    return Interval(min(a.lo, b.lo), min(a.hi, b.hi), a.nan or b.nan)


def _clamp(a: Interval, least: Interval | None = None, most: Interval | None = None) -> Interval:
    a = a if least is None else _max(a, least)
    return a if most is None else _min(a, most)


def _where(condition: Interval, a: Interval, b: Interval) -> Interval:
    if condition == TRUE:
        return a
    return b if condition == FALSE else a.hull(b)


def _masked_fill(a: Interval, mask: Interval, value: Interval) -> Interval:
    return _where(mask, value, a)


def _compare(sure: Callable[[Interval, Interval], bool | None]) -> Rule:
    def rule(a: Interval, b: Interval) -> Interval:
        decided = None if a.nan or b.nan else sure(a, b)
        return BIT if decided is None else (TRUE if decided else FALSE)

    return rule


def _less(a: Interval, b: Interval) -> bool | None:
    return True if a.hi < b.lo else (False if a.lo >= b.hi else None)


def _equal(a: Interval, b: Interval) -> bool | None:
    if a.lo == a.hi == b.lo == b.hi:
        return True
    return False if a.hi < b.lo or b.hi < a.lo else None


def _opposite(of: Callable[[Interval, Interval], bool | None]) -> Callable[..., bool | None]:
    def decided(a: Interval, b: Interval) -> bool | None:
        found = of(a, b)
        return None if found is None else not found

    return decided


def _truth(a: Interval) -> Interval:
    """The number as a boolean: nonzero, a NaN included."""
    if a.zero:
        return FALSE
    return TRUE if not a.lo <= 0.0 <= a.hi and not a.nan else BIT


def _and(a: Interval, b: Interval) -> Interval:
    a, b = _truth(a), _truth(b)
    return Interval(a.lo * b.lo, a.hi * b.hi)


def _or(a: Interval, b: Interval) -> Interval:
    return _max(_truth(a), _truth(b))


def _not(a: Interval) -> Interval:
    a = _truth(a)
    return Interval(1.0 - a.hi, 1.0 - a.lo)


def _is_nan(a: Interval) -> Interval:
    return BIT if a.nan else FALSE


def _same(a: Interval, *rest: object) -> Interval:
    return a


_lt = _compare(_less)
_ge = _compare(_opposite(_less))
_eq = _compare(_equal)
_ne = _compare(_opposite(_equal))
_tanh, _sigmoid = _bounded(-1.0, 1.0), _bounded(0.0, 1.0)

_RULES: dict[str, Rule] = {
    "add": _add, "sub": _sub, "mul": _mul, "div": _div, "true_divide": _div, "divide": _div,
    "multiply": _mul, "subtract": _sub, "rsub": lambda a, b: _sub(b, a),
    "neg": _neg, "negative": _neg, "abs": _abs, "absolute": _abs,
    "square": lambda a: _pow(a, Interval.at(2.0)), "pow": _pow,
    "exp": _exp, "expm1": _monotone(math.expm1), "log": _log, "sqrt": _sqrt, "rsqrt": _rsqrt,
    "log1p": lambda a: _log(_add(a, TRUE)), "reciprocal": _reciprocal,
    "relu": _monotone(lambda x: max(x, 0.0)), "relu6": _monotone(lambda x: min(max(x, 0.0), 6.0)),
    "tanh": _tanh, "sigmoid": _sigmoid, "erf": _tanh, "hardsigmoid": _sigmoid,
    "atan": _bounded(-2.0, 2.0), "sign": _tanh, "sin": _periodic, "cos": _periodic,
    "gelu": _gated, "silu": _gated, "mish": _gated, "hardswish": _gated,
    "leaky_relu": _through_zero, "elu": _through_zero, "selu": _through_zero,
    "celu": _through_zero, "prelu": _through_zero, "_prelu_kernel": _through_zero,
    "softplus": lambda a, *rest: Interval(0.0, TAME) if a.finite else UNBOUNDED,
    "log_sigmoid": lambda a: Interval(-TAME, 0.0) if a.finite else UNBOUNDED,
    "floor": _monotone(lambda x: float(math.floor(x)) if math.isfinite(x) else x),
    "ceil": _monotone(lambda x: float(math.ceil(x)) if math.isfinite(x) else x),
    "round": _monotone(lambda x: float(round(x)) if math.isfinite(x) else x),
    "trunc": _monotone(lambda x: float(math.trunc(x)) if math.isfinite(x) else x),
    "maximum": _max, "minimum": _min, "max": _max, "min": _min,
    "clamp": _clamp, "clip": _clamp, "hardtanh": _clamp,
    "clamp_min": lambda a, b: _max(a, b), "clamp_max": lambda a, b: _min(a, b),
    "where": _where, "masked_fill": _masked_fill,
    "lt": _lt, "ge": _ge, "gt": lambda a, b: _lt(b, a), "le": lambda a, b: _ge(b, a),
    "less": _lt, "greater": lambda a, b: _lt(b, a), "greater_equal": _ge,
    "less_equal": lambda a, b: _ge(b, a), "eq": _eq, "ne": _ne, "not_equal": _ne,
    "logical_and": _and, "logical_or": _or, "logical_not": _not,
    "logical_xor": lambda a, b: BIT, "isnan": _is_nan, "isfinite": lambda a: BIT,
    "isinf": lambda a: BIT, "dropout": _same, "feature_dropout": _same, "alpha_dropout": _same,
    "contiguous": _same, "clone": _same, "detach": _same, "alias": _same, "lift_fresh_copy": _same,
    "positive": _same, "_to_copy": _same, "to": _same, "type_as": _same, "float": _same,
    "truth": _truth, "boolean_and": _and, "boolean_or": _or, "boolean_not": _not,
}  # fmt: skip
