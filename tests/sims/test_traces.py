"""Traces: seeded, shaped as told, and strict about what they accept."""

from __future__ import annotations

import numpy as np
import pytest

from sims.traces import Trace, bursty, natural_lengths, poisson, surge

ONE = np.ones(1, np.int32)


def burstiness(trace: Trace) -> float:
    gaps = np.diff(trace.arrivals_s)
    return float(gaps.var() / gaps.mean() ** 2)


def test_the_same_seed_gives_the_same_trace() -> None:
    for make in (
        lambda seed: poisson(50, 5, seed=seed),
        lambda seed: bursty(50, 5, cv2=4, seed=seed),
        lambda seed: surge(10, 90, 5, seed=seed),
    ):
        a, b, c = make(1), make(1), make(2)
        np.testing.assert_array_equal(a.arrivals_s, b.arrivals_s)
        np.testing.assert_array_equal(a.lengths, b.lengths)
        assert a.arrivals_s.tolist() != c.arrivals_s.tolist()


def test_rates_and_burstiness_are_those_asked_for() -> None:
    assert poisson(200, 100, seed=0).rate_per_s == pytest.approx(200, rel=0.03)
    assert burstiness(poisson(200, 100, seed=0)) == pytest.approx(1.0, rel=0.1)
    assert bursty(200, 200, cv2=8, seed=0).rate_per_s == pytest.approx(200, rel=0.05)
    assert burstiness(bursty(200, 200, cv2=8, seed=0)) == pytest.approx(8.0, rel=0.15)
    times = surge(100, 500, 40, seed=0).arrivals_s
    inside = ((times >= 10) & (times < 30)).sum() / 20
    assert inside == pytest.approx(500, rel=0.05)
    assert (times < 10).sum() / 10 == pytest.approx(100, rel=0.1)


def test_natural_lengths_have_their_median_and_tail() -> None:
    lengths = natural_lengths(50_000, np.random.default_rng(0))
    assert np.median(lengths) == pytest.approx(17, abs=1)
    assert np.quantile(lengths, 0.95) == pytest.approx(51, rel=0.05)
    assert (lengths.min(), lengths.max()) >= (1, 100)
    assert lengths.max() <= 280


def test_rescaling_changes_the_rate_and_nothing_else() -> None:
    trace = bursty(50, 60, cv2=5, seed=0)
    faster = trace.rescaled(500.0)
    assert faster.rate_per_s == pytest.approx(500.0)
    assert burstiness(faster) == pytest.approx(burstiness(trace))
    assert faster.lengths is trace.lengths
    assert trace.head(30.0).seconds < 30.0


@pytest.mark.parametrize(
    ("times", "text"),
    [
        ([], "arrivals_s must hold at least one arrival, got none"),
        ([0.0, np.nan], "arrivals_s must be finite, got nan at index 1"),
        ([0.0, np.inf], "arrivals_s must be finite, got inf at index 1"),
        ([-1.0, 0.0], "arrivals_s must be at least 0, got -1.0"),
        ([0.0, 2.0, 1.0], "must be ascending, got 1.0 after 2.0 at index 2; sort the arrivals"),
    ],
)
def test_impossible_arrivals_are_refused(times: list[float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Trace(np.array(times, np.float64), np.ones(len(times), np.int32), "wrong")


def test_impossible_lengths_and_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="lengths must be at least 1, got 0"):
        Trace(np.zeros(1), 0 * ONE, "wrong")
    with pytest.raises(ValueError, match="lengths must be int32 with one entry per arrival"):
        Trace(np.zeros(2), ONE, "wrong")
    with pytest.raises(ValueError, match="rate_per_s must be finite and greater than 0, got 0"):
        bursty(0, 1, cv2=1, seed=0)
    with pytest.raises(ValueError, match="cv2 must be finite and greater than 0, got nan"):
        bursty(1, 1, cv2=float("nan"), seed=0)
    with pytest.raises(ValueError, match="lengths must hold at least one length to draw from"):
        poisson(9, 9, seed=0, lengths=ONE[:0])
    with pytest.raises(ValueError, match="got all at 0 s"):
        Trace(np.zeros(1), ONE, "still").rescaled(5.0)
    with pytest.raises(ValueError, match="arrivals_s must hold at least one arrival"):
        poisson(1.0, 1e-6, seed=0)
