"""The genomes to measure before anything is known: what the first generation is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from policies.strategic.additive import Additive, best_under
from policies.strategic.evaluations import Objectives
from policies.strategic.genome import Genome, Space
from policies.strategic.members import corners, neighbours, uniform_slices

__all__ = ["additive_optima", "seeds"]


def seeds(space: Space, stale_front: Sequence[Genome]) -> Iterator[tuple[Genome, str]]:
    """Genomes with the reason for each, the most telling first; some come twice.

    `stale_front`: what nothing beat under older weights.
    """
    yield space.original, "the original, which all others are compared with"
    for genome in stale_front:
        yield genome, "nothing beat it under the weights before"
    for genome in corners(space):
        yield genome, "a corner of the space"
    for genome in uniform_slices(space):
        yield genome, "a uniform slice"


def additive_optima(
    space: Space,
    measured: Mapping[Genome, Objectives],
    latency: Additive | None,
    bounds: int,
) -> Iterator[tuple[Genome, str]]:
    """Solutions of DP on the additive model for so many bounds of latency, in equal steps.

    Nothing before the original and, for every gene, some change of it alone are measured: those
    scores are not asked for here, for as many balanced ones tell more (decision 0029), but who has
    them tells them. `latency`: an additive cost table in place of the one measured.
    """
    alone = [g for g in neighbours(space, space.original) if g in measured]
    changed = {i for g in alone for i, most in enumerate(space.original) if g[i] != most}
    if space.original not in measured or any(
        most and i not in changed for i, most in enumerate(space.original)
    ):
        return
    losses = {genome: one.quality_loss for genome, one in measured.items()}
    times_ms = {genome: one.latency_ms for genome, one in measured.items()}
    loss = Additive.from_replace_one(space, losses)
    cost = latency or Additive.from_replace_one(space, times_ms)
    bounds_ms = np.linspace(cost.least, cost(space.original), bounds + 2)[1:-1].tolist()
    for bound_ms, genome in zip(bounds_ms, best_under(space, loss, cost, bounds_ms), strict=True):
        if genome is not None:
            yield genome, f"best of the additive model within {bound_ms:.4g} ms"
