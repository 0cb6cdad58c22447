"""What an answer came from: the plan that computed it, and whether that ran a sub-network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from supernet.plans import ORIGINAL
from supernet.tiers import SUBNET_TIER, plan_tier

if TYPE_CHECKING:
    from supernet.plans import Plan, PlanLibrary

__all__ = ["BY_ORIGINAL", "Origins", "ServedBy"]


@dataclass(frozen=True, slots=True)
class ServedBy:
    """The `plan` by its key, "original" for the model itself; its quality `tier`, 0 the most
    accurate; the name of the sub-network that it ran, None for the model; and how far that agreed
    with the model when it was adopted (`quality`)."""

    plan: str
    tier: int
    subnet: str | None
    quality: float


BY_ORIGINAL = ServedBy(ORIGINAL, 0, None, 1.0)


class Origins:
    """The record of each plan, made once: answers only point to it."""

    def __init__(self, library: PlanLibrary) -> None:
        self._library = library
        self._made: dict[str, tuple[Plan, ServedBy]] = {}

    def of(self, key: str) -> ServedBy:
        """Of the plan with this key, as it is known now."""
        if key == ORIGINAL:
            return BY_ORIGINAL
        plan, made = self._library.get(key), self._made.get(key)
        if made is not None and (plan is None or plan is made[0]):
            return made[1]
        if plan is None:  # dismissed before its first batch began
            return ServedBy(key, SUBNET_TIER, None, 0.0)
        record = ServedBy(key, plan_tier(plan), plan.subnet or None, plan.quality)
        self._made[key] = plan, record
        return record
