"""Hand-written policies against hand-worked cases; the contract: `test_contract`."""

from __future__ import annotations

import pytest

from policies.base import Choice
from policies.baselines import SPEED, RulePolicy, StaticPolicy, ThresholdPolicy
from policies.params import RuleParams
from policies.presets import DEFAULT, PRESETS, preset_index
from tests.policies.observed import signals

START = Choice(DEFAULT, "start")


class TestRule:
    def test_it_is_always_the_default(self) -> None:
        assert RulePolicy().choose(signals(queue=900), START).params is DEFAULT


class TestStatic:
    def test_it_never_moves(self) -> None:
        policy = StaticPolicy(RuleParams.static(1, 4, 2.0))
        assert policy.choose(signals(queue=900), START).params == RuleParams.static(1, 4, 2)


class TestThreshold:
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
