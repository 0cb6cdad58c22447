"""Rules for the numbers given to a trace; the errors name the argument."""

from __future__ import annotations

import math

__all__ = ["at_least", "fractions", "positive"]


def positive(**values: float) -> None:
    """Each value is finite and greater than 0, else a ValueError names it."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be finite and greater than 0, got {value}")


def at_least(floor: float, **values: float) -> None:
    """Each value is finite and no less than `floor`, else a ValueError names it."""
    for name, value in values.items():
        if not (math.isfinite(value) and value >= floor):
            raise ValueError(f"{name} must be finite and at least {floor:g}, got {value}")


def fractions(start: float, stop: float) -> None:
    """Two ordered fractions of a trace's time, else a ValueError names them."""
    if not 0.0 <= start <= stop <= 1.0:
        raise ValueError(
            f"start and stop must satisfy 0 <= start <= stop <= 1, got {start}, {stop}"
        )
