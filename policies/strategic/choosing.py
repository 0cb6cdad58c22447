"""The choice of what to measure next: seeds first, then what predictions recommend, then chance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.strategic.additive import Additive
from policies.strategic.archive import Archive
from policies.strategic.generation import Proposal
from policies.strategic.genome import Genome, Space
from policies.strategic.members import balanced
from policies.strategic.predictor import LEAST_SAMPLES, Predictor
from policies.strategic.screening import breed, fresh_samples
from policies.strategic.seeding import additive_optima, seeds
from policies.strategic.settings import SearchSettings

__all__ = ["Chooser"]

Floats = NDArray[np.float64]
Taus = tuple[float | None, ...]

MOST_FITTED = 1_000
"""Scores that the predictor is fitted to, the newest: the time of a fit stays within seconds."""


@dataclass(frozen=True, slots=True)
class Chooser:
    """Chooses genomes to measure, from what is known and draws of a generator alone.

    `latency`: an additive table of milliseconds to predict latency by; None: a fitted one.
    """

    space: Space
    settings: SearchSettings
    latency: Additive | None

    def choose(
        self, archive: Archive, n: int, rng: np.random.Generator
    ) -> tuple[list[Proposal], Taus]:
        """At most `n` different genomes that are not settled, and the predictor's τ."""
        settled = archive.settled()
        chosen: dict[Genome, Proposal] = {}
        planned: dict[Genome, str] = {}
        for genome, why in self._seeds(archive):
            planned.setdefault(genome, why)
        for genome, why in planned.items():
            if len(chosen) < n and genome not in settled:
                chosen[genome] = Proposal(genome, why)
        wanted = max(self.settings.initial, len(planned) + self.settings.initial // 2)
        room = min(n, wanted - len(settled)) - len(chosen)
        for genome in balanced(self.space, max(room, 0), rng):
            if genome not in settled and genome not in chosen:
                chosen[genome] = Proposal(genome, "at random, every choice equally often")
        taus: Taus = (None, None, None)
        if len(chosen) < n and len(archive.current()) >= LEAST_SAMPLES:
            predictor = self._fitted(archive)
            taus = predictor.taus
            for proposal in self._screened(archive, predictor, n - len(chosen), set(chosen), rng):
                chosen[proposal.genome] = proposal
        for genome in fresh_samples(self.space, n - len(chosen), settled | set(chosen), rng):
            chosen[genome] = Proposal(genome, "at random")
        return list(chosen.values()), taus

    def _seeds(self, archive: Archive) -> Iterator[tuple[Genome, str]]:
        settings = self.settings
        return itertools.chain(
            seeds(self.space, archive.stale_front()),
            additive_optima(self.space, archive.current(), self.latency, settings.bounds),
        )

    def _fitted(self, archive: Archive) -> Predictor:
        current = list(archive.current().items())[-MOST_FITTED:]
        values = np.array([objectives.values for _, objectives in current])
        return Predictor.fit(self.space, [genome for genome, _ in current], values)

    def _screened(
        self,
        archive: Archive,
        predictor: Predictor,
        n: int,
        taken: set[Genome],
        rng: np.random.Generator,
    ) -> list[Proposal]:
        """`n` from a pool bred on predictions: most as predicted, some for what they might be."""

        def predict(genomes: Sequence[Genome]) -> tuple[Floats, Floats]:
            values, doubt = predictor.predict(genomes)
            if self.latency is not None:
                values[:, 1] = [self.latency(genome) for genome in genomes]
                doubt[:, 1] = 0.0
            return values, doubt

        measured = {genome: one.values for genome, one in archive.current().items()}
        size = (self.settings.population, self.settings.inner_generations)
        barred = archive.settled() | taken
        pool = breed(self.space, measured, predict, size, barred, rng)
        explored = math.floor(self.settings.explore * n)
        known = np.array(list(measured.values()))
        best = pool.best(known, n - explored)
        rows = [(row, "promising by prediction") for row in best]
        hoped = pool.best(known, explored, optimism=1.0, apart=best)
        rows += [(row, "may be better than predicted by its standard error") for row in hoped]
        found = []
        for row, why in rows:
            loss, latency_ms, memory_mib = (float(value) for value in pool.predicted[row])
            found.append(Proposal(pool.genomes[row], why, (loss, latency_ms, memory_mib)))
        return found
