"""Conditions to promote a policy: better in pairs than the rule and who serves, nowhere worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from policies.params import RuleParams
from policies.presets import PRESETS
from sims.engine.inputs import Setting
from sims.evaluation.evaluate import Episode, VectorPolicy, evaluate
from sims.evaluation.statistics import ConfidenceInterval, paired

__all__ = ["GateResult", "judge"]

WORST_POINTS = -0.5
"""No regime may fall by more, in percentage points of utility."""
MIN_EPISODES = 5
"""Fewer pairs say nothing about an interval."""


@dataclass(frozen=True)
class GateResult:
    """Whether a candidate is promoted, and on what evidence.

    `over_rule`, `over_incumbent`: paired differences of utility in percentage points on the
    traffic as it was. `worst`: the regime with the least mean difference to the rule, and that.
    """

    promoted: bool
    reason: str
    over_rule: ConfidenceInterval
    over_incumbent: ConfidenceInterval
    worst: tuple[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def judge(
    candidate: VectorPolicy,
    incumbent: VectorPolicy | Setting,
    regimes: Mapping[str, Sequence[Episode]],
    *,
    rule: RuleParams = PRESETS[0],
    presets: Sequence[RuleParams] = PRESETS,
) -> GateResult:
    """Play all regimes under candidate, incumbent and rule, on the same arrivals.

    The first regime is the traffic as it was: there both paired 95 % intervals must lie above
    zero. In no regime may the mean fall by more than 0.5 points.
    """
    seen, *_ = regimes
    policies = [candidate, incumbent, rule]
    utility = {
        name: evaluate(episodes, policies, presets).utility
        for name, episodes in regimes.items()
        if episodes
    }
    if seen not in utility or utility[seen].shape[1] < MIN_EPISODES:
        episodes = utility[seen].shape[1] if seen in utility else 0
        raise ValueError(
            f"regimes must hold at least {MIN_EPISODES} episodes of {seen!r}, got {episodes}; "
            "wait for more traffic"
        )
    over_rule = paired(utility[seen][0], utility[seen][2])
    over_incumbent = paired(utility[seen][0], utility[seen][1])
    falls = {name: 100.0 * float(np.mean(u[0] - u[2])) for name, u in utility.items()}
    worst = min(falls, key=lambda name: falls[name])
    promoted = over_rule.low > 0.0 and over_incumbent.low > 0.0 and falls[worst] >= WORST_POINTS
    within = f"{over_rule.low:+.2f} to {over_rule.high:+.2f}"
    gained = f"{over_rule.mean:+.2f} points over the rule ({within})"
    if promoted:
        reason = f"promoted: {gained} on {over_rule.n} episodes, worst regime {falls[worst]:+.2f}"
    elif over_rule.low <= 0.0:
        reason = f"the trained policy adds nothing here, {gained}: the rule is kept"
    elif over_incumbent.low <= 0.0:
        reason = f"not better than the policy in force, {gained}: that one is kept"
    else:
        reason = f"not promoted: {gained}, but {falls[worst]:+.2f} points when {worst}"
    return GateResult(promoted, reason, over_rule, over_incumbent, (worst, falls[worst]))
