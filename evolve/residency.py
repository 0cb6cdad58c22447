"""Which admitted plans are worth their memory: those that are the best choice somewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["worth_keeping"]

# Timings differ by this much from one measurement to the next; less is no reason to hold a plan.
NOISE = 0.03


def worth_keeping(
    cost_ms: npt.NDArray[np.float64], tier: Sequence[int], *, slo_ms: float, limit: int
) -> tuple[int, ...]:
    """Indices of the plans to hold; plan 0 is the original and always among them.

    Args:
        cost_ms: `[plans, rows, cells]`, inf where unknown.
        tier: Quality tier of each plan, 0 the most accurate.
        slo_ms: Shapes that cost more than this under every plan don't count.
        limit: Largest number of plans beside the original.

    A plan is dominated when at every shape another one of the same or a better tier is as fast,
    to within the noise of measurement. The least useful goes first, and the rest is looked at
    again, so that of two equals one stays.
    """
    kept = list(range(len(tier)))
    while True:
        uses = {p: _use(cost_ms, tier, p, kept, slo_ms) for p in kept if p != 0}
        if not uses:
            return tuple(kept)
        # Of equally useless plans the one built last goes: the queue of builds is best first.
        worst = min(uses, key=lambda p: (uses[p], -p))
        if uses[worst] > 0 and len(uses) <= limit:
            return tuple(kept)
        kept.remove(worst)


def _use(
    cost_ms: npt.NDArray[np.float64], tier: Sequence[int], plan: int, kept: Sequence[int],
    slo_ms: float,
) -> float:  # fmt: skip
    """Mean share of time saved against the next best, over the shapes that fit the SLO."""
    rivals = [p for p in kept if p != plan and tier[p] <= tier[plan]]
    mine = cost_ms[plan]
    best = np.min(cost_ms[rivals], axis=0) if rivals else np.full_like(mine, np.inf)
    fits = mine <= slo_ms
    wins = fits & (mine < (1.0 - NOISE) * best)
    if not wins.any():
        return 0.0
    saved = 1.0 - mine[wins] / np.where(np.isfinite(best[wins]), best[wins], np.inf)
    return float(saved.sum()) / float(fits.sum())
