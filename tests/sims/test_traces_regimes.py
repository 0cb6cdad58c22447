"""Synthetic regimes: the mean, the shape and the burstiness that each one promises."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sims.traces import (
    NoArrivals,
    Regime,
    Trace,
    bursty,
    diurnal,
    flash_crowd,
    microburst,
    mmpp,
    poisson,
    ramp_surge,
    surge,
    switching,
)

REGIMES: list[Regime] = [mmpp, diurnal, flash_crowd, microburst, switching]
NAMES = ["mmpp", "diurnal", "flash_crowd", "microburst", "switching"]
each_regime = pytest.mark.parametrize("make", REGIMES, ids=NAMES)


def per_window(trace: Trace, seconds: float, window_s: float) -> np.ndarray[Any, Any]:
    return np.histogram(trace.arrivals_s, np.arange(0.0, seconds + window_s / 2, window_s))[0]


@each_regime
def test_the_same_seed_gives_the_same_trace(make: Regime) -> None:
    a, b, c = (make(50.0, 20.0, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.arrivals_s, b.arrivals_s)
    np.testing.assert_array_equal(a.lengths, b.lengths)
    assert a.arrivals_s.tolist() != c.arrivals_s.tolist()
    assert a.seed == 1


@each_regime
def test_the_mean_rate_is_the_one_asked_for(make: Regime) -> None:
    runs = 60
    counts = np.array([len(make(40.0, 100.0, seed=seed)) for seed in range(runs)])
    assert counts.mean() == pytest.approx(4000, abs=4 * counts.std(ddof=1) / runs**0.5)
    assert counts.mean() == pytest.approx(4000, rel=0.15)  # so a wild spread excuses nothing


@each_regime
@given(rate_per_s=st.floats(0.5, 300.0), seconds=st.floats(0.05, 30.0), seed=st.integers(0, 99))
def test_arrivals_lie_within_the_time(
    make: Regime, rate_per_s: float, seconds: float, seed: int
) -> None:
    pool = np.array([2, 5], np.int32)
    try:
        trace = make(rate_per_s, seconds, seed=seed, lengths=pool)
    except NoArrivals:
        return
    assert 0 <= trace.arrivals_s[0] <= trace.seconds <= seconds
    assert set(trace.lengths) <= {2, 5}


@each_regime
def test_impossible_rates_and_times_are_refused(make: Regime) -> None:
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"rate_per_s must be finite and .* 0, got {wrong}"):
            make(wrong, 10.0, seed=0)
        with pytest.raises(ValueError, match=f"seconds must be finite and .* 0, got {wrong}"):
            make(10.0, wrong, seed=0)
    with pytest.raises(NoArrivals, match="arrivals_s must hold at least one arrival, got none"):
        make(1.0, 1e-7, seed=0)


def test_mmpp_counts_vary_as_theory_says() -> None:
    # Two states left at rates r1, r2 with Poisson rates l1, l2: Var N(t) = m t + 2 (l1 - l2)²
    # p1 p2 (t / c - (1 - exp(-c t)) / c²), c = r1 + r2 (Fischer and Meier-Hellstern).
    r1, r2 = 1 / 3.0, 1 / 1.0
    p1, p2 = 0.75, 0.25
    l1 = 100.0 / (p1 + 8 * p2)
    l2, t, c = 8 * l1, 4.0, r1 + r2
    swing = 2 * (l1 - l2) ** 2 * p1 * p2 * (t / c - (1 - np.exp(-c * t)) / c**2)
    variance = 100.0 * t + swing
    made = partial(mmpp, 100.0, 2000.0, ratios=(1, 8), dwell_s=(3.0, 1.0))
    seen = [per_window(made(seed=seed), 2000.0, t).var() for seed in range(8)]
    assert np.mean(seen) == pytest.approx(variance, rel=0.08)


def test_mmpp_takes_silent_states_and_more_than_two() -> None:
    on_off = mmpp(200.0, 400.0, seed=0, ratios=(0, 1), dwell_s=(1.0, 1.0))
    assert (per_window(on_off, 400.0, 0.1) == 0).mean() == pytest.approx(0.5, abs=0.1)
    made = partial(mmpp, 50.0, 500.0, ratios=(1, 4, 20), dwell_s=(5.0, 2.0, 0.5))
    mean = np.mean([len(made(seed=seed)) for seed in range(30)]) / 500.0
    assert mean == pytest.approx(50.0, rel=0.05)


def test_diurnal_follows_the_sinusoid() -> None:
    times = np.concatenate(
        [
            diurnal(500.0, 40.0, seed=s, period_s=20.0, peak_to_trough=4.0).arrivals_s
            for s in range(9)
        ]
    )
    counts = np.histogram(times % 20.0, 20)[0] / (9 * 2)
    middle = np.arange(20) + 0.5
    expected = 500.0 * (1 - 0.6 * np.cos(2 * np.pi * middle / 20.0))
    np.testing.assert_allclose(counts, expected, rtol=0.06)
    assert counts.max() / counts.min() == pytest.approx(4.0, rel=0.15)
    flat = diurnal(500.0, 40.0, seed=0, peak_to_trough=1.0)
    assert per_window(flat, 40.0, 10.0) == pytest.approx(5000, rel=0.06)


def test_a_flash_crowd_rises_at_once_and_decays_exponentially() -> None:
    made = partial(flash_crowd, 500.0, 80.0, peak=11.0, rise_s=0.5, decay_s=8.0)
    counts = np.mean([per_window(made(seed=seed), 80.0, 0.5) for seed in range(9)], axis=0) * 2
    base = counts[:40].mean()  # the first quarter
    expected = 80.0 * 500.0 / (80.0 + 10 * (0.25 + 8.0 * (1 - np.exp(-59.5 / 8.0))))
    assert base == pytest.approx(expected, rel=0.03)
    since = np.arange(41, 160) * 0.5 + 0.25 - 20.5
    np.testing.assert_allclose(counts[41:], base * (1 + 10 * np.exp(-since / 8.0)), rtol=0.2)
    assert counts[40] == pytest.approx(6 * base, rel=0.1)  # half-way up, on average


def test_microbursts_are_short_dense_and_as_frequent_as_told() -> None:
    # 40 ms at 200 times the base rate: 5 ms windows show each burst as one run of busy windows.
    trace = microburst(1000.0, 400.0, seed=0, bursts_per_s=0.5, burst_ms=(40.0, 40.0), peak=200.0)
    base_per_s = 1000.0 / (1 + 199 * 0.5 * 0.04)
    busy = per_window(trace, 400.0, 0.005) > 50 * base_per_s * 0.005
    begins = np.flatnonzero(np.diff(busy.astype(int)) == 1)
    assert begins.size / 400.0 == pytest.approx(0.5, rel=0.25)
    assert busy.sum() * 0.005 / 400.0 == pytest.approx(0.5 * 0.04, rel=0.25)
    quiet = per_window(trace, 400.0, 0.005)[~busy].mean() / 0.005
    assert quiet == pytest.approx(base_per_s, rel=0.1)


def test_switching_shows_each_regime_in_turn_and_nothing_else() -> None:
    seen: list[tuple[str, float]] = []

    def regime(name: str) -> Regime:
        def make(rate_per_s: float, seconds: float, *, seed: int, lengths: Any = None) -> Trace:
            seen.append((name, seconds))
            return poisson(rate_per_s, seconds, seed=seed, lengths=lengths)

        return make

    trace = switching(20.0, 3000.0, seed=0, regimes=[regime(n) for n in "abc"], dwell_s=6.0)
    names = [name for name, _ in seen]
    assert all(one != after for one, after in pairwise(names))
    assert min(names.count(n) for n in "abc") > 0.25 * len(names)
    assert sum(last_s for _, last_s in seen) == pytest.approx(3000.0)
    assert np.mean([last_s for _, last_s in seen]) == pytest.approx(6.0, rel=0.15)
    assert trace.rate_per_s == pytest.approx(20.0, rel=0.05)
    with pytest.raises(ValueError, match="regimes must hold two or more, got 1"):
        switching(20.0, 30.0, seed=0, regimes=[poisson])


def test_a_surge_may_be_a_step_and_a_ramp_is_a_straight_line() -> None:
    step = surge(100.0, 5000.0, 20.0, seed=0, start=0.5, stop=1.0)
    assert len(step.window(0.0, 10.0)) == pytest.approx(1000, rel=0.15)
    assert len(step.window(10.0, 20.0)) == pytest.approx(50_000, rel=0.02)
    counts = per_window(ramp_surge(100.0, 5000.0, 20.0, seed=0, ramp_s=4.0), 20.0, 1.0)
    up = [100 + 4900 * (k + 0.5) / 4 for k in range(4)]
    expected = [100] * 5 + up + [5000] * 6 + up[::-1] + [100]
    np.testing.assert_allclose(counts, expected, atol=40, rtol=0.06)
    with pytest.raises(ValueError, match="ramp_s must be at most the 10 s between start and stop"):
        ramp_surge(1.0, 2.0, 20.0, seed=0, ramp_s=11.0)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (partial(mmpp, ratios=(1,), dwell_s=(1,)), "must have one entry per state, two or more"),
        (partial(mmpp, ratios=(1, 2), dwell_s=(1,)), "must have one entry per state, two or more"),
        (partial(mmpp, ratios=(1, -2)), "ratios must be finite and at least 0, got -2"),
        (partial(mmpp, ratios=(0, 0)), "ratios must hold one greater than 0"),
        (partial(mmpp, dwell_s=(1, 0)), "dwell_s must be finite and greater than 0, got 0"),
        (partial(diurnal, peak_to_trough=0.5), "peak_to_trough must be finite and at least 1"),
        (partial(diurnal, period_s=0.0), "period_s must be finite and greater than 0, got 0"),
        (partial(flash_crowd, peak=float("nan")), "peak must be finite and at least 1, got nan"),
        (partial(flash_crowd, start=1.0), "start must satisfy 0 <= start < 1, got 1"),
        (partial(flash_crowd, decay_s=-1.0), "decay_s must be finite and greater than 0, got -1"),
        (partial(microburst, burst_ms=(50, 20)), "burst_ms must satisfy 0 < shortest <= longest"),
        (partial(microburst, bursts_per_s=0), "bursts_per_s must be finite and greater than 0"),
        (partial(switching, dwell_s=0), "dwell_s must be finite and greater than 0, got 0"),
        (partial(bursty, cv2=0), "cv2 must be finite and greater than 0, got 0"),
    ],
)
def test_impossible_shapes_are_refused(make: Callable[..., Trace], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make(10.0, 10.0, seed=0)
