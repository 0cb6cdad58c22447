"""Hand-written policies against hand-worked cases, and what every policy must keep to."""

from __future__ import annotations

import pytest

from policies.base import Choice, Policy
from policies.baselines import SPEED, RulePolicy, StaticPolicy, ThresholdPolicy
from policies.params import RuleParams
from policies.presets import DEFAULT, PRESETS, preset_index
from tests.policies.observed import QUIET, signals

START = Choice(DEFAULT, "start")


class PolicyContract:
    """Subclass and give `policy`: what any policy must keep to."""

    def policy(self) -> Policy:
        raise NotImplementedError

    def test_it_is_a_policy_with_a_plain_name(self) -> None:
        policy = self.policy()
        assert isinstance(policy, Policy)
        assert policy.name.replace("-", "").isalnum()

    @pytest.mark.parametrize(
        "seen",
        [
            QUIET,
            signals(ended=0, batches=0, queue=0, p50_ms=0.0, p99_ms=0.0, arrival_per_s=0.0),
            signals(queue=5000, head_slack_ms=-900.0, p99_ms=9e5, arrival_per_s=1e6),
        ],
    )
    def test_the_same_signals_give_the_same_choice(self, seen: object) -> None:
        policy = self.policy()
        first = policy.choose(seen, START)  # type: ignore[arg-type]
        assert first == policy.choose(seen, START)  # type: ignore[arg-type]
        assert first.reason
        assert all(value == value for value in first.scores.values())


class TestRule(PolicyContract):
    def policy(self) -> Policy:
        return RulePolicy()

    def test_it_is_always_the_default(self) -> None:
        assert RulePolicy().choose(signals(queue=900), START).params is DEFAULT


class TestStatic(PolicyContract):
    def policy(self) -> Policy:
        return StaticPolicy(RuleParams.static(1, 4, 2.0))

    def test_it_never_moves(self) -> None:
        assert self.policy().choose(signals(queue=900), START).params == RuleParams.static(1, 4, 2)


class TestThreshold(PolicyContract):
    def policy(self) -> Policy:
        return ThresholdPolicy()

    def test_it_presses_above_the_high_marks_and_calms_only_below_both_low_ones(self) -> None:
        policy = ThresholdPolicy()  # queue per worker 8 / 2, p99 45 / 30 ms
        steps = [
            (signals(queue=16), DEFAULT),  # 8 per worker is not above 8
            (signals(queue=17), SPEED),
            (signals(queue=5), SPEED),
            (signals(queue=3, p99_ms=31.0), SPEED),
            (signals(queue=3, p99_ms=29.0), DEFAULT),
            (signals(queue=5), DEFAULT),
            (signals(p99_ms=45.1), SPEED),
        ]
        current = START
        for seen, expected in steps:
            current = policy.choose(seen, current)
            assert current.params == expected
        assert "above 8 or 90%" in current.reason

    def test_marks_must_leave_a_gap(self) -> None:
        with pytest.raises(ValueError, match="low_queue and high_queue must satisfy 0 <= low < hi"):
            ThresholdPolicy(high_queue=2.0, low_queue=2.0)
        with pytest.raises(ValueError, match="must have different names, got 'default' twice"):
            ThresholdPolicy(pressed=DEFAULT)


def test_presets_are_distinct_and_the_default_comes_first() -> None:
    assert PRESETS[0] is DEFAULT
    assert 12 <= len(PRESETS) <= 15
    assert len({p.name for p in PRESETS}) == len({tuple(p.to_array()) for p in PRESETS}) == 15
    assert preset_index("speed") == PRESETS.index(SPEED) != 0
    assert preset_index("nobody") == 0
