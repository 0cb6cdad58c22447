"""The record of one generation of the search, for the journal: what was asked, why, what came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policies.strategic.evaluations import OBJECTIVES, Evaluation, Refusal
from policies.strategic.genome import Genome, Space

__all__ = ["Generation", "Proposal"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A genome to measure and why; `expected` are its predicted objectives, if there were any."""

    genome: Genome
    why: str
    expected: tuple[float, float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        expected = None if self.expected is None else list(self.expected)
        return {"genome": list(self.genome), "why": self.why, "expected": expected}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Proposal:
        """The proposal that `to_json` gave."""
        expected = stored["expected"]
        return cls(
            tuple(stored["genome"]), stored["why"], None if expected is None else tuple(expected)
        )


@dataclass(frozen=True, slots=True)
class Generation:
    """What one generation asked for and what is known after it. Never edited once made.

    `evaluations` and `stale` count all scores of the weights in force and of older ones. `tau`:
    Kendall's τ of the predictor that chose, for each objective, None before there was one.
    """

    space: Space
    number: int
    seed: int
    weights: str
    asked: tuple[Proposal, ...]
    told: tuple[Evaluation, ...]
    refused: tuple[Refusal, ...]
    evaluations: int
    stale: int
    front: tuple[Evaluation, ...]
    tau: tuple[float | None, ...]

    @property
    def missing(self) -> tuple[Genome, ...]:
        """What was asked for and has no result of the weights in force (yet)."""
        known = {one.genome for one in self.told if one.weights == self.weights}
        known |= {one.genome for one in self.refused if one.weights == self.weights}
        return tuple(one.genome for one in self.asked if one.genome not in known)

    @property
    def reason(self) -> str:
        """In words: what was chosen and on what grounds, what came of it."""
        if not self.asked:
            return f"nothing to ask: all of {self.space.size} genomes are measured or refused"
        kinds: dict[str, int] = {}
        for proposal in self.asked:
            kind = proposal.why.split(" within ")[0]
            kinds[kind] = kinds.get(kind, 0) + 1
        parts = [f"{count} × {kind}" for kind, count in kinds.items()]
        words = f"asked for {len(self.asked)}: " + "; ".join(parts)
        trusted = [
            f"{name} {tau:.2f}"
            for name, tau in zip(OBJECTIVES, self.tau, strict=True)
            if tau is not None
        ]
        words += f". Predictor's τ: {', '.join(trusted)}" if trusted else ". No predictor yet"
        words += f". {len(self.told)} measured, {len(self.front)} on the front"
        if self.refused:
            words += f", {len(self.refused)} refused ({self.refused[0].reason})"
        if self.missing:
            words += f", {len(self.missing)} not told"
        return words + (f"; {self.stale} scores are of older weights" if self.stale else "")

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, with every genome of the front in words."""
        return {
            "generation": self.number,
            "seed": self.seed,
            "weights": self.weights,
            "reason": self.reason,
            "asked": [one.to_json() for one in self.asked],
            "told": [one.to_json() for one in self.told],
            "refused": [one.to_json() for one in self.refused],
            "evaluations": self.evaluations,
            "stale": self.stale,
            "front": [
                one.to_json() | {"words": self.space.describe(one.genome)} for one in self.front
            ],
            "tau": dict(zip(OBJECTIVES, self.tau, strict=True)),
        }
