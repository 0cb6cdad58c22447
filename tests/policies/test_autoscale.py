"""Autoscalers tick by tick, worked by hand from the published formulas."""

from __future__ import annotations

import math

import pytest

from policies.autoscale import (
    Autoscaler,
    HorizontalPodAutoscaler,
    KnativePodAutoscaler,
    Load,
    WarmPool,
)

SCALERS = (HorizontalPodAutoscaler(0.7), KnativePodAutoscaler(10.0), WarmPool(300.0))


def at(seconds: float, workers: int, demand: float, ready: int | None = None) -> Load:
    return Load(seconds * 1e3, workers, workers if ready is None else ready, demand)


def hpa(target: float = 0.5) -> HorizontalPodAutoscaler:
    return HorizontalPodAutoscaler(target, first_ms=0.0)


@pytest.mark.parametrize(
    ("workers", "busy", "wanted"),
    [
        (4, 3.6, 8),  # 4 x 0.9 / 0.5 = 7.2
        (10, 10.0, 20),
        (4, 2.0, 4),
        (4, 2.19, 4),  # ratio 1.095: within the tolerance of 0.1
        (4, 2.21, 5),  # ratio 1.105: 4.42
        (10, 4.6, 10),  # ratio 0.92
        (10, 4.4, 9),  # ratio 0.88: 8.8
        (4, 0.0, 1),
    ],
)
def test_hpa_follows_the_formula_outside_its_tolerance(
    workers: int, busy: float, wanted: int
) -> None:
    assert hpa().tick(at(0, workers, busy)) == wanted


def test_hpa_adds_four_workers_or_doubles_them_at_most() -> None:
    assert hpa(1.0).tick(at(0, 1, 50.0)) == 5
    assert hpa(1.0).tick(at(0, 4, 50.0)) == 8
    assert hpa(1.0).tick(at(0, 17, 500.0)) == 34


def test_hpa_evaluates_every_15_s_the_mean_since_the_last_time() -> None:
    scaler = HorizontalPodAutoscaler(1.0)
    assert [scaler.tick(at(s, 2, 4.0)) for s in (5, 10)] == [2, 2]
    assert scaler.tick(at(15, 2, 1.0)) == 3  # (2 + 2 + 0.5) / 3 = 1.5 per worker
    assert scaler.tick(at(29, 3, 30.0)) == 3
    assert scaler.tick(at(30, 3, 0.0)) == 7  # 5 per worker: 15, but at most 4 more


def test_hpa_counts_starting_workers_as_idle_when_more_are_wanted() -> None:
    # One of two serves at 1.4 of its target; with an idle second one that is 0.7.
    assert hpa(1.0).tick(at(0, 2, 1.4, ready=1)) == 2
    assert hpa(1.0).tick(at(0, 2, 2.1, ready=1)) == 2  # 1.05: within the tolerance
    assert hpa(1.0).tick(at(0, 2, 2.5, ready=1)) == 3


def test_hpa_scales_down_to_the_most_wanted_in_300_s() -> None:
    scaler, workers, seen = hpa(1.0), 10, {}
    for k in range(23):
        workers = scaler.tick(at(15 * k, workers, 10.0 if k == 0 else 6.0 if k == 1 else 1.0))
        seen[15 * k] = workers
    assert seen[300] == 10  # the figure of second 0 is still in the window
    assert seen[315] == 6  # that of second 15 is the largest left
    assert seen[330] == 1


def kpa() -> KnativePodAutoscaler:
    return KnativePodAutoscaler(10.0, first_ms=0.0)


def test_kpa_is_stable_below_twice_its_target() -> None:
    calm, over = kpa(), kpa()
    assert calm.tick(at(0, 4, 70.0)) == 7
    assert not calm.panics
    assert over.tick(at(0, 4, 72.0)) == 8  # twice the four that are ready
    assert over.panics


def test_kpa_panics_on_six_seconds_and_holds_for_sixty() -> None:
    scaler, workers, seen = kpa(), 2, {}
    for s in range(0, 142, 2):
        demand = 20.0 if s < 60 else 200.0 if s < 70 else 10.0
        workers = scaler.tick(at(s, workers, demand))
        seen[s] = workers
    assert seen[58] == 2
    assert seen[60] == 8  # (20 + 20 + 200) / 3 = 80: four times what is ready
    assert (seen[62], seen[64]) == (14, 20)
    assert seen[120] == 20  # in panic it does not scale down
    # At 64 s 20 wanted by 14 ready is no longer twice: the last such moment was 60 s.
    assert seen[122] == 10  # calm again: 40 / 10 wanted, but at most halved
    assert scaler.panics is False
    assert seen[140] == 1


def test_kpa_goes_by_the_mean_of_the_stable_window() -> None:
    scaler = KnativePodAutoscaler(1.0)
    demands = {s: 4.0 + s % 2 for s in range(1, 61)}  # 4 and 5: mean 4.5
    wanted = [scaler.tick(at(s, 4, demand)) for s, demand in demands.items()]
    assert wanted[0] == 4  # nothing before the first evaluation
    assert wanted[-1] == 5


def test_kpa_never_goes_below_one_worker() -> None:
    assert kpa().tick(at(0, 1, 0.0)) == 1


def test_the_warm_pool_rises_at_once_and_falls_after_its_window() -> None:
    pool = WarmPool(100.0, headroom=1.0, window_ms=5000.0)
    wanted = [pool.tick(at(s, 1, d)) for s, d in enumerate((100, 950, 100, 300, 100, 100, 100))]
    assert wanted == [1, 10, 10, 10, 10, 10, 3]
    assert [pool.tick(at(s, 3, 0.0)) for s in (7, 8, 9)] == [3, 1, 1]


def test_headroom_is_a_factor() -> None:
    assert WarmPool(100.0, headroom=1.5).tick(at(0, 1, 200.0)) == 3


@pytest.mark.parametrize("scaler", SCALERS, ids=lambda scaler: type(scaler).__name__)
def test_each_is_an_autoscaler(scaler: object) -> None:
    assert isinstance(scaler, Autoscaler)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Load(0.0, 1, 2, 0.0), r"ready must be in 1\.\.workers \(1\), got 2"),
        (lambda: Load(0.0, 1, 1, -1.0), "demand must be finite and at least 0, got -1.0"),
        (lambda: HorizontalPodAutoscaler(0.0), "target must be finite and greater than 0, got 0.0"),
        (
            lambda: HorizontalPodAutoscaler(0.5, tolerance=-0.1),
            "tolerance must be finite and at least 0, got -0.1",
        ),
        (
            lambda: KnativePodAutoscaler(math.inf),
            "target must be finite and greater than 0, got inf",
        ),
        (
            lambda: KnativePodAutoscaler(1.0, most_down=1.0),
            "most_down must be finite and greater than 1, got 1.0",
        ),
        (
            lambda: KnativePodAutoscaler(1.0, stable_ms=10.0),
            "stable_ms must be finite and at least 6000, got 10.0",
        ),
        (lambda: WarmPool(300.0, headroom=0.9), "headroom must be finite and at least 1, got 0.9"),
    ],
)
def test_what_makes_no_sense_is_refused(make: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()  # type: ignore[operator]
