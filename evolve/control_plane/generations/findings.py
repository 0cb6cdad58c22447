"""What the job of a generation found, and how the journal tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.control_plane.generations.state import BadProposal, Proposal

if TYPE_CHECKING:
    from evolve.control_plane.retraining import RawTwin

__all__ = ["MOST_POINTS", "Findings", "what_was_seen"]

MOST_POINTS = 32
_ROLES = ("tier", "original", "front", "uniform")  # the first are kept where there are too many
_LONGEST = 120


@dataclass(frozen=True, slots=True)
class Findings:
    """Sub-networks proposed, best first; why; the points that nothing measured beats and what they
    are held against; what the service is worth with and without them."""

    proposals: tuple[Proposal, ...]
    reason: str
    front: tuple[Mapping[str, Any], ...]
    utility: Mapping[str, float]

    @classmethod
    def of(cls, result: Mapping[str, Any], folder: Path, most: int) -> Findings:
        """What a job's result says, at most so many tiers of it, whose weights lie in `folder`; a
        `BadProposal` where it is none."""
        try:
            rows = list(result["tiers"])[:most]
            points = sorted(map(_point, result["front"]), key=lambda p: _ROLES.index(p["role"]))
            utility = {str(name): float(value) for name, value in result["utility"].items()}
            reason = "; ".join(map(str, [result["reason"], *result["notes"]]))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise BadProposal(f"it cannot be read: {type(error).__name__}: {error}") from error
        proposals = tuple(Proposal.of(row, folder) for row in rows)
        return cls(proposals, reason, tuple(points[:MOST_POINTS]), utility)

    def story(
        self, before: Sequence[str], after: Sequence[str], notes: Sequence[str]
    ) -> dict[str, Any]:
        """`before`, `after`, `reason`, `scores`, `applied` of its decision: which tiers were there,
        which are now, and what was left out."""
        rows = {tier.name: tier for tier in self.proposals}
        told = {name: _told(rows[name]) if name in rows else {} for name in after}
        return {
            "before": {"tiers": {name: {} for name in before}},
            "after": {"tiers": told, "front": self.front},
            "reason": "; ".join([self.reason, *notes]),
            "scores": {f"utility {name}": value for name, value in self.utility.items()},
            "applied": bool(set(after) - set(before)) or not notes,
        }


def what_was_seen(inputs: int, twin: RawTwin | None) -> dict[str, float]:
    """How many inputs were kept, and the load of the last quarter of an hour."""
    if twin is None:
        return {"inputs": float(inputs)}
    requests, seconds = len(twin.twin.traffic), twin.twin.traffic.seconds
    return {
        "inputs": float(inputs), "requests": float(requests), "traffic_s": seconds,
        "load_per_s": requests / seconds if seconds > 0 else 0.0,
    }  # fmt: skip


def _point(point: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "describe": str(point["describe"])[:_LONGEST], "role": str(point["role"]),
        "quality_loss": round(float(point["quality_loss"]), 6),
        "latency_ms": round(float(point["latency_ms"]), 6),
        "memory_mib": round(float(point["memory_mib"]), 3),
    }  # fmt: skip


def _told(tier: Proposal) -> dict[str, Any]:
    return {"quality": tier.quality, "speedup": tier.speedup, "reason": tier.reason}
