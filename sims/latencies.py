"""Quantiles of any number of latencies in constant memory: counts in logarithmic bins.

DDSketch with fixed bins (Masson, Rim and Lee, DDSketch: A Fast and Fully-Mergeable Quantile Sketch
with Relative-Error Guarantees, VLDB 2019): the value told for a bin is within `ACCURACY` of every
value counted in it. Counts of two halves add up to those of the whole.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["ACCURACY", "BINS", "counted", "quantile"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ACCURACY = 1e-3
"""Relative, for latencies from 1 us to 11 days; others count as the nearest of these."""
_LEAST_MS, _MOST_MS = 1e-3, 1e9
_RATIO = (1.0 + ACCURACY) / (1.0 - ACCURACY)
BINS = math.ceil(math.log(_MOST_MS / _LEAST_MS) / math.log(_RATIO)) + 1
_TOLD_MS = _LEAST_MS * 2.0 * _RATIO ** np.arange(BINS) / (_RATIO + 1.0)


def counted(latencies_ms: Floats) -> Ints:
    """How many of `latencies_ms` [N] lie in each bin, int64 [BINS].

    >>> int((counted(np.array([5.0, 7.0])) + counted(np.array([5.0]))).sum())
    3
    """
    position = np.log(np.maximum(latencies_ms, _LEAST_MS) / _LEAST_MS) / math.log(_RATIO)
    return np.bincount(np.minimum(np.ceil(position), BINS - 1).astype(np.int64), minlength=BINS)


def quantile(counts: Ints, share: float) -> float:
    """The quantile, interpolated between neighbours as numpy does, within `ACCURACY`; of none 0.0.

    >>> round(quantile(counted(np.array([10.0, 20.0])), 0.5), 1)
    15.0
    """
    total = int(counts.sum())
    if total == 0:
        return 0.0
    position = share * (total - 1)
    below = int(position)
    ranks = np.array([below, min(below + 1, total - 1)])
    low, high = _TOLD_MS[np.searchsorted(np.cumsum(counts), ranks, side="right")]
    return float(low + (position - below) * (high - low))
