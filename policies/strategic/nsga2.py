"""NSGA-II (Deb et al. 2002) by DEAP: survivors, parents and children of one generation.

DEAP draws from Python's global `random`. Calls that draw run on a seed from the search's own
generator, and the global state is put back as it was; a lock keeps two searches apart. Another
thread that draws from `random` in those milliseconds would change what is proposed: a search that
must be repeatable runs in a process of its own.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from deap import base, tools
from numpy.typing import NDArray

from policies.strategic.genome import Genome, Space

__all__ = ["children", "survivors"]

Floats = NDArray[np.float64]
_LOCK = threading.Lock()


class _Fitness(base.Fitness):  # type: ignore[misc]
    weights = (-1.0, -1.0, -1.0)


class _Individual(list[int]):
    """A genome as DEAP's operators take it; `row` is where it came from."""

    def __init__(self, genome: Sequence[int], row: int = 0) -> None:
        super().__init__(genome)
        self.fitness = _Fitness()
        self.row = row


def survivors(values: Floats, count: int) -> list[int]:
    """Rows of `values` [N, 3], less is better, that survive: front by front, the last by crowding.

    Within each front those furthest from others come first. All values must be finite: DEAP takes
    a NaN for a tie.
    """
    return [one.row for one in _ranked(_population([()] * len(values), values), count)]


def children(
    space: Space, parents: Sequence[Genome], values: Floats, rng: np.random.Generator
) -> list[Genome]:
    """As many genomes as there are parents [N], by tournament, uniform crossover and mutation.

    `values` [N, 3] are the parents' objectives. Every child is canonical; some may be equal.
    """
    # The tournament asks for crowding distances, and for a multiple of four individuals.
    pool = _ranked(_population(parents, values), len(parents))
    most = list(space.original)
    with _drawing_from(rng):
        whole = len(pool) // 4 * 4
        chosen = tools.selTournamentDCD(pool[:whole], whole) if whole else []
        while len(chosen) < len(pool) + len(pool) % 2:
            chosen.append(random.choice(pool))
        bred: list[Any] = []
        for one, other in zip(chosen[::2], chosen[1::2], strict=True):
            pair = tools.cxUniform(_Individual(one), _Individual(other), 0.5)
            for child in pair:
                bred += tools.mutUniformInt(child, 0, most, 1.0 / len(most))
    return [space.canonical(child) for child in bred[: len(parents)]]


def _population(genomes: Sequence[Sequence[int]], values: Floats) -> list[_Individual]:
    population = [_Individual(genome, row) for row, genome in enumerate(genomes)]
    for individual, row in zip(population, values, strict=True):
        individual.fitness.values = tuple(float(value) for value in row)
    return population


def _ranked(population: list[_Individual], count: int) -> list[_Individual]:
    """`selNSGA2`, every front in order of crowding, not only the one that is cut."""
    if not population:
        return []
    # "log" finds the same fronts as "standard" in O(N log² N) in place of O(N²).
    fronts = tools.sortLogNondominated(population, count)
    ranked: list[_Individual] = []
    for front in fronts:
        tools.emo.assignCrowdingDist(front)
        ranked += sorted(front, key=lambda one: one.fitness.crowding_dist, reverse=True)
    return ranked[:count]


@contextmanager
def _drawing_from(rng: np.random.Generator) -> Iterator[None]:
    """Python's global generator, seeded by `rng`, and as it was before in the end."""
    with _LOCK:
        before = random.getstate()
        random.seed(int(rng.integers(2**63)))
        try:
            yield
        finally:
            random.setstate(before)
