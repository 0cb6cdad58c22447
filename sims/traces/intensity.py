"""A rate of arrivals that changes over time, and exact draws from it.

A process of unit rate is drawn on the axis of *mass* (expected arrivals so far) and carried to
the axis of time by the inverse of the cumulative rate. With a Poisson process this is the
inversion method of Çinlar, Introduction to Stochastic Processes (1975), chapter 4; with a
renewal process that of Gerhardt and Nelson, Transforming Renewal Processes for Simulation of
Nonstationary Arrival Processes, INFORMS Journal on Computing 21 (2009).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sims.traces.rules import positive

__all__ = ["Floats", "Intensity", "renewal_points"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Intensity:
    """Arrivals per second over time: P pieces, linear within each, jumps allowed between them.

    `edges_s`: float64 [P+1], ascending from 0. `left_per_s`, `right_per_s`: float64 [P] >= 0, the
    rate at either end of a piece. At least one piece must expect arrivals.

    >>> Intensity.steps([0, 1, 3], [10, 0.5]).mass.tolist()
    [0.0, 10.0, 11.0]
    """

    edges_s: Floats
    left_per_s: Floats
    right_per_s: Floats

    def __post_init__(self) -> None:
        edges, left, right = self.edges_s, self.left_per_s, self.right_per_s
        if edges.ndim != 1 or edges.size < 2 or not left.shape == right.shape == (edges.size - 1,):
            raise ValueError(
                f"edges_s must be [P+1] with rates [P], P at least 1, "
                f"got {edges.shape} with {left.shape} and {right.shape}"
            )
        if not np.isfinite(edges).all() or edges[0] != 0 or (np.diff(edges) < 0).any():
            raise ValueError(f"edges_s must be finite and ascending from 0, got {edges}")
        rates = np.concatenate([left, right])
        if not (np.isfinite(rates).all() and rates.min() >= 0):
            wrong = rates[~(np.isfinite(rates) & (rates >= 0))][0]
            raise ValueError(f"rates must be finite and at least 0, got {wrong}")
        if not self.mass[-1] > 0:
            raise ValueError("rates must be greater than 0 for some of the time, got 0 throughout")

    @classmethod
    def steps(cls, edges_s: ArrayLike, rates_per_s: ArrayLike) -> Intensity:
        """Constant within each piece: edges [P+1], rates [P].

        >>> Intensity.steps([0, 5, 10], [100, 5000]).mean_per_s
        2550.0
        """
        rates = np.asarray(rates_per_s, np.float64)
        return cls(np.asarray(edges_s, np.float64), rates, rates)

    @classmethod
    def through(cls, knots_s: ArrayLike, rates_per_s: ArrayLike) -> Intensity:
        """Straight lines through (knot, rate) pairs, both [K], K at least 2.

        >>> Intensity.through([0, 10], [0, 100]).mean_per_s
        50.0
        """
        rates = np.asarray(rates_per_s, np.float64)
        return cls(np.asarray(knots_s, np.float64), rates[:-1], rates[1:])

    @cached_property
    def mass(self) -> Floats:
        """Expected arrivals from 0 to each edge, float64 [P+1]."""
        means = 0.5 * (self.left_per_s + self.right_per_s)
        return np.concatenate([[0.0], np.cumsum(means * np.diff(self.edges_s))])

    @property
    def mean_per_s(self) -> float:
        """Expected arrivals over the whole time, per second."""
        return float(self.mass[-1] / self.edges_s[-1])

    def with_mean(self, rate_per_s: float) -> Intensity:
        """The same shape with another mean rate.

        >>> Intensity.steps([0, 1, 2], [1, 3]).with_mean(10).left_per_s.tolist()
        [5.0, 15.0]
        """
        positive(rate_per_s=rate_per_s)
        by = rate_per_s / self.mean_per_s
        return replace(self, left_per_s=self.left_per_s * by, right_per_s=self.right_per_s * by)

    def piece_of(self, points: Floats) -> NDArray[np.intp]:
        """The piece that each point of mass falls into; never one that expects no arrivals."""
        last = int(np.flatnonzero(np.diff(self.mass) > 0)[-1])
        return np.minimum(np.searchsorted(self.mass, points, side="right") - 1, last)

    def times_of(self, points: Floats) -> Floats:
        """When the mass reaches each of `points`: float64 [N] ascending, 0 <= point <= all of it.

        >>> Intensity.through([0, 10], [0, 2]).times_of(np.array([0.0, 2.5, 10.0])).tolist()
        [0.0, 5.0, 10.0]
        """
        at = self.piece_of(points)
        left, width = self.left_per_s[at], np.diff(self.edges_s)[at]
        beyond = points - self.mass[at]
        slope = (self.right_per_s[at] - left) / width
        # left x + slope x²/2 = beyond, solved in the form that also holds for slope 0.
        root = left + np.sqrt(np.maximum(left * left + 2.0 * slope * beyond, 0.0))
        x = np.divide(2.0 * beyond, root, out=np.zeros_like(beyond), where=root > 0)
        times = self.edges_s[at] + np.clip(x, 0.0, width)
        return np.maximum.accumulate(times)  # rounding may swap neighbours by one ulp

    def arrivals(self, rng: np.random.Generator, *, cv2: float = 1.0) -> Floats:
        """Arrival times, float64 [N] ascending; N is random and may be 0.

        `cv2`: squared coefficient of variation of the gaps in mass: 1 is Poisson, else Gamma.

        >>> times = Intensity.steps([0, 100], [50]).arrivals(np.random.default_rng(0))
        >>> abs(times.size - 5000) < 300
        True
        """
        total = float(self.mass[-1])
        if cv2 != 1.0:
            return self.times_of(renewal_points(total, cv2, rng))
        # n + 1 exponential gaps over their sum are n sorted uniforms, without sorting.
        sums = np.cumsum(rng.exponential(size=rng.poisson(total) + 1))
        return self.times_of(sums[:-1] * (total / sums[-1]))


def renewal_points(mass: float, cv2: float, rng: np.random.Generator) -> Floats:
    """A stationary renewal process of unit rate on [0, mass) with Gamma gaps of squared CV `cv2`.

    The way to the first point is what is left of a gap that began before 0 (drawn by its length,
    at a uniform place within it), so that `mass` points are expected whatever `cv2` is.
    """
    positive(mass=mass, cv2=cv2)
    end = float(rng.gamma(1.0 / cv2 + 1.0, cv2) * rng.random())
    pieces = [np.array([end])]
    while end < mass:
        gaps = rng.gamma(1.0 / cv2, cv2, max(64, int(1.1 * (mass - end))))
        pieces.append(end + np.cumsum(gaps))
        end = float(pieces[-1][-1])
    points = np.concatenate(pieces)
    return points[points < mass]
