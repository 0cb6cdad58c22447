"""Tiers answer no more than their share, and nothing while they are in shadow."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

import evolve
from evolve.data_plane.traffic_split import MOST_AHEAD, MOST_CREDIT_S, SHADOW_SHARE, TrafficSplit
from evolve.errors import PlanDeclined, WorkerCrashed
from supernet.plans import ORIGINAL, Plan, PlanLibrary, PlanState
from tests.evolve.data_plane.test_recovery import raises, serve, staged_plan
from tests.waiting import eventually

__all__ = ["serve"]


def small_plan(backend: str = "staged", subnet: str = "half") -> Plan:
    plan = staged_plan()
    return replace(plan, spec=replace(plan.spec, backend=backend), subnet=subnet, quality=0.99)


@pytest.fixture
def held() -> tuple[TrafficSplit, list[float], Plan, Plan]:
    """A split over an exact plan and one of a sub-network, both admitted, and its clock."""
    library, clock = PlanLibrary(), [0.0]
    exact, small = small_plan("exact", ""), small_plan()
    for plan in (exact, small):
        library.put(plan)
        library.move(plan.key, PlanState.ADMITTED, "its price is known")
    return TrafficSplit(library, lambda: clock[0]), clock, exact, small


Held = tuple[TrafficSplit, list[float], Plan, Plan]


def test_what_nothing_is_said_of_is_not_held_back(held: Held) -> None:
    split, _, _, small = held
    assert not split.is_active
    assert split.withheld() == frozenset()
    split.allow("half", 0.0)
    assert split.is_active
    assert split.withheld() == {small.key}
    split.allow("half", 1.0)
    assert not split.is_active
    split.allow("half", 0.0)
    split.forget("half")
    assert split.withheld() == frozenset()


def test_in_shadow_it_never_takes_a_batch(held: Held) -> None:
    split, _, exact, small = held
    split.allow("half", 0.0)
    for _ in range(1_000):
        split.took(exact.key, 16)
        assert split.withheld() == {small.key}


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_a_canary_takes_its_share_of_all_that_begins_and_no_more(held: Held, share: float) -> None:
    """In batches of any size, whenever it is let, from the start and on any stretch."""
    split, _, exact, small = held
    split.allow("half", share)
    rng, taken = random.Random(0), [(0, 0)]
    for _ in range(5_000):
        size = rng.randrange(1, 17)
        own = small.key not in split.withheld()
        split.took(small.key if own else rng.choice((exact.key, ORIGINAL)), size)
        taken.append((taken[-1][0] + size, taken[-1][1] + size * own))
    total, own = taken[-1]
    assert share * total - 2 * MOST_AHEAD <= own <= share * total + MOST_AHEAD
    for _ in range(200):
        begin, end = sorted(rng.sample(range(len(taken)), 2))
        total, own = (taken[end][i] - taken[begin][i] for i in (0, 1))
        assert own <= share * total + 2 * MOST_AHEAD


def test_a_quiet_hour_earns_no_burst(held: Held) -> None:
    split, _, exact, small = held
    split.allow("half", 0.1)
    split.took(exact.key, 100_000)
    burst = 0
    while small.key not in split.withheld():
        split.took(small.key, 1)
        burst += 1
    assert burst <= MOST_AHEAD + 1


def test_requests_are_tried_within_a_share_of_the_time(held: Held) -> None:
    split, clock, exact, small = held
    everything = {exact.key, small.key}
    assert split.shadow(everything) is None, "nothing is in shadow"
    split.allow("half", 0.0)
    spent_s = 0.0
    for step in range(100_000):
        clock[0] = step * 1e-3
        if (plan := split.shadow(everything)) is not None:
            assert plan == small.key
            split.spent(0.005)
            spent_s += 0.005
    assert spent_s == pytest.approx(SHADOW_SHARE * clock[0], rel=0.01)
    clock[0] += 1e6
    assert split.shadow(everything) == small.key
    split.spent(MOST_CREDIT_S)
    assert split.shadow(everything) is None, "no more is saved up"
    clock[0] += 10.0
    assert split.shadow({exact.key}) is None, "it is not loaded here"


def test_plans_in_shadow_take_turns() -> None:
    library, clock = PlanLibrary(), [0.0]
    plans = [small_plan("one"), small_plan("two"), small_plan("three", "other")]
    for plan in plans:
        library.put(plan)
        library.move(plan.key, PlanState.ADMITTED, "its price is known")
    split = TrafficSplit(library, lambda: clock[0])
    split.allow("half", 0.0)
    split.allow("other", 0.1)
    clock[0] = 10.0
    tried = [split.shadow([plan.key for plan in plans]) for _ in range(4)]
    assert tried == [plans[0].key, plans[1].key] * 2


Serve = Callable[..., tuple[evolve.Runtime, Any, Plan]]


def in_shadow(serve: Serve, behaviour: Any) -> tuple[evolve.Runtime, Plan]:
    """A runtime whose workers run `behaviour` for a plan of a sub-network that is in shadow."""
    runtime, _, exact = serve(behaviour)
    runtime.parts.library.move(exact.key, PlanState.QUARANTINED, "only the original is left")
    runtime.parts.controller.refresh()
    plan = small_plan("small")
    runtime.parts.tiers._rollouts.begin("half")
    runtime.parts.library.put(plan)
    runtime.parts.loading.admit(plan)
    return runtime, plan


def crashes(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    raise WorkerCrashed("worker-0", -signal.SIGSEGV)


@pytest.mark.parametrize("behaviour", [raises, crashes])
def test_what_fails_in_shadow_goes_back_at_once_and_nobody_notices(
    serve: Serve, mlp: torch.nn.Module, behaviour: Any
) -> None:
    runtime, plan = in_shadow(serve, behaviour)
    x, asked = torch.randn(2, 8), 0
    while runtime.parts.library.get(plan.key).state is not PlanState.QUARANTINED:  # type: ignore[union-attr]
        future = runtime.submit(x)
        assert torch.allclose(future.result(30), mlp(x))
        assert future.served_by is not None
        assert future.served_by.plan == ORIGINAL
        assert (asked := asked + 1) < 100_000

    def of_tiers() -> list[evolve.Decision]:
        return [d for d in runtime.decisions(1000) if d.kind == "tier"]

    assert eventually(lambda: bool(of_tiers()))
    assert runtime.parts.tiers._rollouts.of("half").stage.value == "rolled back"  # type: ignore[union-attr]
    (said,) = of_tiers()
    assert (said.before["state"], said.after["state"]) == ("shadow", "rolled back")
    assert said.reason.startswith(f"{plan.key}: ")
    counts = runtime.status()["counts"]
    assert (counts["met"], counts["retried"], counts["raised"]) == (asked, 0, 0)
    assert torch.allclose(runtime.submit(x).result(30), mlp(x))


def test_a_plan_that_declines_in_shadow_is_not_to_blame(serve: Serve) -> None:
    tried: list[int] = []

    def declines(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        tried.append(1)
        raise PlanDeclined("beyond its range")

    runtime, plan = in_shadow(serve, declines)
    while len(tried) < 3:
        runtime.submit(torch.randn(2, 8)).result(30)
    assert runtime.parts.library.get(plan.key).state is PlanState.RESIDENT  # type: ignore[union-attr]


def test_a_direct_call_waits_for_nothing_that_is_tried(serve: Serve) -> None:
    tried: list[int] = []

    def notes(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        tried.append(1)
        return [torch.zeros(len(leaves[0]), 4)]

    runtime, _ = in_shadow(serve, notes)
    for _ in range(300):
        runtime(torch.randn(2, 8))
    assert tried == []
    while not tried:
        runtime.submit(torch.randn(2, 8)).result(30)
