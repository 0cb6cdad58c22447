"""The unit of the numbers in a column of times: seconds, or thousandths of them and less."""

from __future__ import annotations

import math

__all__ = ["PER_S", "TimeColumn"]

PER_S = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_DATES_FROM_S, _DATES_TO_S = 1e8, 1e11
"""Since 1970: from 1973 to the year 5138. A thousand times as much is the next smaller unit."""


class TimeColumn:
    """Numbers of one column as seconds, all in the unit that the first one tells by its size.

    Args:
        unit: What numbers count that are too small for a date since 1970, "s", "ms", "us" or "ns".
        dates_from: Which first numbers are dates.
        is_said: The file itself names the unit: nothing is told by size.

    >>> column = TimeColumn("s")
    >>> column.seconds(1_700_000_000_500, "a.csv:2")
    1700000000.5
    >>> column.seconds(1_700_000_001, "a.csv:3")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: a.csv:3: the time must be in milliseconds like its column, ...
    """

    def __init__(
        self, unit: str, *, dates_from: float = _DATES_FROM_S, is_said: bool = False
    ) -> None:
        self._unit, self._dates_from, self._is_said = unit, dates_from, is_said
        self._dated: bool | None = None

    def seconds(self, number: float, where: str) -> float:
        """`number` in seconds; a ValueError where its size says another unit than before."""
        if not math.isfinite(number):
            return number  # refused as a time, with better words
        if self._dated is None:
            self._begin(number)
        by_size = _unit_of(number)
        if self._dated:
            fits = by_size == self._unit
        else:  # three years after the first at most; where the unit is said any date will do
            most_s = _DATES_TO_S if self._is_said else _DATES_FROM_S
            fits = number < most_s * PER_S[self._unit]
        if not fits:
            told = "too small for a date" if by_size is None else f"{_NAMES[by_size]} by its size"
            raise ValueError(
                f"{where}: the time must be in {_NAMES[self._unit]} like its column, "
                f"got {number:.17g}, {told}"
            )
        return number / PER_S[self._unit]

    def _begin(self, number: float) -> None:
        self._dated = not self._is_said and number >= self._dates_from
        if self._dated:
            self._unit = _unit_of(number) or self._unit


def _unit_of(number: float) -> str | None:
    """The unit in which `number` is a date since 1970; None where it is too small for one."""
    for unit in ("ns", "us", "ms", "s"):
        if number >= _DATES_FROM_S * PER_S[unit]:
            return unit
    return None
