"""The queue and the rule under one lock: who gets what, and who is told no."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

import evolve
from evolve.data_plane.request_queue import Request
from evolve.data_plane.scheduler import DOOR_SHARE, Batch, Door, Scheduler, Tables
from evolve.errors import DeadlineExceeded, QueueFull, RuntimeClosed
from policies.presets import DEFAULT
from supernet.tiers import SUBNET_TIER

NOBODY: frozenset[str] = frozenset()


def tables(**changes: object) -> Tables:
    """Two plans on a grid of 4 rows × lengths 8, 16; "quick" costs half of the original."""
    rows = np.arange(1, 5)[:, None] * np.array([8, 16])[None, :] / 8.0
    made = Tables(
        plans=("original", "quick"),
        cost_ms=np.stack([rows + 1.0, rows / 2 + 0.5]),
        lengths=(8, 16),
        tier=np.zeros(2, np.int64),
        params=DEFAULT,
        buckets_only=frozenset({"quick"}),
        lanes=1,
    )
    return replace(made, **changes)


def request(
    at_ms: float = 0.0, *, length: int = 8, slo_ms: float = 50.0, group: int = 0
) -> Request:
    bucket = 0 if length <= 8 else 1
    return Request((), {}, [], 1, length, bucket, group, at_ms, at_ms + slo_ms, True)


def scheduler(now_ms: float = 0.0, limit: int = 64, **changes: object) -> Scheduler:
    return Scheduler(tables(**changes), limit=limit, rate_per_s=lambda: 0.0, now_ms=lambda: now_ms)


def take(one: Scheduler, resident: frozenset[str] = NOBODY) -> Batch:
    batch = one.take(0, lambda: resident)
    assert batch is not None
    return batch


def test_only_resident_plans_are_chosen() -> None:
    for resident, plan in ((NOBODY, "original"), (frozenset({"quick"}), "quick")):
        one = scheduler()
        one.submit(request())
        assert take(one, resident).plan == plan


@pytest.mark.parametrize(("buckets_only", "length"), [({"original"}, 16), (set(), 13)])
def test_a_batch_is_padded_to_a_bucket_only_where_new_lengths_cost(
    buckets_only: set[str], length: int
) -> None:
    one = scheduler(buckets_only=frozenset(buckets_only))
    members = [request(length=13), request(length=12)]
    for member in members:
        one.submit(member)
    batch = take(one)
    assert set(batch.requests) == set(members)
    assert batch.length == length
    assert batch.price == one.tables.price("original", 2, 1, beside=0)


def test_an_idle_service_refuses_nobody_by_a_price_that_nothing_bears_out() -> None:
    clock = [0.0]
    dear = tables(cost_ms=np.full((2, 4, 2), 200.0))
    one = Scheduler(dear, limit=64, rate_per_s=lambda: 0.0, now_ms=lambda: clock[0])
    tried = request(0.0)
    one.submit(tried)
    assert take(one).requests == (tried,)
    one.release(0)
    for at_ms in (10.0, 999.0):  # what ran is being learned from
        clock[0] = at_ms
        one.submit(soon := request(at_ms))
        assert take(one).refused == (soon,)
        one.release(0)
    clock[0] = 1000.0
    over, again, beside = request(900.0), request(1000.0), request(1000.0)
    for late in (over, again, beside):
        one.submit(late)
    batch = take(one)
    assert batch.requests == (again,)  # the first whose time is not over
    assert set(batch.refused) == {over, beside}


def test_the_hopeless_are_handed_back_as_refused() -> None:
    one = scheduler(now_ms=49.9)
    late, fine = request(0.0), request(49.0)
    one.submit(late)
    one.submit(fine)
    batch = take(one)
    assert batch.refused == (late,)
    assert batch.requests == (fine,)


def test_a_busy_lane_gets_nothing_until_it_is_released() -> None:
    one = scheduler()
    one.submit(request(group=1))
    one.submit(request(group=2))
    take(one)
    got: list[Batch | None] = []
    waiting = threading.Thread(target=lambda: got.append(one.take(0, lambda: NOBODY)))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    assert not got
    one.release(0)
    waiting.join(10)
    assert got
    assert got[0] is not None


def test_a_caller_claims_a_lane_only_when_nobody_waits() -> None:
    one = scheduler()
    assert one.claim() == 0
    assert one.claim() is None
    one.release(0)
    one.submit(request())
    assert one.claim() is None


def test_a_full_queue_and_a_closed_one_refuse() -> None:
    one = scheduler(limit=1)
    first = request()
    one.submit(first)
    with pytest.raises(QueueFull, match=r"queue_limit \(1\) requests already wait"):
        one.submit(request())
    assert one.close() == [first]
    with pytest.raises(RuntimeClosed):
        one.submit(request())
    assert one.take(0, lambda: NOBODY) is None


def test_new_tables_hold_from_the_next_batch_on() -> None:
    one = scheduler()
    one.submit(request(group=1))
    one.submit(request(group=2))
    resident = frozenset({"quick"})
    assert take(one, resident).plan == "quick"
    one.release(0)
    one.use(one.prepare(tables(params=replace(DEFAULT, name="only-original", plans=(0,)))))
    assert take(one, resident).plan == "original"


def test_tables_of_a_lower_version_are_passed_over() -> None:
    one = scheduler()
    older, newer = (
        one.prepare(tables(version=one.next_version(), params=replace(DEFAULT, name=name)))
        for name in ("older", "newer")
    )
    assert one.use(newer)
    assert not one.use(older)
    assert one.tables.params.name == "newer"
    assert one.use(one.prepare(tables(version=one.next_version())))


def test_the_fastest_exact_plan_answers_a_single_call() -> None:
    two_tiers = tables(tier=np.array([0, 3]))
    assert tables().fastest(1, 0, frozenset({"quick"})) == "quick"
    assert tables().fastest(1, 0, NOBODY) == "original"
    assert two_tiers.fastest(1, 0, frozenset({"quick"})) == "original"


@pytest.mark.parametrize("direct", [False, True])
def test_a_sub_network_answers_what_was_submitted_and_no_direct_call(direct: bool) -> None:
    """Under a load that the model's own plans cannot carry; such a batch may hold both."""
    exact, quick = 3.0 * tables().cost_ms
    one = scheduler(
        plans=("original", "small", "quick"), tier=np.array([0, SUBNET_TIER, 0]),
        cost_ms=np.stack([exact, np.full_like(exact, 1e-3), quick]),
    )  # fmt: skip
    for _ in range(60):
        one.submit(request())
    if direct:
        one.submit(replace(request(slo_ms=40.0), refusable=False))
    batch = take(one, frozenset({"small", "quick"}))
    assert direct == any(not r.refusable for r in batch.requests)
    assert batch.plan == ("quick" if direct else "small")


def test_it_tells_when_work_comes_to_an_idle_service_and_when_the_last_is_done() -> None:
    told: list[bool] = []
    one = Scheduler(
        tables(lanes=2), limit=64, rate_per_s=lambda: 0.0, now_ms=lambda: 0.0,
        on_engaged=told.append,
    )  # fmt: skip
    one.submit(request())
    one.submit(request(group=1))
    assert told == [True]
    take(one)
    assert one.take(1, lambda: NOBODY) is not None
    one.release(0)
    assert told == [True]
    one.release(1)
    assert told == [True, False]
    assert one.claim() == 0
    one.release(0)
    assert told == [True, False] * 2
    one.submit(request())
    one.close()
    assert told == [True, False] * 3


def test_the_door_lets_in_what_can_be_done_within_the_slo_and_opens_again() -> None:
    door = Door(limit=4096, slo_ms=20.0)
    door.opened(0.0)
    for now_ms in range(1, 60):  # 5 a millisecond, and more wait all the time
        door.took(5, 1000, float(now_ms))
        assert door.most == 4096 or now_ms > 20
    assert door.most == pytest.approx(5 * 20 * DOOR_SHARE, rel=0.1)
    for now_ms in range(60, 400):  # the service is slower now
        door.took(1, 1000, float(now_ms))
    assert door.most == pytest.approx(1 * 20 * DOOR_SHARE, rel=0.2)
    for k in range(12):
        door.took(1, 0, 400.0 + k)
    assert door.most == 4096


def test_a_burst_after_a_quiet_time_is_not_refused_at_the_door() -> None:
    clock = [0.0]
    one = Scheduler(
        tables(), limit=64, rate_per_s=lambda: 0.0, now_ms=lambda: clock[0], slo_ms=50.0
    )
    for _ in range(63):
        one.submit(request())
        assert not one.is_shut
    one.submit(request())
    with pytest.raises(QueueFull):
        one.submit(request())


def test_what_comes_to_a_shut_door_is_refused_unseen_and_counted(
    mlp: torch.nn.Module, config: evolve.Config
) -> None:
    x = torch.randn(1, 8)
    with evolve.wrap(mlp, (x,), slo=evolve.SLO(1000.0), config=config) as runtime:
        assert runtime.wait_for_plans(60)
        before = runtime.status()["counts"]
        runtime.parts.serving.scheduler._door.most = 0
        future = runtime.submit(x)
        with pytest.raises(DeadlineExceeded, match="refused on arrival"):
            future.result(timeout=5)
        assert torch.allclose(runtime(x), mlp(x), atol=1e-6), "a caller who waits is never refused"
        after = runtime.status()["counts"]
        assert after["refused"] - before["refused"] == 1
        assert after["arrived"] - before["arrived"] == 2


def test_a_batch_is_priced_with_the_lanes_that_compute_beside() -> None:
    one = scheduler(lanes=2, slowdowns=(1.0, 10.0))
    one.submit(request(slo_ms=15.0))
    assert take(one).price == (2.0, 0)  # one row of length 8 on the original
    one.submit(hopeless := request(slo_ms=15.0))
    one.submit(fits := request(slo_ms=25.0))
    batch = one.take(1, lambda: NOBODY)
    assert batch is not None
    assert (batch.requests, batch.refused) == ((fits,), (hopeless,))
    assert batch.price == (20.0, 1)
