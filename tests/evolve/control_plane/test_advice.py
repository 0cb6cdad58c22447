"""Whatever a policy does, the service ticks on, says so once, and closes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import evolve
from evolve.control_plane.advice import Advisor, NoAdvice
from policies.base import Choice
from policies.baselines import DEFAULT_CHOICE
from policies.presets import DEFAULT
from policies.rule import RuleParams
from tests.waiting import eventually

SIGNALS: Any = None


class Staged:
    """Does what the test says when it is asked."""

    name = "staged"

    def __init__(self, behaviour: Callable[[], Any]) -> None:
        self.behaviour = behaviour
        self.asked = 0

    def choose(self, signals: object, current: Choice) -> Choice:
        self.asked += 1
        answer: Choice = self.behaviour()
        return answer


def raises() -> None:
    raise RuntimeError("staged")


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        (raises, r"it raised RuntimeError\('staged'\)"),
        (sys.exit, r"it raised SystemExit\(\)"),
        (lambda: 7, "it must give a Choice, got int"),
    ],
)
def test_what_is_no_choice_is_no_advice(behaviour: Callable[[], Any], why: str) -> None:
    advisor = Advisor(Staged(behaviour))
    for _ in range(3):  # and its thread lives on
        with pytest.raises(NoAdvice, match=why):
            advisor.choose(SIGNALS, DEFAULT_CHOICE)
    advisor.stop()


def test_a_late_answer_is_not_taken_for_the_next() -> None:
    go_on, answers = threading.Event(), iter([Choice(DEFAULT, "late"), Choice(DEFAULT, "in time")])

    def late() -> Choice:
        go_on.wait(60)
        return next(answers)

    policy = Staged(late)
    advisor = Advisor(policy, patience_s=0.05)
    with pytest.raises(NoAdvice, match=r"no answer within 0\.05 s"):
        advisor.choose(SIGNALS, DEFAULT_CHOICE)
    for _ in range(3):
        with pytest.raises(NoAdvice, match="not answered the last question yet"):
            advisor.choose(SIGNALS, DEFAULT_CHOICE)
    assert policy.asked == 1
    go_on.set()
    assert eventually(lambda: not advisor._answers.empty())
    assert advisor.choose(SIGNALS, DEFAULT_CHOICE).reason == "in time"
    advisor.stop()


@pytest.fixture
def served(
    mlp: torch.nn.Module, config: evolve.Config
) -> Iterator[Callable[[Callable[[], Any]], tuple[evolve.Runtime, Staged]]]:
    made: list[evolve.Runtime] = []

    def serve(behaviour: Callable[[], Any]) -> tuple[evolve.Runtime, Staged]:
        quick = config.replace(tick_ms=5.0)
        made.append(evolve.wrap(mlp, (torch.randn(1, 8),), slo=evolve.SLO(100.0), config=quick))
        assert made[-1].wait_for_plans(60)
        policy = Staged(behaviour)
        made[-1].parts.controller.follow(policy)
        return made[-1], policy

    yield serve
    for runtime in made:
        runtime.close()


def told(runtime: evolve.Runtime, what: str) -> list[str]:
    return [d.reason for d in runtime.decisions(1000) if what in d.reason]


@pytest.mark.parametrize("behaviour", [raises, sys.exit, lambda: None])
def test_a_failing_policy_is_told_once_and_the_tick_goes_on(
    served: Callable[..., tuple[evolve.Runtime, Staged]],
    mlp: torch.nn.Module,
    behaviour: Callable[[], Any],
) -> None:
    runtime, policy = served(behaviour)
    assert eventually(lambda: policy.asked > 50)
    said = told(runtime, "the policy proposes nothing")
    assert len([one for one in said if "it raised" in one or "must give a Choice" in one]) == 1
    x = torch.randn(1, 8)
    assert torch.allclose(runtime.submit(x).result(timeout=30), mlp(x), atol=1e-6)


def test_a_policy_that_hangs_holds_up_neither_the_tick_nor_the_end(
    served: Callable[..., tuple[evolve.Runtime, Staged]],
) -> None:
    for_ever = threading.Event()
    runtime, policy = served(lambda: for_ever.wait(600))
    try:
        assert eventually(lambda: policy.asked == 1)
        controller = runtime.parts.controller
        before = controller.ticks
        assert eventually(lambda: controller.ticks > before + 20)
        assert policy.asked == 1
        began_s = time.monotonic()
        runtime.close()
        assert time.monotonic() - began_s < 30
    finally:
        for_ever.set()


def test_a_hold_longer_than_the_deadline_is_vetoed(
    served: Callable[..., tuple[evolve.Runtime, Staged]], mlp: torch.nn.Module
) -> None:
    runtime, _ = served(lambda: Choice(RuleParams("patient", wait_ms=1e9), "staged"))
    assert eventually(lambda: bool(told(runtime, "wait_ms must be at most 50")))
    futures = [runtime.submit(torch.randn(1, 8)) for _ in range(20)]
    assert all(f.exception(timeout=30) is None for f in futures)
    assert runtime.parts.controller.choice.params.wait_ms == 0.0
