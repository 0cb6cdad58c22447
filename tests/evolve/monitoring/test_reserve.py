"""What of each deadline is kept back: as much as keeps late answers rare, and no longer."""

from __future__ import annotations

import random

import pytest

from evolve.data_plane.scheduler import Scheduler
from evolve.monitoring.reserve import Reserve
from tests.evolve.data_plane.test_scheduler import request, tables, take


@pytest.mark.parametrize("typical_ms", [0.5, 2.0])
def test_late_answers_become_rare_however_far_predictions_are_off(typical_ms: float) -> None:
    rng, reserve, late = random.Random(0), Reserve(slo_ms=50.0), 0
    for index in range(40_000):
        is_late = rng.expovariate(1 / typical_ms) > reserve.ms
        reserve.ended(met=not is_late)
        late += is_late and index >= 20_000
    assert 0.0025 < late / 20_000 < 0.0075


def test_it_never_takes_more_than_a_quarter_of_the_slo_and_is_forgotten() -> None:
    reserve = Reserve(slo_ms=50.0)
    for _ in range(1000):
        reserve.ended(met=False)
    assert reserve.ms == pytest.approx(12.5)
    for _ in range(600):  # a minute of ticks
        reserve.fade(0.1)
    assert reserve.ms < 0.05


def test_a_request_is_planned_to_be_early_by_the_reserve() -> None:
    reserve = Reserve(slo_ms=10.0)
    one = Scheduler(
        tables(), limit=9, rate_per_s=lambda: 0.0, now_ms=lambda: 0.0, slo_ms=10.0, reserve=reserve
    )
    one._ran_ms = 0.0  # prices are borne out
    one.submit(request(slo_ms=2.5))  # takes 2 ms
    assert take(one).requests
    one.release(0)
    reserve.ms = 1.0
    one.submit(request(slo_ms=2.5))
    batch = take(one)
    assert not batch.requests
    assert len(batch.refused) == 1
