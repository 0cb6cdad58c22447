"""Quantiles from counts: how near they are to those of the values themselves."""

from __future__ import annotations

import numpy as np
import pytest

from sims.latencies import ACCURACY, BINS, counted, quantile


@pytest.mark.parametrize("n", [1, 2, 3, 100, 10_000])
@pytest.mark.parametrize("seed", range(3))
def test_a_quantile_is_as_near_as_promised(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    few = rng.choice([0.4, 7.0, 7.0001, 1e5], n)  # far apart: interpolation shows
    for values in (rng.lognormal(3.0, 2.0, n), rng.uniform(1.0, 2.0, n), few):
        counts = counted(values)
        for share in (0.0, 0.3, 0.5, 0.99, 1.0):
            exact = float(np.quantile(values, share))
            assert quantile(counts, share) == pytest.approx(exact, rel=ACCURACY * (1 + 1e-9))


def test_counts_of_parts_add_up() -> None:
    values = np.random.default_rng(0).exponential(20.0, 1000)
    parts = counted(values[:10]) + counted(values[10:10]) + counted(values[10:])
    np.testing.assert_array_equal(parts, counted(values))


def test_of_nothing_the_quantile_is_0_and_what_is_out_of_range_is_at_its_end() -> None:
    assert quantile(counted(np.empty(0)), 0.5) == 0.0
    ends = counted(np.array([0.0, 1e-9, 1e12]))
    assert (ends.size, ends[0], ends[-1]) == (BINS, 2, 1)
    assert quantile(ends, 0.0) == pytest.approx(1e-3, rel=ACCURACY * (1 + 1e-9))
    assert quantile(ends, 1.0) >= 1e9 * (1 - ACCURACY)
