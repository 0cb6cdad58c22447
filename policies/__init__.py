"""Which way next? Policies propose, `evolve` disposes.

- `params`, `presets`: settings of the dispatch rule.
- `rule`, `compiled`: the rule itself, one compiled function for live service and simulator.
- `base`, `baselines`: what a policy is, and the hand-written ones.
- `tactical`: a trained policy, evaluated from plain arrays (`network`). `train`: how it is trained
  (PPO).
- `bandit`, `table`: learned from the same rewards, without looking ahead: what PPO has to beat.
- `rivals`, `disciplines`: how others dispatch, in place of the rule.
- `autoscale`: how many workers: Kubernetes' and Knative's autoscalers, and evolve's warm pool.
- `strategic`: which sub-networks to measure and to hold: NSGA-II with a predictor.
- `contract`: tests that every policy inherits. `plugins`: policies by name, also of other packages.

Names are loaded on first use: importing this package loads neither numba, torch nor DEAP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.lazy import lazy_exports

if TYPE_CHECKING:
    from policies.bandit import LinUCB
    from policies.base import Choice, Policy
    from policies.baselines import RulePolicy, StaticPolicy, ThresholdPolicy
    from policies.contract import PolicyContract
    from policies.observation import observe
    from policies.params import RuleParams
    from policies.plugins import PolicyPluginError, load_policy, policy_names
    from policies.presets import DEFAULT, PRESETS
    from policies.rule import DispatchRule, Pick, Waiting
    from policies.strategic.evaluations import Evaluation, Objectives
    from policies.strategic.genome import Gene, Rule, Space
    from policies.strategic.search import StrategicSearch
    from policies.strategic.settings import SearchSettings
    from policies.strategic.tiers import choose_tiers
    from policies.table import TablePolicy
    from policies.tactical import PolicyFileError, TacticalPolicy
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "bandit": "LinUCB",
            "base": "Choice Policy",
            "baselines": "RulePolicy StaticPolicy ThresholdPolicy",
            "contract": "PolicyContract",
            "observation": "observe",
            "params": "RuleParams",
            "plugins": "PolicyPluginError load_policy policy_names",
            "presets": "DEFAULT PRESETS",
            "rule": "DispatchRule Pick Waiting",
            "strategic.evaluations": "Evaluation Objectives",
            "strategic.genome": "Gene Rule Space",
            "strategic.search": "StrategicSearch",
            "strategic.settings": "SearchSettings",
            "strategic.tiers": "choose_tiers",
            "table": "TablePolicy",
            "tactical": "PolicyFileError TacticalPolicy",
        },
    )

__all__ = [
    "DEFAULT",
    "PRESETS",
    "Choice",
    "DispatchRule",
    "Evaluation",
    "Gene",
    "LinUCB",
    "Objectives",
    "Pick",
    "Policy",
    "PolicyContract",
    "PolicyFileError",
    "PolicyPluginError",
    "Rule",
    "RuleParams",
    "RulePolicy",
    "SearchSettings",
    "Space",
    "StaticPolicy",
    "StrategicSearch",
    "TablePolicy",
    "TacticalPolicy",
    "ThresholdPolicy",
    "Waiting",
    "choose_tiers",
    "load_policy",
    "observe",
    "policy_names",
]
