"""A rollout goes one stage at a time, and back at once; every step follows from values alone."""

from __future__ import annotations

import itertools
import random
from dataclasses import FrozenInstanceError, replace

import pytest

from evolve.rollout.gate import Evidence, Gate
from evolve.rollout.rollout import Rollout, Stage, advance, share_of

GATE = Gate(least=0.98, min_samples=64)
GOOD = Evidence(samples=10_000, mean=0.99)
ORDER = (Stage.SHADOW, Stage.CANARY, Stage.FULL)


def test_it_goes_one_stage_at_a_time_however_much_was_seen() -> None:
    rollout, seen = Rollout(), []
    for samples in (10_000, 10_000, 20_000, 20_000, 30_000):
        rollout = advance(rollout, replace(GOOD, samples=samples), GATE)
        seen.append(rollout.stage)
    assert seen == [Stage.CANARY, Stage.CANARY, Stage.FULL, Stage.FULL, Stage.FULL]


@pytest.mark.parametrize("stage", ORDER)
def test_each_stage_counts_its_own_samples(stage: Stage) -> None:
    rollout = Rollout(stage, since=500)
    assert advance(rollout, replace(GOOD, samples=563), GATE) is rollout
    after = advance(rollout, replace(GOOD, samples=564), GATE)
    assert after.stage is (Stage.FULL if stage is not Stage.SHADOW else Stage.CANARY)
    assert after.since == (564 if stage is not Stage.FULL else 500)


def test_samples_that_are_not_good_enough_keep_it_where_it_is() -> None:
    rollout = Rollout()
    assert advance(rollout, replace(GOOD, mean=0.979), GATE) is rollout


@pytest.mark.parametrize("stage", ORDER)
@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (Evidence(fault="its worker crashed"), "its worker crashed"),
        (Evidence(1, 0.0, is_below=True), "it agrees 0.0000 with the original over 1 answers"),
        (Evidence(10_000, 0.99, fault="hung"), "hung"),
    ],
)
def test_a_fault_takes_it_back_before_any_minimum(stage: Stage, bad: Evidence, why: str) -> None:
    back = advance(Rollout(stage), bad, GATE)
    assert back.stage is Stage.ROLLED_BACK
    assert back.reason.startswith(why)
    assert advance(back, GOOD, GATE) is back, "for good"


def test_what_it_may_answer_follows_from_its_stage() -> None:
    assert [share_of(stage, GATE) for stage in Stage] == [0.0, 0.1, 1.0, 0.0]


def test_whatever_comes_it_never_skips_a_stage_nor_leaves_the_last() -> None:
    rng = random.Random(0)
    for _ in range(300):
        walked, samples, rollout = [Stage.SHADOW], 0, Rollout()
        for _ in range(20):
            samples += rng.randrange(60)
            evidence = Evidence(
                samples,
                rng.choice((0.97, 0.99)),
                rng.random() < 0.02,
                rng.choice([""] * 40 + ["x"]),
            )
            before, rollout = rollout, advance(rollout, evidence, GATE)
            assert (rollout is before) == (rollout.stage is before.stage)
            walked.append(rollout.stage)
        stages = [stage for stage, _ in itertools.groupby(walked)]
        ended = stages[-1:] == [Stage.ROLLED_BACK]
        assert tuple(stages[: len(stages) - ended]) == ORDER[: len(stages) - ended]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"least": 1.5}, "least must be above 0 and at most 1, got 1.5"),
        ({"min_samples": 0}, "min_samples must be at least 1, got 0"),
        ({"canary_share": 0.0}, "canary_share must be above 0 and at most 1, got 0.0"),
    ],
)
def test_a_gate_names_its_rules(arguments: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Gate(**{"least": 0.98, **arguments})  # type: ignore[arg-type]


def test_states_are_values() -> None:
    with pytest.raises(FrozenInstanceError):
        Rollout().stage = Stage.FULL  # type: ignore[misc]
