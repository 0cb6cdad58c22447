"""All that a search was told: scores and refusals by genome, current or stale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policies.strategic.evaluations import Evaluation, Objectives, Refusal, on_front
from policies.strategic.genome import Genome

__all__ = ["Archive"]


class Archive:
    """Scores hold for the weights they were measured with; those of other weights are stale.

    A stale score is kept and shown, never used as one: it is no part of a front or of a fit.
    """

    def __init__(self, weights: str) -> None:
        self.weights = weights
        self._scores: dict[Genome, Evaluation] = {}
        self._refused: dict[Genome, Refusal] = {}

    def add(self, one: Evaluation) -> None:
        """Takes in a result: a score if it can be one, else a refusal. Later ones count, but what
        is measured with older weights replaces nothing of the present ones."""
        genome, fault = one.genome, one.objectives.fault
        score, refusal = self._scores.get(genome), self._refused.get(genome)
        if one.weights != self.weights and any(
            known is not None and known.weights == self.weights for known in (score, refusal)
        ):
            return
        if fault:
            self._refused[genome] = Refusal(genome, one.weights, fault)
        else:
            self._scores[genome] = one
            self._refused.pop(genome, None)

    def score(self, genome: Genome) -> Evaluation | None:
        """The score of a genome, stale or not."""
        return self._scores.get(genome)

    def refusal(self, genome: Genome) -> Refusal | None:
        """Why a genome's last result could not be used."""
        return self._refused.get(genome)

    def scores(self) -> tuple[Evaluation, ...]:
        """All scores, stale ones too, in the order in which genomes were first told."""
        return tuple(self._scores.values())

    def current(self) -> dict[Genome, Objectives]:
        """Objectives under the present weights."""
        return {g: e.objectives for g, e in self._scores.items() if e.weights == self.weights}

    def front(self) -> tuple[Evaluation, ...]:
        """What nothing beats under the present weights, the best quality first."""
        return on_front(one for one in self._scores.values() if one.weights == self.weights)

    def stale_front(self) -> list[Genome]:
        """What nothing else that is stale beat, each among scores of its own weights."""
        by_weights: dict[str, list[Evaluation]] = {}
        for one in self._scores.values():
            if one.weights != self.weights:
                by_weights.setdefault(one.weights, []).append(one)
        return [one.genome for some in by_weights.values() for one in on_front(some)]

    def settled(self) -> set[Genome]:
        """Genomes that need not be measured: scored or refused under the present weights."""
        refused = (g for g, one in self._refused.items() if one.weights == self.weights)
        return {*self.current(), *refused}

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "weights": self.weights,
            "scores": [one.to_json() for one in self._scores.values()],
            "refused": [one.to_json() for one in self._refused.values()],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Archive:
        """What `to_json` gave, in the same order."""
        archive = cls(stored["weights"])
        scores = [Evaluation.from_json(one) for one in stored["scores"]]
        refused = [Refusal.from_json(one) for one in stored["refused"]]
        archive._scores = {one.genome: one for one in scores}
        archive._refused = {one.genome: one for one in refused}
        return archive
