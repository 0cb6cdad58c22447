"""Which matrix products bear a coarser precision: the most time for the least error.

Each product alone is rounded and the answers compared with the original's (one-at-a-time
sensitivity, as in HAWQ, Dong et al., ICCV 2019, with the error itself in place of curvature).
Products are ranked by error per weight saved, and the longest prefix of that ranking whose
answers *together* stay within the limit is taken; rounding errors do not simply add up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

__all__ = ["longest_prefix", "rank"]

Judge: TypeAlias = Callable[[Collection[str]], float]
"""The error of the answers when these products are rounded; inf where they are useless."""


def rank(products: Mapping[str, int], judge: Judge) -> list[str]:
    """Products (name to number of weights), the one to round first at the front."""
    cost = {name: judge((name,)) / weights for name, weights in products.items()}
    return sorted(products, key=lambda name: (cost[name], name))


def longest_prefix(ranking: Sequence[str], judge: Judge, most: float) -> tuple[str, ...]:
    """The most of ``ranking``, from its front, whose error is at most ``most``, by bisection."""
    low, high = 0, len(ranking) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if judge(ranking[:middle]) <= most:
            low = middle
        else:
            high = middle
    return tuple(ranking[:low])
