"""Pre-screening: NSGA-II among predictions, from which a few genomes are worth measuring.

measured front ─► NSGA-II, generations on predicted objectives ─► pool ─► most promising
                                                                    └───► what might be better
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.strategic.genome import Genome, Space
from policies.strategic.nsga2 import children, survivors

__all__ = ["Pool", "breed", "fresh_samples"]

Floats = NDArray[np.float64]
Predict = Callable[[Sequence[Genome]], tuple[Floats, Floats]]
"""Objectives [N, 3] of genomes and their standard errors [N, 3]."""

ENUMERABLE = 20_000
"""Spaces up to this size are listed where random draws no longer find what is left of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Genomes that nobody has measured, with `predicted` objectives [N, 3] and `doubt` [N, 3]."""

    genomes: tuple[Genome, ...]
    predicted: Floats
    doubt: Floats

    def best(
        self, measured: Floats, count: int, optimism: float = 0.0, apart: Collection[int] = ()
    ) -> list[int]:
        """The rows not in `apart` that NSGA-II lets survive first beside `measured` objectives
        [M, 3]. `optimism`: how many standard errors better than predicted they may turn out."""
        both = np.concatenate([self.predicted - optimism * self.doubt, measured])
        ranked = survivors(both, len(both))
        return [row for row in ranked if row < len(self.genomes) and row not in apart][:count]


def breed(
    space: Space,
    measured: Mapping[Genome, Sequence[float]],
    predict: Predict,
    size: tuple[int, int],
    barred: Collection[Genome],
    rng: np.random.Generator,
) -> Pool:
    """What (population, generations) of NSGA-II on predictions come across, but for `barred`.

    It starts from the best of what is measured, by its measured objectives, and fills up with
    genomes at random.
    """
    population, generations = size
    known = {genome: tuple(values) for genome, values in measured.items()}
    rows = np.array(list(known.values())).reshape(-1, 3)
    names = list(known)
    start = [names[row] for row in survivors(rows, population // 2)]
    met: dict[Genome, tuple[float, ...]] = {}
    doubts: dict[Genome, tuple[float, ...]] = {}

    def value(genomes: Sequence[Genome]) -> None:
        new = [g for g in dict.fromkeys(genomes) if g not in known and g not in met]
        if new:
            predicted, doubt = predict(new)
            met.update(zip(new, map(tuple, predicted.tolist()), strict=True))
            doubts.update(zip(new, map(tuple, doubt.tolist()), strict=True))

    alive = list(dict.fromkeys(
        [*start, *(space.sample(rng) for _ in range(population - len(start)))]
    ))  # fmt: skip
    value(alive)
    for _ in range(generations):
        values = np.array([known.get(g) or met[g] for g in alive])
        bred = children(space, alive, values, rng)
        value(bred)
        both = list(dict.fromkeys([*alive, *bred]))
        values = np.array([known.get(g) or met[g] for g in both])
        alive = [both[row] for row in survivors(values, population)]
    kept = [genome for genome in met if genome not in barred]
    return Pool(
        tuple(kept),
        np.array([met[g] for g in kept]).reshape(-1, 3),
        np.array([doubts[g] for g in kept]).reshape(-1, 3),
    )


def fresh_samples(
    space: Space, count: int, barred: Collection[Genome], rng: np.random.Generator
) -> list[Genome]:
    """So many different genomes at random, none of them barred; fewer where no more are left."""
    if count < 1:
        return []
    found: dict[Genome, None] = {}
    for _ in range(20 * count):
        if len(found) == count:
            return list(found)
        genome = space.sample(rng)
        if genome not in barred:
            found[genome] = None
    if space.size <= ENUMERABLE:
        left = [g for g in space.members() if g not in barred and g not in found]
        more = rng.permutation(len(left))[: count - len(found)]
        found.update(dict.fromkeys(left[i] for i in more))
    return list(found)
