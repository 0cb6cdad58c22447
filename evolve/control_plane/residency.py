"""Residency: admitted plans worth their memory, without which batches would take notably longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["worth_keeping"]

# Timings differ by this much from one measurement to the next; less says nothing.
NOISE = 0.03
# A plan is another copy of the weights in every worker. It is held where it saves a tenth of a
# batch's time at some shape, or on average this much over all of them.
WORTH_SOMEWHERE, WORTH_OVERALL = 0.10, 0.02


def worth_keeping(
    cost_ms: npt.NDArray[np.float64], tier: Sequence[int], *, slo_ms: float, limit: int
) -> tuple[int, ...]:
    """Indices of the plans to hold; plan 0 is the original and always among them.

    Args:
        cost_ms: `[plans, rows, buckets]`, inf where unknown.
        tier: Quality tier of each plan, 0 the most accurate.
        slo_ms: Shapes that cost more than this under every plan don't count.
        limit: Largest number of plans beside the original.

    A plan goes where the others of the same or a better tier would do nearly as well: it saves
    less than `WORTH_SOMEWHERE` at every shape, and less than `WORTH_OVERALL` on average. The least
    useful goes first, and the rest is looked at again, so that of two equals one stays.
    """
    kept = list(range(len(tier)))
    while True:
        uses = {p: _use(cost_ms, tier, p, kept, slo_ms) for p in kept if p != 0}
        if not uses:
            return tuple(kept)
        # Of equally useless plans the one built last goes: the queue of builds is best first.
        worst = min(uses, key=lambda p: (uses[p].is_worth_it, uses[p].overall, -p))
        if uses[worst].is_worth_it and len(uses) <= limit:
            return tuple(kept)
        kept.remove(worst)


class _Use(NamedTuple):
    """Share of time saved against the next best: over the shapes that fit the SLO, at the best."""

    overall: float
    somewhere: float

    @property
    def is_worth_it(self) -> bool:
        return self.overall >= WORTH_OVERALL or self.somewhere >= WORTH_SOMEWHERE


def _use(
    cost_ms: npt.NDArray[np.float64], tier: Sequence[int], plan: int, kept: Sequence[int],
    slo_ms: float,
) -> _Use:  # fmt: skip
    """What `plan` saves against the next best of `kept` in its tier or a better one."""
    rivals = [p for p in kept if p != plan and tier[p] <= tier[plan]]
    mine = cost_ms[plan]
    best = np.min(cost_ms[rivals], axis=0) if rivals else np.full_like(mine, np.inf)
    fits = mine <= slo_ms
    wins = fits & (mine < (1.0 - NOISE) * best)
    if not wins.any():
        return _Use(0.0, 0.0)
    saved = 1.0 - mine[wins] / np.where(np.isfinite(best[wins]), best[wins], np.inf)
    return _Use(float(saved.sum()) / float(fits.sum()), float(saved.max()))
