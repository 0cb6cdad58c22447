"""The gate: who is promoted, who is not, and what is said."""

from __future__ import annotations

import numpy as np
import pytest

from policies.params import RuleParams
from policies.presets import DEFAULT
from sims.evaluation.evaluate import Episode
from sims.evaluation.promotion_gate import judge
from sims.evaluation.suite import six_tiers
from sims.traces import poisson

SLOW = RuleParams("slow", plans=(0,))  # only the dearest plan
CHEAP = RuleParams("cheap", plans=(5,))
ONE = np.ones(1, np.int32)


class Always:
    """Chooses one preset, whatever it sees."""

    def __init__(self, preset: int, name: str = "always") -> None:
        self.name, self._preset = name, preset

    def actions(self, seen: np.ndarray) -> np.ndarray:
        return np.full(len(seen), self._preset)


def episodes(rate_per_s: float, count: int = 6) -> list[Episode]:
    return [(six_tiers(), poisson(rate_per_s, 1.0, seed=s, lengths=ONE)) for s in range(count)]


def test_a_policy_that_is_better_everywhere_is_promoted() -> None:
    verdict = judge(
        Always(1), SLOW, {"as seen": episodes(4000), "calm": episodes(3000)}, rule=SLOW,
        presets=(SLOW, DEFAULT),
    )  # fmt: skip
    assert verdict.promoted
    assert 10 < verdict.over_rule.low < verdict.over_rule.high < 80  # points of utility
    assert verdict.over_rule.n == 6
    assert verdict.reason.startswith("promoted: +")
    assert verdict.worst[1] > 0
    assert verdict.to_json()["over_rule"]["mean"] == verdict.over_rule.mean


def test_one_that_does_what_the_rule_does_adds_nothing() -> None:
    verdict = judge(Always(0), DEFAULT, {"as seen": episodes(4000)}, presets=(DEFAULT, SLOW))
    assert not verdict.promoted
    assert verdict.over_rule.mean == 0.0
    assert "adds nothing here" in verdict.reason
    assert "the rule is kept" in verdict.reason


def test_one_that_falls_in_a_single_regime_is_not_promoted() -> None:
    """The cheapest plan alone is right under overload and gives accuracy away in the calm."""
    regimes = {"as seen": episodes(4000), "calm": episodes(300)}
    verdict = judge(Always(1), SLOW, regimes, rule=SLOW, presets=(SLOW, CHEAP))
    assert verdict.over_rule.low > 0
    assert not verdict.promoted
    assert verdict.worst[0] == "calm"
    assert -7 < verdict.worst[1] < -0.5  # 0.8016 against 0.7382
    assert verdict.reason.endswith("points when calm")


def test_one_that_beats_the_rule_but_not_who_serves_is_not_promoted() -> None:
    verdict = judge(
        Always(1), Always(2, "incumbent"), {"as seen": episodes(4000)}, rule=SLOW,
        presets=(SLOW, RuleParams("dear", plans=(1,)), DEFAULT),
    )  # fmt: skip
    assert not verdict.promoted
    assert verdict.over_rule.low > 0 > verdict.over_incumbent.high
    assert "not better than the policy in force" in verdict.reason


def test_too_little_traffic_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 5 episodes of 'as seen', got 2; wait for more"):
        judge(Always(0), DEFAULT, {"as seen": episodes(500, 2)})
    with pytest.raises(ValueError, match="got 0; wait for more"):
        judge(Always(0), DEFAULT, {"as seen": []})
