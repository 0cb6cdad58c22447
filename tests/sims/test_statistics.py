"""Intervals: known quantiles, the seed as the unit, pairs that cancel what they share."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sims.evaluation.statistics import over_seeds, paired, t_quantile

# NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2
TABLE = [
    (0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 3, 3.182), (0.975, 4, 2.776), (0.975, 9, 2.262),
    (0.975, 30, 2.042), (0.975, 100, 1.984), (0.9, 1, 3.078), (0.9, 10, 1.372), (0.95, 5, 2.015),
    (0.99, 7, 2.998), (0.999, 3, 10.215), (0.999, 100, 3.174),
]  # fmt: skip


@pytest.mark.parametrize(("share", "freedom", "value"), TABLE)
def test_quantiles_are_those_of_the_tables(share: float, freedom: int, value: float) -> None:
    assert t_quantile(share, freedom) == pytest.approx(value, abs=6e-4)


def test_quantiles_with_a_closed_form() -> None:
    assert t_quantile(0.75, 1) == pytest.approx(1.0)  # Cauchy: tan(π/4)
    share = 0.93
    assert t_quantile(share, 2) == pytest.approx(
        (2 * share - 1) / math.sqrt(2 * share * (1 - share))
    )
    assert t_quantile(0.5, 7) == pytest.approx(0.0, abs=1e-12)
    assert t_quantile(0.975, 100_000) == pytest.approx(1.95996, abs=1e-4)  # the normal one


def test_the_seed_is_the_unit() -> None:
    seeds = np.array([1.0, 2.0, 6.0])
    cells = seeds + np.array([[10.0], [0.0], [-10.0], [0.0]])  # cells differ, seeds stay
    found = over_seeds(cells)
    assert found == over_seeds(seeds)
    assert (found.mean, found.n) == (3.0, 3)
    spread = 4.30265 * np.std([1.0, 2.0, 6.0], ddof=1) / math.sqrt(3)
    assert found.half == pytest.approx(spread, rel=1e-5)
    assert not found.certain


def test_a_pair_cancels_what_it_shares() -> None:
    shared = np.array([0.2, 0.9, 0.5, 0.4])
    found = paired(shared + 0.01, shared)
    assert found.mean == pytest.approx(1.0)  # points
    assert found.half == pytest.approx(0.0, abs=1e-9)
    assert found.certain
    assert over_seeds(shared).half > 0.1


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(3.0, 2.0, (4000, 5))
    held = np.mean([found.low <= 3.0 <= found.high for found in map(over_seeds, draws)])
    assert 0.94 < held < 0.96


def test_one_seed_tells_nothing_of_the_spread() -> None:
    found = over_seeds([[0.5], [0.7]])
    assert (found.mean, found.low, found.high, found.n) == (0.6, -math.inf, math.inf, 1)
    assert not found.certain


def test_wrong_values_are_named() -> None:
    with pytest.raises(ValueError, match=r"values must be \[..., seeds\] of at least one, got"):
        over_seeds([])
    with pytest.raises(ValueError, match="values must be finite, got nan"):
        over_seeds([0.1, math.nan])
    with pytest.raises(ValueError, match=r"same cells and seeds, got shapes \(2,\) and \(3,\)"):
        paired([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"share must be in \[0.5, 1\), got 1.0"):
        t_quantile(1.0, 3)
    with pytest.raises(ValueError, match="freedom must be a whole number of at least 1, got 0"):
        t_quantile(0.9, 0)
