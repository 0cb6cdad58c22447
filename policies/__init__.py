"""Which way next? Policies propose, `evolve` disposes.

- `params`, `presets`: settings of the dispatch rule.
- `rule`, `compiled`: the rule itself, one compiled function for live service and simulator.
- `base`, `baselines`: what a policy is, and the hand-written ones.
- `tactical`: a trained policy, evaluated from plain arrays. `train`: how it is trained (PPO).

Names are loaded on first use: importing this package loads neither numba nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policies.base import Choice, Policy
    from policies.baselines import RulePolicy, StaticPolicy, ThresholdPolicy
    from policies.params import RuleParams
    from policies.presets import DEFAULT, PRESETS
    from policies.rule import DispatchRule, Pick, Waiting
    from policies.tactical import PolicyFileError, TacticalPolicy, observe

__all__ = [
    "DEFAULT",
    "PRESETS",
    "Choice",
    "DispatchRule",
    "Pick",
    "Policy",
    "PolicyFileError",
    "RuleParams",
    "RulePolicy",
    "StaticPolicy",
    "TacticalPolicy",
    "ThresholdPolicy",
    "Waiting",
    "observe",
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
    "observe": "tactical",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'policies' has no attribute {name!r}")
    return getattr(import_module(f"policies.{_HOME[name]}"), name)
