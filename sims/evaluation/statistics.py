"""Uncertainty of a comparison: means with intervals, where the unit of replication is the seed.

One seed is one draw of all arrivals, which every policy faces alike. The cells of a suite (regime
x load) are fixed, chosen by hand, and are no replications. So values are first averaged over the
cells, each counting the same, which leaves one number per seed; mean and interval are taken over
those. Two policies are compared by the differences of each seed's numbers (paired), in which what
the arrivals do to both cancels.

The interval is Student's: mean ± t(n - 1) · s / √n ("Student", "The probable error of a mean",
Biometrika 6, 1908). It holds for means of about normal values, and says nothing of other regimes,
loads or services than those averaged over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["LEVEL", "ConfidenceInterval", "over_seeds", "paired", "t_quantile"]

LEVEL = 0.95
"""How often the interval holds the true mean."""


@dataclass(frozen=True, slots=True)
class ConfidenceInterval:
    """A mean over `n` seeds and its interval; of one seed alone the interval is infinite."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2.0

    @property
    def certain(self) -> bool:
        """Whether 0 lies outside of it."""
        return self.low > 0.0 or self.high < 0.0


def over_seeds(values: ArrayLike, *, level: float = LEVEL) -> ConfidenceInterval:
    """Mean and interval of `values` [..., seeds], averaged over all axes but the last first.

    In the unit of the values. ValueError where there are none, or one is not finite.

    >>> over_seeds([[1.0, 3.0], [3.0, 5.0]]).mean  # two cells, two seeds: 2 and 4
    3.0
    """
    array = np.asarray(values, np.float64)
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"values must be [..., seeds] of at least one, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"values must be finite, got {array[~np.isfinite(array)][0]}")
    each = array.reshape(-1, array.shape[-1]).mean(axis=0)
    n, mean = each.size, float(each.mean())
    if n == 1:
        return ConfidenceInterval(mean, -math.inf, math.inf, 1)
    half = t_quantile((1.0 + level) / 2.0, n - 1) * float(each.std(ddof=1)) / math.sqrt(n)
    return ConfidenceInterval(mean, mean - half, mean + half, n)


def paired(a: ArrayLike, b: ArrayLike, *, level: float = LEVEL) -> ConfidenceInterval:
    """By how many percentage points `a` exceeds `b` [..., seeds], ratios in 0..1, seed by seed.

    Both must have the same shape: the same cells, and the same seeds in the same order.

    >>> told = paired([0.52, 0.63, 0.74], [0.50, 0.60, 0.70])
    >>> f"{told.mean:.2f} points, {told.low:.2f} to {told.high:.2f}, {told.n} seeds"
    '3.00 points, 0.52 to 5.48, 3 seeds'
    """
    one, other = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if one.shape != other.shape:
        raise ValueError(
            f"a and b must be of the same cells and seeds, got shapes {one.shape} and {other.shape}"
        )
    return over_seeds(100.0 * (one - other), level=level)


def t_quantile(share: float, freedom: int) -> float:
    """The value that Student's t of `freedom` degrees (>= 1) stays below with probability `share`.

    `share` in [0.5, 1). By bisection of the exact distribution, which is a finite sum for whole
    degrees (Abramowitz & Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4).

    >>> round(t_quantile(0.975, 4), 3)
    2.776
    """
    if not 0.5 <= share < 1.0:
        raise ValueError(f"share must be in [0.5, 1), got {share}")
    if not (freedom >= 1 and freedom % 1 == 0):
        raise ValueError(f"freedom must be a whole number of at least 1, got {freedom}")
    wanted = 2.0 * share - 1.0
    low, high = 0.0, math.pi / 2.0
    while (middle := (low + high) / 2.0) not in (low, high):
        if _within(middle, freedom) < wanted:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """P(|t| < √freedom · tan(angle))."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2 == 1
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if odd:
        return 2.0 / math.pi * (angle + sine * total)
    return sine * total
