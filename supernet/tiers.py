"""Quality tiers: which plans stand for each other, and which are to serve under load alone.

| tier | plans |
|---|---|
| 0 | of the model, exact |
| 1 to 15 | of the model, less exact: one tier per factor of two in error |
| 16 to 1016 | of a sub-network: one tier per tenth of a percent of quality, the best first |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supernet.fidelity import tier_of

if TYPE_CHECKING:
    from supernet.plans import Plan

__all__ = ["SUBNET_TIER", "accuracy", "plan_tier", "tier_of_quality"]

SUBNET_TIER = 16
"""The first of those of sub-networks, beyond any error that a plan may have."""
_PER_QUALITY = 1000


def plan_tier(plan: Plan) -> int:
    """The quality tier of a plan: the rule takes the lowest that carries the load, and direct calls
    are answered by tier 0 alone.

    >>> from supernet.plans import Plan, PlanSpec, PlanState
    >>> spec = PlanSpec("graph", "eager", "fp32", 1, "weights", "torch", "1", "isa")
    >>> plan_tier(Plan(spec, PlanState.VERIFIED, error=0.9))
    14
    >>> plan_tier(Plan(spec, PlanState.VERIFIED, error=0.0, subnet="half", quality=0.98))
    36
    """
    if not plan.subnet:
        return min(tier_of(plan.error), SUBNET_TIER - 1)
    return tier_of_quality(plan.quality)


def tier_of_quality(quality: float) -> int:
    """The tier of a sub-network of this quality, 0 to 1.

    >>> tier_of_quality(0.98)
    36
    """
    return SUBNET_TIER + round((1.0 - quality) * _PER_QUALITY)


def accuracy(plan: Plan) -> float:
    """What an answer of a plan is worth beside one of the model, 0 to 1: for the twin and the gym.

    >>> from supernet.plans import Plan, PlanSpec, PlanState
    >>> spec = PlanSpec("graph", "eager", "fp32", 1, "weights", "torch", "1", "isa")
    >>> accuracy(Plan(spec, PlanState.VERIFIED, error=0.25, subnet="half", quality=0.5))
    0.375
    """
    return plan.quality * (1.0 - min(plan.error or 0.0, 1.0))
