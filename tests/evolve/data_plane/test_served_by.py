"""Futures say what their answers came from."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch

import evolve
from evolve.data_plane.served_by import BY_ORIGINAL, Origins, ServedBy
from supernet.plans import ORIGINAL, PlanLibrary, PlanState
from supernet.tiers import SUBNET_TIER
from tests.evolve.data_plane.test_recovery import Behaviour, raises, serve, staged_plan

__all__ = ["serve"]


def right(leaves: object) -> list[torch.Tensor]:
    return [torch.zeros(len(leaves[0]), 4)]  # type: ignore[index]


def test_the_original_answers_by_itself(runtime: evolve.Runtime) -> None:
    future = runtime.submit(torch.ones(1, 8))
    future.result(30)
    assert future.served_by == ServedBy(ORIGINAL, 0, None, 1.0)


@pytest.mark.parametrize(("behaviour", "by_plan"), [(right, True), (raises, False)])
def test_a_plans_answer_names_it_and_one_it_failed_to_give_the_original(
    serve: object, behaviour: Behaviour, by_plan: bool
) -> None:
    runtime, _, plan = serve(behaviour)  # type: ignore[operator]
    future = runtime.submit(torch.ones(1, 8))
    future.result(30)
    due = ServedBy(plan.key, 0, None, 1.0) if by_plan else BY_ORIGINAL
    assert future.served_by == due


def test_where_there_is_no_answer_nothing_is_said(runtime: evolve.Runtime) -> None:
    future = runtime.submit(torch.ones(1, 3))  # the model itself raises
    with pytest.raises(RuntimeError):
        future.result(30)
    assert future.served_by is None
    other = runtime.submit(torch.ones(1, 8))
    other.result(30)
    with pytest.raises(FrozenInstanceError):
        other.served_by.plan = "another"  # type: ignore[union-attr, misc]


def test_a_record_is_made_once_and_anew_where_the_plan_is_known_better() -> None:
    library = PlanLibrary()
    plan = replace(staged_plan(), subnet="half", quality=0.98)
    library.put(plan)
    origins = Origins(library)
    first = origins.of(plan.key)
    assert first == ServedBy(plan.key, SUBNET_TIER + 20, "half", 0.98)
    assert origins.of(plan.key) is first
    library.learn(replace(plan, quality=0.99))
    assert origins.of(plan.key).quality == 0.99
    library.move(plan.key, PlanState.QUARANTINED, "why")
    library.drop("half")
    assert origins.of(plan.key).quality == 0.99, "what ran before it was dismissed"
    assert origins.of("unknown").subnet is None
