"""Lengths of requests, where no recording gives them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["Lengths", "drawn_lengths", "natural_lengths"]

Lengths = NDArray[np.int32]


def natural_lengths(
    count: int,
    rng: np.random.Generator,
    *,
    median: float = 17.0,
    p95: float = 51.0,
    longest: int = 280,
) -> Lengths:
    """Lengths of natural text, int32 [count]: log-normal through median and p95, in 1..longest.

    The defaults are English sentences of technical documentation in word pieces: mean about 22.

    >>> float(np.median(natural_lengths(9999, np.random.default_rng(0))))
    17.0
    """
    if count < 0:
        raise ValueError(f"count must be at least 0, got {count}")
    if not 1 <= median < p95 <= longest:
        raise ValueError(
            f"median, p95 and longest must satisfy 1 <= median < p95 <= longest, "
            f"got {median}, {p95}, {longest}"
        )
    sigma = math.log(p95 / median) / 1.6448536  # the standard normal's 95 % point
    drawn = np.rint(rng.lognormal(math.log(median), sigma, count))
    return np.clip(drawn, 1, longest).astype(np.int32)


def drawn_lengths(count: int, rng: np.random.Generator, pool: Lengths | None) -> Lengths:
    """`count` lengths drawn from `pool` with replacement; `natural_lengths` where it is None."""
    if pool is None:
        return natural_lengths(count, rng)
    if pool.size == 0:
        raise ValueError("lengths must hold at least one length to draw from, got none")
    return rng.choice(pool, count).astype(np.int32)
