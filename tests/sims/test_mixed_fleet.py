"""Unlike devices behind one queue: what each did, worked by hand and at 95 % of capacity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from policies.presets import DEFAULT
from sims.gym.domain import capacity_per_s
from sims.scenarios.mixed_fleet import (
    IMAGE_BYTES,
    IMAGES,
    FleetResult,
    mixed_fleet,
    own_per_s,
    partitioned,
    pooled,
    service,
)
from sims.service import PLACEMENTS, Service, Units
from sims.traces import Trace, bursty

ONE = np.ones(1, np.int32)
FLEET = service(mixed_fleet())


def two() -> Service:
    """A unit of 10 ms per request and one of 30 ms, one at a time."""
    units = replace(Units.alike(2), kind=np.arange(2))
    return Service(np.array([[[[10.0]]], [[[30.0]]]]), np.ones(1), 100.0, 2, units=units)


def trace_of(*arrivals_s: float) -> Trace:
    return Trace(np.array(arrivals_s), np.ones(len(arrivals_s), np.int32), "by hand")


def at_95(cv2: float = 1.0) -> Trace:
    return bursty(0.95 * own_per_s(FLEET).sum(), 5.0, cv2=cv2, seed=0, lengths=ONE)


def test_the_service_is_the_fleet() -> None:
    fleet, table = mixed_fleet(), FLEET.table("cost_ms")
    assert FLEET.workers == len(fleet.units) == table.shape[0]
    slowest = table[:, 0, 0, 0].max()
    assert FLEET.slo_ms == pytest.approx(10 * slowest)
    np.testing.assert_array_equal(table[0], table[1])  # two A100 at the same distance
    # An H100 is over the network: its table holds the way of the images as well.
    bare = fleet.units[2].device.latency_ms
    way = fleet.transfer_ms(16 * IMAGE_BYTES)[2]
    assert table[2, 0, 15, 0] == pytest.approx(bare(IMAGES.work(16, 1)) + way)
    with pytest.raises(ValueError, match="slo_times must be finite and greater than 0, got 0"):
        service(fleet, slo_times=0.0)


def test_own_capacities_add_up() -> None:
    assert own_per_s(two()).tolist() == pytest.approx([100.0, 1000 / 30])
    assert own_per_s(FLEET).sum() == pytest.approx(capacity_per_s(FLEET, ONE))
    long = Service(np.ones((1, 1, 2)), np.array([1.0, 2.0]), 50.0, 1)
    with pytest.raises(ValueError, match="service must have one length, got 2"):
        own_per_s(long)


def test_shares_worked_by_hand() -> None:
    # Both start at 0; the fast one is free again at 10 and 20 ms, and the last answer is at 30.
    result = pooled(two(), trace_of(0.0, 0.0, 0.0, 0.0), DEFAULT)
    assert result.busy.tolist() == pytest.approx([1.0, 1.0])
    assert result.work.tolist() == pytest.approx([1.0, 1.0])
    assert result.choice == 0.25  # only the very first batch found both free
    assert (result.met, result.name) == (1.0, "default, order")


def test_figures_of_shares() -> None:
    result = FleetResult("x", 1.0, np.array([0.8, 1.0]), np.array([0.5, 0.9]))
    assert (result.busy_mean, result.work_mean) == pytest.approx((0.9, 0.7))
    assert (result.busy_spread, result.work_spread) == pytest.approx((0.2, 0.4))
    assert result.busy_cv == pytest.approx(0.1 / 0.9)


def test_own_queues_waste_what_one_queue_uses() -> None:
    trace = trace_of(*np.linspace(0.0, 2.0, 240).tolist())  # 120/s of 133
    alone = partitioned(two(), trace, DEFAULT, seed=0)
    together = pooled(two(), trace, DEFAULT)
    assert together.met > alone.met
    assert together.busy_mean > alone.busy_mean
    assert alone.choice == 0.0
    again = partitioned(two(), trace, DEFAULT, seed=0)
    assert again.busy.tolist() == alone.busy.tolist()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_at_95_percent_every_unit_is_used_and_answers_are_in_time(placement: str) -> None:
    placed = service(mixed_fleet(), placement=placement)
    for cv2 in (1.0, 8.0):
        result = pooled(placed, at_95(cv2), DEFAULT)
        assert result.met >= 0.99
        assert result.busy_mean >= 0.9
        assert result.busy_spread < 0.05
        assert result.choice < 0.05  # all units are busy: there is nothing to place


def test_own_queues_are_uneven_at_95_percent() -> None:
    alone = partitioned(FLEET, at_95(), DEFAULT, seed=0)
    assert alone.busy_spread > pooled(FLEET, at_95(), DEFAULT).busy_spread
    assert alone.met > 0.99
