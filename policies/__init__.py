"""Which way next? Policies propose, `evolve` disposes.

- `params`, `presets`: settings of the dispatch rule.
- `rule`, `compiled`: the rule itself, one compiled function for live service and simulator.
- `base`, `baselines`: what a policy is, and the hand-written ones.
- `tactical`: a trained policy, evaluated from plain arrays (`network`). `train`: how it is trained
  (PPO).
- `bandit`, `table`: learned from the same rewards, without looking ahead: what PPO has to beat.
- `rivals`, `disciplines`: how others dispatch, in place of the rule.
- `autoscale`: how many workers: Kubernetes' and Knative's autoscalers, and evolve's warm pool.
- `contract`: tests that every policy inherits. `plugins`: policies by name, also of other packages.

Names are loaded on first use: importing this package loads neither numba nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policies.bandit import LinUCB
    from policies.base import Choice, Policy
    from policies.baselines import RulePolicy, StaticPolicy, ThresholdPolicy
    from policies.contract import PolicyContract
    from policies.observation import observe
    from policies.params import RuleParams
    from policies.presets import DEFAULT, PRESETS
    from policies.rule import DispatchRule, Pick, Waiting
    from policies.tactical import PolicyFileError, TacticalPolicy

__all__ = [
    "DEFAULT",
    "PRESETS",
    "Choice",
    "DispatchRule",
    "LinUCB",
    "Pick",
    "Policy",
    "PolicyContract",
    "PolicyFileError",
    "PolicyPluginError",
    "RuleParams",
    "RulePolicy",
    "StaticPolicy",
    "TablePolicy",
    "TacticalPolicy",
    "ThresholdPolicy",
    "Waiting",
    "load_policy",
    "observe",
    "policy_names",
]

_HOME = {
    "Choice": "base",
    "Policy": "base",
    "RulePolicy": "baselines",
    "StaticPolicy": "baselines",
    "ThresholdPolicy": "baselines",
    "RuleParams": "params",
    "DEFAULT": "presets",
    "PRESETS": "presets",
    "DispatchRule": "rule",
    "Pick": "rule",
    "Waiting": "rule",
    "PolicyFileError": "tactical",
    "TacticalPolicy": "tactical",
    "observe": "observation",
    "LinUCB": "bandit",
    "TablePolicy": "table",
    "PolicyContract": "contract",
    "PolicyPluginError": "plugins",
    "load_policy": "plugins",
    "policy_names": "plugins",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'policies' has no attribute {name!r}")
    return getattr(import_module(f"policies.{_HOME[name]}"), name)
