"""The rollout of a tier as a value: shadow, canary, full, or rolled back.

shadow ──► canary ──► full
  └──────────┴─────────┴──► rolled back (final)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evolve.rollout.gate import Evidence, Gate

__all__ = ["Rollout", "Stage", "advance", "share_of"]


class Stage(str, Enum):
    """How much a tier may answer: nothing, only copies of requests are given to it; a few requests;
    whatever the load requires; nothing any more."""

    SHADOW = "shadow"
    CANARY = "canary"
    FULL = "full"
    ROLLED_BACK = "rolled back"


_NEXT: Mapping[Stage, Stage] = MappingProxyType(
    {Stage.SHADOW: Stage.CANARY, Stage.CANARY: Stage.FULL}
)


@dataclass(frozen=True, slots=True)
class Rollout:
    """Where a tier is: its stage, begun when `since` answers were compared, and why."""

    stage: Stage = Stage.SHADOW
    since: int = 0
    reason: str = "nothing of it was compared yet"


def advance(rollout: Rollout, evidence: Evidence, gate: Gate) -> Rollout:
    """The next state: at most one stage forward, or straight back.

    A fault is checked before any minimum: a crashing canary must not wait for samples.

    >>> from evolve.rollout.gate import Evidence, Gate
    >>> gate = Gate(least=0.98, min_samples=64)
    >>> advance(Rollout(), Evidence(samples=64, mean=0.99), gate).stage.value
    'canary'
    >>> advance(Rollout(), Evidence(samples=1, fault="its worker crashed"), gate).stage.value
    'rolled back'
    """
    if rollout.stage is Stage.ROLLED_BACK:
        return rollout
    if fault := gate.fault(evidence):
        return Rollout(Stage.ROLLED_BACK, evidence.samples, fault)
    after = _NEXT.get(rollout.stage)
    if after is None or not gate.passes(evidence, rollout.since):
        return rollout
    seen = evidence.samples - rollout.since
    why = (
        f"{seen} answers compared in {rollout.stage.value}, all {evidence.samples} agree "
        f"{evidence.mean:.4f} with the original, {gate.least:g} is asked"
    )
    return Rollout(after, evidence.samples, why)


def share_of(stage: Stage, gate: Gate) -> float:
    """The share of the requests that a tier in this stage may answer."""
    return {Stage.CANARY: gate.canary_share, Stage.FULL: 1.0}.get(stage, 0.0)
