"""Traces made from traces: cut, joined, superposed, and redrawn with another burstiness."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sims.traces import NoArrivals, Trace, poisson, surge

SECONDS = st.floats(0.0, 1e6, allow_nan=False)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    times = np.sort(np.array(draw(st.lists(SECONDS, min_size=1, max_size=20)), np.float64))
    lengths = draw(st.lists(st.integers(1, 500), min_size=times.size, max_size=times.size))
    return Trace(times, np.array(lengths, np.int32), "drawn", seed=0)


def three(name: str = "three") -> Trace:
    return Trace(np.array([1.0, 2.0, 3.0]), np.array([10, 20, 30], np.int32), name, seed=5)


def test_then_puts_the_other_after_the_last_arrival_or_where_told() -> None:
    both = three("a").then(three("b"))
    assert both.arrivals_s.tolist() == [1, 2, 3, 4, 5, 6]
    assert both.lengths.tolist() == [10, 20, 30, 10, 20, 30]
    assert (both.name, both.seed) == ("a, b", 5)
    assert three().then(three(), at_s=10.0).arrivals_s.tolist() == [1, 2, 3, 11, 12, 13]
    for wrong in (2.5, float("nan")):
        with pytest.raises(ValueError, match=r"at_s must be .* last arrival at 3\.0 s, got"):
            three().then(three(), at_s=wrong)


def test_merged_sorts_and_keeps_each_length_with_its_arrival() -> None:
    other = Trace(np.array([0.5, 2.0]), np.array([7, 8], np.int32), "other")
    both = three().merged(other)
    assert both.arrivals_s.tolist() == [0.5, 1.0, 2.0, 2.0, 3.0]
    assert both.lengths.tolist() == [7, 10, 20, 8, 30]
    assert both.name == "three + other"


def test_a_window_starts_anew_at_0() -> None:
    cut = three().window(2.0, 3.0)
    assert (cut.arrivals_s.tolist(), cut.lengths.tolist()) == ([0.0], [20])
    with pytest.raises(NoArrivals, match="arrivals_s must hold at least one arrival, got none"):
        three().window(3.5, 9.0)
    for start_s, stop_s in ((-1.0, 2.0), (2.0, 2.0), (float("nan"), 2.0)):
        with pytest.raises(ValueError, match="start_s and stop_s must satisfy 0 <= start_s"):
            three().window(start_s, stop_s)


@given(traces(), traces())
def test_joining_and_superposing_lose_nothing(a: Trace, b: Trace) -> None:
    for both in (a.then(b), a.merged(b), b.merged(a)):
        assert len(both) == len(a) + len(b)
        assert sorted(both.lengths) == sorted([*a.lengths, *b.lengths])
    assert a.merged(b).arrivals_s.tolist() == sorted([*a.arrivals_s, *b.arrivals_s])


@given(traces(), st.floats(0.01, 1e6))
def test_windows_that_touch_hold_every_arrival_once(trace: Trace, at_s: float) -> None:
    held = 0
    for start_s, stop_s in ((0.0, at_s), (at_s, 1e7)):
        with suppress(NoArrivals):
            held += len(trace.window(start_s, stop_s))
    assert held == len(trace)


@pytest.mark.parametrize(("rate_per_s", "cv2"), [(400.0, 1.0), (400.0, 6.0), (50.0, 0.25)])
def test_with_cv2_has_the_rate_and_the_burstiness_asked_for(rate_per_s: float, cv2: float) -> None:
    flat = Trace(np.arange(1.0, 401.0), np.ones(400, np.int32), "ticks")
    drawn = [flat.with_cv2(rate_per_s, cv2, seed=seed) for seed in range(8)]
    gaps = [np.diff(one.arrivals_s) for one in drawn]
    # The mean of n arrivals has a relative error of about sqrt(cv2 / n).
    error = (cv2 / (8 * rate_per_s * 400)) ** 0.5
    assert np.mean([len(one) / 400 for one in drawn]) == pytest.approx(rate_per_s, rel=4 * error)
    burstiness = np.mean([one.var() / one.mean() ** 2 for one in gaps])
    assert burstiness == pytest.approx(cv2, rel=0.06)


def test_with_cv2_keeps_the_shape_the_time_and_the_lengths_of_each_window() -> None:
    recorded = surge(20.0, 200.0, 60.0, seed=0, start=0.5, stop=1.0)
    lengths = np.where(recorded.arrivals_s < 30.0, 3, 9).astype(np.int32)
    recorded = Trace(recorded.arrivals_s, lengths, "step")
    again = recorded.with_cv2(4 * recorded.rate_per_s, 4.0, seed=1, window_s=2.0)
    before, _ = np.histogram(recorded.arrivals_s, np.arange(0.0, 61.0, 2.0))
    after, _ = np.histogram(again.arrivals_s, np.arange(0.0, 61.0, 2.0))
    assert np.corrcoef(before, after)[0, 1] > 0.98
    assert again.seconds == pytest.approx(recorded.seconds, abs=0.5)
    assert set(again.lengths[again.arrivals_s < 30.0]) == {3}
    assert set(again.lengths[again.arrivals_s >= 30.0]) == {9}
    assert again.name == f"step@{4 * recorded.rate_per_s:g}/s-cv2-4"


def test_with_cv2_leaves_silent_windows_silent() -> None:
    quiet = poisson(50.0, 5.0, seed=0).then(poisson(50.0, 5.0, seed=1), at_s=20.0)
    again = quiet.with_cv2(500.0, 3.0, seed=0)
    assert not ((again.arrivals_s > 5.0) & (again.arrivals_s < 20.0)).any()


def test_with_cv2_is_seeded_and_refuses_what_it_cannot_do() -> None:
    trace = poisson(50.0, 5.0, seed=0)
    a, b, c = (trace.with_cv2(90.0, 2.0, seed=seed) for seed in (1, 1, 2))
    assert a.arrivals_s.tolist() == b.arrivals_s.tolist() != c.arrivals_s.tolist()
    assert a.lengths.tolist() == b.lengths.tolist()
    with pytest.raises(ValueError, match="rate_per_s must be finite and greater than 0, got 0"):
        trace.with_cv2(0, 1.0, seed=0)
    with pytest.raises(ValueError, match="cv2 must be finite and greater than 0, got nan"):
        trace.with_cv2(1.0, float("nan"), seed=0)
    with pytest.raises(ValueError, match="window_s must be finite and greater than 0, got -1"):
        trace.with_cv2(1.0, 1.0, seed=0, window_s=-1)
    with pytest.raises(ValueError, match="with_cv2 must have arrivals at more than one time"):
        Trace(np.zeros(2), np.ones(2, np.int32), "still").with_cv2(1.0, 1.0, seed=0)
