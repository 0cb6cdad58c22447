"""Streaming statistics against numpy and against hand-worked sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.quantiles import Cusum, RunningQuantiles


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60),
    st.integers(1, 20),
    st.floats(0.0, 1.0),
)
def test_it_agrees_with_numpy_on_the_window(values: list[float], window: int, q: float) -> None:
    recent = RunningQuantiles(window)
    for value in values:
        recent.add(value)
    kept = values[-window:]
    assert len(recent) == len(kept)
    assert recent.values() == tuple(kept)
    assert recent.quantile(q) == pytest.approx(float(np.quantile(kept, q)), rel=1e-9, abs=1e-6)


def test_it_resumes_from_stored_values() -> None:
    recent = RunningQuantiles(2, [5.0, 1.0, 3.0])
    assert recent.values() == (1.0, 3.0)
    assert recent.quantile(0.5) == 2.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_cannot_be_ordered_is_refused(value: float) -> None:
    recent = RunningQuantiles(2)
    with pytest.raises(ValueError, match="value must be finite"):
        recent.add(value)
    assert len(recent) == 0


def test_an_empty_window_has_no_quantile() -> None:
    with pytest.raises(ValueError, match="at least one value, got none"):
        RunningQuantiles(2).quantile(0.5)
    with pytest.raises(ValueError, match="q must be between 0 and 1"):
        RunningQuantiles(2, [1.0]).quantile(1.5)
    with pytest.raises(ValueError, match="window must be at least 1"):
        RunningQuantiles(0)


@pytest.mark.parametrize("sign", [1, -1])
def test_cusum_alarms_on_a_shift_to_either_side_and_recovers(sign: int) -> None:
    test = Cusum(allowance=0.2, threshold=3.0)
    for step in range(1, 8):
        test.add(sign * 0.7)  # gains 0.5 a step
        assert test.alarm == (sign if step >= 6 else 0)
    for _ in range(14):
        test.add(0.0)  # loses 0.2 a step, from 3
        assert test.alarm == sign
    test.add(0.0)
    assert test.alarm == 0


def test_cusum_lets_noise_and_single_spikes_pass() -> None:
    test = Cusum(allowance=0.2, threshold=3.0)
    noise = np.random.default_rng(0).normal(0.0, 0.1, 5000)
    noise[::100] += 1.5
    for value in noise:
        test.add(float(value))
        assert test.alarm == 0


def test_cusum_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="threshold above 0"):
        Cusum(0.1, 0.0)
