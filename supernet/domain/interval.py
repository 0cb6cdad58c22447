"""Ranges of numbers, and the arithmetic of ranges (Moore, "Interval Analysis", 1966)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["ANY", "BIT", "INT32", "ValueRange", "of_dtype"]


@dataclass(frozen=True, slots=True)
class ValueRange:
    """Numbers from ``least`` to ``most``, both included.

    ``below``: a size (a sympy expression) that every number is less than, where one is known:
    positions along a dimension of free size.
    """

    least: float
    most: float
    below: Any = None

    def inside(self, least: float, most: float) -> bool:
        return least <= self.least and self.most <= most

    def hull(self, other: ValueRange) -> ValueRange:
        below = self.below if self.below == other.below else None
        return ValueRange(min(self.least, other.least), max(self.most, other.most), below)

    def meet(self, least: float, most: float) -> ValueRange:
        """Its part from ``least`` to ``most``."""
        low, high = max(self.least, least), min(self.most, most)
        if low > high:  # no number is there: whatever is said of it holds
            low = high = most if self.least > most else least
        return replace(self, least=low, most=high)

    @property
    def is_bounded(self) -> bool:
        return math.isfinite(self.least) and math.isfinite(self.most)

    @property
    def bits(self) -> int:
        """How many the widest number needs as an integer, its sign included; 64 without bounds.

        >>> ValueRange(-128, 127).bits, ValueRange(0, 128).bits
        (8, 9)
        """
        if not self.is_bounded:
            return 64
        return 1 + max(int(self.most), -int(self.least) - 1, 0).bit_length()

    def __add__(self, other: ValueRange) -> ValueRange:
        below = None
        if self.below is not None and other.least == other.most and other.is_bounded:
            below = self.below + int(other.least)
        return ValueRange(self.least + other.least, self.most + other.most, below)

    def __neg__(self) -> ValueRange:
        return ValueRange(-self.most, -self.least)

    def __mul__(self, other: ValueRange) -> ValueRange:
        ends = [_product(a, b) for a in self.ends for b in other.ends]
        return ValueRange(min(ends), max(ends))

    @property
    def ends(self) -> tuple[float, float]:
        return self.least, self.most


ANY = ValueRange(-math.inf, math.inf)
BIT = ValueRange(0, 1)
INT32 = ValueRange(-(2**31), 2**31 - 1)

_BITS = {"int64": 64, "int32": 32, "int16": 16, "int8": 8}


def of_dtype(dtype: str) -> ValueRange:
    """Every number that a dtype can hold, e.g. ``"int32"``; without bounds for floats.

    >>> of_dtype("uint8")
    ValueRange(least=0, most=255, below=None)
    """
    if dtype == "bool":
        return BIT
    if dtype == "uint8":
        return ValueRange(0, 255)
    bits = _BITS.get(dtype)
    return ANY if bits is None else ValueRange(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _product(a: float, b: float) -> float:
    return 0 if a == 0 or b == 0 else a * b  # not NaN for 0 times infinity
