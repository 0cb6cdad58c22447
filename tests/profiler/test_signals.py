"""The window: hand-worked counts, rates and ratios under a fake clock."""

from __future__ import annotations

import threading
from dataclasses import fields
from math import exp, isfinite

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.patterns import PatternTable
from profiler.rings import EventRing
from profiler.shapes import Shape
from profiler.signals import Signals, Window, burstiness


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def window(clock: Clock) -> Window:
    return Window(slo_ms=40.0, workers=4, clock=clock)


def seen(window: Window) -> Signals:
    return window.snapshot(queue=0, head_slack_ms=float("nan"), busy=0)


def arrive(window: Window, clock: Clock, *times_s: float, length: int = 10) -> None:
    for time_s in times_s:
        clock.now_s = time_s
        window.arrived(length)


def test_no_data_is_explicit_and_never_nan(window: Window) -> None:
    signals = seen(window)
    assert (signals.ended, signals.batches) == (0, 0)
    assert (signals.met_ratio, signals.refused_ratio, signals.p99_ms) == (0.0, 0.0, 0.0)
    assert (signals.cost_ratio_mean, signals.cost_ratio_max) == (1.0, 1.0)
    assert (signals.burstiness, signals.mean_length, signals.arrival_per_s) == (1.0, 0.0, 0.0)
    assert signals.head_slack_ms == 40.0
    assert signals.arrivals_100ms == signals.arrivals_10ms == (0,) * 10


def test_arrivals_fall_into_slots_that_end_now(window: Window, clock: Clock) -> None:
    arrive(window, clock, 50.05, 50.25, 50.955, 50.965, 50.999)
    clock.now_s = 51.0
    signals = seen(window)
    assert signals.arrivals_100ms == (1, 0, 1, 0, 0, 0, 0, 0, 0, 3)
    assert signals.arrivals_10ms == (0, 0, 0, 0, 0, 1, 1, 0, 0, 1)
    clock.now_s = 51.1
    assert seen(window).arrivals_100ms == (0, 1, 0, 0, 0, 0, 0, 0, 3, 0)


def test_an_arrival_of_this_instant_counts(window: Window, clock: Clock) -> None:
    arrive(window, clock, 50.3)
    assert seen(window).arrivals_10ms[-1] == 1
    assert seen(window).arrivals_100ms[-1] == 1


def test_the_arrival_rate_remembers_40_ms(window: Window, clock: Clock) -> None:
    arrive(window, clock, 50.0, 50.040)
    assert seen(window).arrival_per_s == pytest.approx(25.0 * (1 + exp(-1)))
    clock.now_s = 50.080
    assert seen(window).arrival_per_s == pytest.approx(25.0 * (exp(-1) + exp(-2)))


def test_the_arrival_rate_of_a_steady_stream_is_its_rate(window: Window, clock: Clock) -> None:
    arrive(window, clock, *(50.0 + np.arange(2000) * 0.001))
    assert seen(window).arrival_per_s == pytest.approx(1000.0, rel=0.02)


def test_burstiness_tells_metronome_poisson_and_clumps_apart(clock: Clock) -> None:
    rng = np.random.default_rng(1)
    assert burstiness(np.arange(100.0)) == pytest.approx(0.0, abs=1e-12)
    assert burstiness(rng.exponential(1.0, 20_000).cumsum()) == pytest.approx(1.0, rel=0.05)
    assert burstiness(rng.gamma(0.25, 1.0, 20_000).cumsum()) == pytest.approx(4.0, rel=0.15)
    assert burstiness(np.array([1.0, 2.0])) == 1.0
    assert burstiness(np.array([1.0, 1.0, 1.0])) == 1.0  # no gap at all: nothing to compare


def test_outcomes_are_counted_over_all_that_ended(window: Window, clock: Clock) -> None:
    for latency_ms in (10.0, 20.0, 30.0):
        window.ended(latency_ms, met=True)
    window.ended(60.0, met=False)
    window.refused()
    clock.now_s = 51.0 - 1e-6
    signals = seen(window)
    assert (signals.ended, signals.met_ratio, signals.refused_ratio) == (5, 0.6, 0.2)
    assert signals.p50_ms == 25.0
    assert signals.p99_ms == pytest.approx(59.1)
    assert signals.served_per_s == pytest.approx(4.0, rel=1e-4)
    clock.now_s = 51.0
    assert seen(window).ended == 0  # all of it is older than the horizon now


def test_the_first_answer_is_not_read_as_thousands_a_second(window: Window) -> None:
    window.ended(1.0, met=True)
    assert seen(window).served_per_s == 10.0


def test_batches(window: Window) -> None:
    window.record_batch("a", Shape(4, 16), elapsed_ms=12.0, predicted_ms=10.0, real_tokens=48)
    window.record_batch("b", Shape(1, 16), elapsed_ms=8.0, predicted_ms=10.0, real_tokens=16)
    signals = seen(window)
    assert signals.batches == 2
    assert signals.cost_ratio_mean == pytest.approx(1.0)
    assert signals.cost_ratio_max == pytest.approx(1.2)
    assert signals.padded_ratio == pytest.approx(16 / 80)


def test_the_memory_pattern_is_that_of_the_mean_batch(window: Window) -> None:
    none = (0.0, 0.0, 0.0, 0.0)

    def pattern() -> tuple[float, ...]:
        signals = seen(window)
        return signals.balance, signals.memory_share, signals.moved_mib, signals.fused

    window.record_batch("a", Shape(4, 16), elapsed_ms=12.0, predicted_ms=10.0, real_tokens=48)
    assert pattern() == none  # the table is not known
    window.pattern = PatternTable(np.arange(16.0 * 4).reshape(8, 2, 4), (16, 32))
    assert pattern() == (24.0, 25.0, 26.0, 27.0)  # 4 × 16
    window.record_batch("b", Shape(1, 32), elapsed_ms=8.0, predicted_ms=10.0, real_tokens=16)
    assert pattern() == (20.0, 21.0, 22.0, 23.0)  # (4 + 1) / 2 rows, 96 / 5 long: 3 × 32


def test_without_a_batch_there_is_no_memory_pattern(window: Window) -> None:
    window.pattern = PatternTable(np.ones((1, 1, 4)), (16,))
    assert (seen(window).balance, seen(window).fused) == (0.0, 0.0)


@pytest.mark.parametrize("predicted_ms", [0.0, float("inf"), float("nan"), -1.0])
def test_a_batch_without_a_prediction_is_neutral(window: Window, predicted_ms: float) -> None:
    window.record_batch("a", Shape(1, 4), 3.0, predicted_ms, real_tokens=4)
    assert (seen(window).cost_ratio_mean, seen(window).cost_ratio_max) == (1.0, 1.0)


def test_the_callers_view_is_passed_on_within_bounds(window: Window) -> None:
    signals = window.snapshot(queue=3, head_slack_ms=-7.5, busy=3)
    assert (signals.queue, signals.head_slack_ms, signals.busy_share) == (3, -7.5, 0.75)
    assert window.snapshot(queue=3, head_slack_ms=float("inf"), busy=9).head_slack_ms == 40.0
    assert window.snapshot(queue=3, head_slack_ms=1.0, busy=9).busy_share == 1.0


events = st.lists(
    st.tuples(st.sampled_from("aerb"), st.floats(0.0, 0.3), st.integers(1, 99)), max_size=50
)


@given(events)
def test_every_field_is_always_finite_and_ratios_are_ratios(
    happened: list[tuple[str, float, int]],
) -> None:
    clock = Clock()
    window = Window(slo_ms=40.0, workers=4, clock=clock)
    for kind, gap_s, size in happened:
        clock.now_s += gap_s
        if kind == "a":
            window.arrived(size)
        elif kind == "e":
            window.ended(float(size), met=size < 50)
        elif kind == "r":
            window.refused()
        else:
            window.record_batch("p", Shape(2, size), size * 1.5, gap_s, real_tokens=size)
    signals = seen(window)
    assert all(isfinite(value) for value in signals.compact().values())
    for name in ("met_ratio", "refused_ratio", "busy_share", "padded_ratio"):
        assert 0.0 <= getattr(signals, name) <= 1.0
    assert signals.met_ratio + signals.refused_ratio <= 1.0 + 1e-12
    recent = [k for k, t in _dated(happened) if t > clock.now_s - 1.0]
    assert sum(signals.arrivals_100ms) == recent.count("a")
    assert signals.ended == recent.count("e") + recent.count("r")


def _dated(happened: list[tuple[str, float, int]]) -> list[tuple[str, float]]:
    now_s, dated = 50.0, []
    for kind, gap_s, _ in happened:
        now_s += gap_s
        dated.append((kind, now_s))
    return dated


def test_compact_leaves_out_the_histories(window: Window) -> None:
    compact = seen(window).compact()
    assert set(compact) == {f.name for f in fields(Signals)} - {"arrivals_100ms", "arrivals_10ms"}
    assert all(type(value) is float for value in compact.values())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"slo_ms": 0.0}, "slo_ms must be finite and above 0, got 0.0"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"horizon_s": 0.5}, "horizon_s must be at least 1, got 0.5"),
    ],
)
def test_nonsense_is_named(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Window(**{"slo_ms": 1.0, "workers": 1, **wrong})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="latency_ms must be finite, got nan"):
        Window(slo_ms=1.0, workers=1).ended(float("nan"), met=True)


def test_the_ring_follows_the_rate_and_forgets() -> None:
    ring = EventRing(columns=2, horizon_s=1.0, capacity=4)
    for i in range(1000):
        ring.append((i * 0.01, float(i)))
        if i % 50 == 0:
            ring.since(0.0)
    assert ring.since(8.985)[:, 1].tolist() == [float(i) for i in range(899, 1000)]
    assert len(ring._rows) <= 512  # 100 live rows, and 50 new ones, need no more
    for i in range(1000):
        ring.append((100.0 + i, float(i)))  # now one row a second
    assert ring.since(1098.5)[:, 1].tolist() == [999.0]


def test_a_ring_nobody_looks_at_does_not_grow_for_ever() -> None:
    ring = EventRing(columns=1, horizon_s=1.0)
    for i in range(100_000):
        ring.append((i * 0.01,))
    assert len(ring._new) + len(ring._rows) < 4096
    assert ring.since(998.995)[:, 0].tolist() == pytest.approx(
        [i * 0.01 for i in range(99900, 100_000)]
    )


def test_no_event_is_lost_between_threads(clock: Clock) -> None:
    window = Window(slo_ms=1.0, workers=1, clock=clock)

    def work() -> None:
        for _ in range(2000):
            window.arrived(3)
            window.ended(1.0, met=True)
            window.refused()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    signals = seen(window)
    assert (signals.arrivals_100ms[-1], signals.ended) == (8000, 16000)


def test_who_is_turned_away_counts_as_arrived_and_refused(clock: Clock) -> None:
    one, other = (Window(slo_ms=40.0, workers=4, clock=clock) for _ in range(2))
    times_s = [50.0 + 0.01 * k for k in range(10)]
    arrive(one, clock, *times_s, length=7)
    for clock.now_s in times_s:
        one.refused()
    other.turned_away(times_s, 7)
    assert seen(other).refused_ratio == 1.0
    assert seen(other).arrivals_10ms == seen(one).arrivals_10ms
    assert seen(other).mean_length == 7.0
    assert other.arrival_per_s() == pytest.approx(one.arrival_per_s())
