"""Rates over time: the mass and its inverse worked by hand, the draws by their statistics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sims.traces import Intensity, inhomogeneous
from sims.traces.intensity import renewal_points


def test_a_ramp_worked_by_hand() -> None:
    # 0 to 4/s over 2 s is 4 arrivals, t² of them by time t; then silence; then 1/s falling to 0.
    rate = Intensity(np.array([0.0, 2, 5, 7]), np.array([0.0, 0, 1]), np.array([4.0, 0, 0]))
    assert rate.mass.tolist() == [0.0, 4.0, 4.0, 5.0]
    assert rate.mean_per_s == pytest.approx(5 / 7)
    times = rate.times_of(np.array([0.0, 1.0, 2.25, 4.0, 4.75, 5.0]))
    assert times.tolist() == pytest.approx([0.0, 1.0, 1.5, 5.0, 6.0, 7.0])
    assert rate.piece_of(np.array([0.0, 4.0, 5.0])).tolist() == [0, 2, 2]


@given(
    st.lists(
        st.tuples(st.floats(0.001, 1e3), st.floats(0.0, 1e4), st.floats(0.0, 1e4)),
        min_size=1,
        max_size=12,
    ),
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30),
)
def test_the_inverse_of_the_mass_is_its_inverse(
    pieces: list[tuple[float, float, float]], shares: list[float]
) -> None:
    widths, left, right = (np.array(column) for column in zip(*pieces, strict=True))
    if not (left + right).max() > 1e-3:
        left = left + 1.0
    edges = np.concatenate([[0.0], np.cumsum(widths)])
    rate = Intensity(edges, left, right)
    total = float(rate.mass[-1])
    points = np.sort(np.array(shares)) * total
    times = rate.times_of(points)
    assert (np.diff(times) >= 0).all()
    assert (times >= 0).all()
    assert (times <= edges[-1]).all()
    at = rate.piece_of(points)
    into = times - edges[at]
    slope = (right - left)[at] / np.diff(edges)[at]
    mass = rate.mass[at] + into * (left[at] + 0.5 * slope * into)
    np.testing.assert_allclose(mass, points, atol=1e-6 * total)


@pytest.mark.parametrize("cv2", [1.0, 5.0])
def test_counts_follow_the_rate_piece_by_piece(cv2: float) -> None:
    rate = Intensity(np.array([0.0, 3, 4, 10]), np.array([100.0, 0, 50]), np.array([100.0, 0, 250]))
    expected = np.diff(rate.mass)
    runs = 40
    drawn = [inhomogeneous(rate, seed=seed, cv2=cv2).arrivals_s for seed in range(runs)]
    counts = np.array([np.histogram(times, rate.edges_s)[0] for times in drawn])
    spread = np.sqrt(cv2 * expected / runs)
    assert (np.abs(counts.mean(axis=0) - expected) <= 4 * spread).all()
    assert (counts[:, 1] == 0).all()
    # Variance over mean of the counts of a renewal process tends to cv2.
    assert (counts[:, 0].var(ddof=1) / counts[:, 0].mean()) == pytest.approx(cv2, rel=0.7)


def test_a_linear_rate_gives_the_density_it_says() -> None:
    times = inhomogeneous(Intensity.through([0, 10], [0, 4000]), seed=0).arrivals_s
    # The distribution function of an arrival is (t / 10)²; Kolmogorov's bound at 0.1 %.
    ranks = np.arange(1, times.size + 1) / times.size
    assert np.abs(ranks - (times / 10) ** 2).max() < 1.95 / times.size**0.5


@pytest.mark.parametrize("cv2", [0.2, 1.0, 20.0])
def test_a_renewal_process_is_stationary_from_the_first_moment(cv2: float) -> None:
    rng = np.random.default_rng(0)
    counts = np.array([renewal_points(2.0, cv2, rng).size for _ in range(4000)])
    assert counts.mean() == pytest.approx(2.0, abs=4 * counts.std() / 4000**0.5)


def test_impossible_rates_are_refused() -> None:
    one = np.ones(1)
    with pytest.raises(ValueError, match=r"edges_s must be \[P\+1\] with rates \[P\]"):
        Intensity.steps([0, 1], [1, 2])
    with pytest.raises(ValueError, match="edges_s must be finite and ascending from 0"):
        Intensity.steps([1, 2], [1])
    with pytest.raises(ValueError, match="edges_s must be finite and ascending from 0"):
        Intensity.steps([0, 2, 1], [1, 1])
    with pytest.raises(ValueError, match="edges_s must be finite and ascending from 0"):
        Intensity.steps([0, np.nan], [1])
    with pytest.raises(ValueError, match=r"rates must be finite and at least 0, got -1\.0"):
        Intensity(np.array([0.0, 1.0]), one, -one)
    with pytest.raises(ValueError, match="rates must be finite and at least 0, got nan"):
        Intensity.steps([0, 1], [np.nan])
    with pytest.raises(ValueError, match="rates must be greater than 0 for some of the time"):
        Intensity.steps([0, 1], [0])
    with pytest.raises(ValueError, match="rate_per_s must be finite and greater than 0, got 0"):
        Intensity.steps([0, 1], [1]).with_mean(0)
    with pytest.raises(ValueError, match="cv2 must be finite and greater than 0, got -1"):
        inhomogeneous(Intensity.steps([0, 1], [1]), seed=0, cv2=-1)
