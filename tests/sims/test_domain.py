"""What episodes are drawn from: within the ranges, and ranges that make sense."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest

from policies.presets import DEFAULT
from sims.engine.inputs import make_inputs
from sims.gym.domain import REGIMES, LoadDomain, capacity_per_s
from sims.service import Service, Units
from sims.traces import NoArrivals, Trace, poisson

POSITIVE = ("load", "workers", "slo_ms", "slower", "resident", "drift")
OR_ZERO = ("unevenness", "switch_ms", "load_ms", "scatter", "spike_share", "learning")


@pytest.mark.parametrize("name", POSITIVE)
def test_a_range_of_what_cannot_be_nothing(name: str) -> None:
    for given in ((0, 1), (-1, 1), (2, 1), (1, math.inf), (math.nan, 1), (1, math.nan)):
        with pytest.raises(ValueError, match=rf"{name} must be \(low, high\) with 0 < low <= high"):
            LoadDomain(**{name: given})
    LoadDomain(**{name: (1, 1)})


@pytest.mark.parametrize("name", OR_ZERO)
def test_a_range_that_may_begin_at_nothing(name: str) -> None:
    for given in ((-1, 1), (2, 1), (0, math.inf), (math.nan, 1), (0, math.nan)):
        text = rf"{name} must be \(low, high\) with 0 <= low <= high, got \("
        with pytest.raises(ValueError, match=text):
            LoadDomain(**{name: given})
    LoadDomain(**{name: (0, 0)})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"seconds": 0.5}, r"seconds must be finite and at least 1, got 0\.5"),
        ({"seconds": math.inf}, "seconds must be finite and at least 1, got inf"),
        ({"regimes": ()}, "regimes must hold at least one, got none"),
    ],
)
def test_other_settings_that_make_no_sense(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        LoadDomain(**changes)


def test_draws_stay_within_their_ranges_and_reach_both_ends() -> None:
    domain = LoadDomain(
        seconds=1.0, workers=(2, 4), slo_ms=(30.0, 40.0), slower=(0.5, 2.0), switch_ms=(1.0, 2.0),
        load_ms=(5.0, 9.0), resident=(1, 3), learning=(0.1, 0.3), drift=(0.8, 1.2),
        drift_every_ms=200.0,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    drawn = [domain.draw_service(rng) for _ in range(200)]
    assert {service.workers for service in drawn} == {2, 3, 4}
    assert {service.switching.resident for service in drawn} == {1, 2, 3}
    for low, high, values in (
        (30.0, 40.0, [service.slo_ms for service in drawn]),
        (0.5, 2.0, [float(service.units.slower[0]) for service in drawn if service.units]),
        (1.0, 2.0, [service.switching.switch_ms for service in drawn]),
        (5.0, 9.0, [service.switching.load_ms for service in drawn]),
        (0.1, 0.3, [service.learning for service in drawn]),
        (0.8, 1.2, np.concatenate([service.hidden.drift for service in drawn]).tolist()),
    ):
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
    for service in drawn:  # even speeds, unless asked otherwise
        assert service.units is not None
        assert np.ptp(service.units.slower) == 0.0
        assert service.hidden.drift_every_ms == 200.0
    make_inputs(drawn, [poisson(50.0, 1.0, seed=0)], [DEFAULT])  # they share their tables


def test_uneven_workers_keep_their_mean_speed() -> None:
    domain = LoadDomain(workers=(4, 4), slower=(1.5, 1.5), unevenness=(0.5, 0.5))
    service = domain.draw_service(np.random.default_rng(0))
    assert service.units is not None
    assert np.ptp(service.units.slower) > 0.1
    assert np.exp(np.log(service.units.slower).mean()) == pytest.approx(1.5)


def test_an_episode_has_the_load_that_was_drawn() -> None:
    domain = LoadDomain(regimes=(poisson,), load=(0.5, 0.5), seconds=20.0)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        service, trace = domain.draw(rng)
        lengths = domain.lengths(np.random.default_rng(99))
        load = trace.rate_per_s / capacity_per_s(service, lengths)
        assert load == pytest.approx(0.5, rel=0.15)
        assert trace.seconds <= 20.0


def test_an_empty_draw_is_drawn_again() -> None:
    asked: list[int] = []

    def shy(rate_per_s: float, seconds: float, *, seed: int, lengths: Any) -> Trace:
        asked.append(seed)
        if len(asked) < 3:
            raise NoArrivals("none")
        return poisson(rate_per_s, seconds, seed=seed, lengths=lengths)

    domain = LoadDomain(regimes=(shy,))
    domain.draw(np.random.default_rng(0))
    assert len(set(asked)) == 3


def test_every_regime_can_be_drawn() -> None:
    for regime in REGIMES:
        domain = LoadDomain(regimes=(regime,), seconds=2.0)
        _, trace = domain.draw(np.random.default_rng(1))
        assert len(trace) > 0
        assert trace.lengths.max() <= domain.base.lengths[-1]
    assert any(isinstance(regime, partial) for regime in REGIMES)


def test_capacity_counts_each_worker_by_its_kind_and_speed() -> None:
    cost_ms = np.stack([np.full((1, 2, 1), 10.0), np.full((1, 2, 1), 40.0)])
    units = Units(
        np.array([0, 1, 0]), np.array([1.0, 1.0, 2.0]), np.zeros(3), np.full((3, 2), np.inf)
    )
    service = Service(cost_ms, np.ones(1), 50.0, 3, units=units)
    # Two rows in 10, 40 and 20 ms.
    assert capacity_per_s(service, np.ones(4, np.int32)) == pytest.approx(200 + 50 + 100)
