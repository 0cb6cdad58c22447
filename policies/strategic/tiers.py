"""The set of sub-networks to hold as quality tiers, chosen by what the set is worth together."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["TierSet", "choose_tiers"]

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class TierSet(Generic[T]):
    """The chosen tiers in the order they were given as candidates, and what they are worth.

    `asked`: how many sets the utility was asked for. `reason`: in words, how it came about.
    """

    tiers: tuple[T, ...]
    utility: float
    asked: int
    reason: str


def choose_tiers(
    candidates: Sequence[T],
    k: int,
    utility: Callable[[frozenset[T]], float],
    held: Sequence[T] = (),
    budget: int = 1_000,
) -> TierSet[T]:
    """At most `k` tiers, those in `held` among them, of the greatest utility found.

    Greedy: the tier that adds most, one at a time, as long as one adds anything; then exchange of
    one for another as long as that helps. `utility` is asked once for each set and at most
    `budget` times; a NaN from it counts as the least. With submodular utilities greedy alone is
    within 1 - 1/e of the best (Nemhauser et al. 1978).

    >>> choose_tiers([1, 2, 3, 4], 2, lambda tiers: -abs(6 - sum(tiers))).tiers
    (2, 4)
    """
    order = list(dict.fromkeys([*held, *candidates]))
    if not len(set(held)) <= k or k < 1:
        raise ValueError(f"k must be at least 1 and the {len(set(held))} tiers held, got {k}")
    if budget < 1:
        raise ValueError(f"budget must be at least 1, got {budget}")
    known: dict[frozenset[T], float] = {}

    def worth(tiers: frozenset[T]) -> float:
        if tiers not in known:
            if len(known) >= budget:
                return -math.inf
            value = float(utility(tiers))
            known[tiers] = -math.inf if math.isnan(value) else value
        return known[tiers]

    chosen, added = frozenset(held), 0
    best = worth(chosen)
    while len(chosen) < k:
        grown = _best(worth, (chosen | {one} for one in order if one not in chosen))
        if grown is None or worth(grown) <= best:
            break
        chosen, best, added = grown, worth(grown), added + 1
    exchanged = 0
    while swapped := _best(worth, _exchanges(order, chosen, frozenset(held))):
        if worth(swapped) <= best:
            break
        chosen, best, exchanged = swapped, worth(swapped), exchanged + 1
    tiers = tuple(one for one in order if one in chosen)
    reason = (
        f"{len(tiers)} of {len(order)}: {len(set(held))} held, {added} added for what they add, "
        f"{exchanged} exchanged; utility {best:.4g} after {len(known)} sets"
        + (" (the budget)" if len(known) >= budget else "")
    )
    return TierSet(tiers, best, len(known), reason)


def _exchanges(
    order: Sequence[T], chosen: frozenset[T], held: frozenset[T]
) -> Iterator[frozenset[T]]:
    """Every set that has another tier in place of one that need not be held."""
    for out in order:
        if out in chosen and out not in held:
            yield from (chosen - {out} | {one} for one in order if one not in chosen)


def _best(
    worth: Callable[[frozenset[T]], float], sets: Iterator[frozenset[T]]
) -> frozenset[T] | None:
    return max(sets, key=worth, default=None)
