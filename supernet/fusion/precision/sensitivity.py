"""Matrix products that bear a coarser precision: the most bits saved for the least error.

Each product alone is rounded and the answers compared with the original's (one-at-a-time
sensitivity, as in HAWQ, Dong et al., ICCV 2019, with the error itself in place of curvature).
Roundings are independent, so their squares add up: steps are ranked by squared error per bit
saved, and the longest prefix of that ranking whose answers *together* stay within the limit is
taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

__all__ = ["Step", "longest_prefix", "rank"]

Step: TypeAlias = tuple[str, str]
"""A product, and the precision that it goes down to."""


def rank(
    weights: Mapping[str, int], errors: Mapping[Step, float], bits: Mapping[str, int]
) -> list[Step]:
    """Steps down, the one to take first at the front; a product may go down twice.

    ``weights``: products and how many weights each has. ``errors``: relative L2 with this step
    alone. ``bits`` per weight of each precision, ``"fp32"`` included. Ties go by name.

    >>> rank({"a": 10}, {("a", "bf16"): 0.01, ("a", "int8"): 0.1}, {"fp32": 32, "bf16": 16,
    ...     "int8": 8})
    [('a', 'bf16'), ('a', 'int8')]
    """
    steps: list[tuple[float, str, str]] = []
    for name, count in weights.items():
        at, spent = "fp32", 0.0
        while below := [k for p, k in errors if p == name and bits[k] < bits[at]]:
            prices = {
                kind: (errors[name, kind] ** 2 - spent) / (count * (bits[at] - bits[kind]))
                for kind in below
            }
            at = min(below, key=lambda kind: (prices[kind], bits[kind]))
            spent = errors[name, at] ** 2
            steps.append((prices[at], name, at))
    # A second step down never costs less than the first: both prices lie on a convex curve.
    return [(name, kind) for _, name, kind in sorted(steps)]


def longest_prefix(
    ranking: Sequence[Step], judge: Callable[[Mapping[str, str]], float], most: float
) -> dict[str, str]:
    """The most of ``ranking``, from its front, whose error is at most ``most``, by bisection.

    Products that it rounds, and how; to within a fortieth of the ranking, as each try of a large
    model makes a plan of it.
    """
    low, high = 0, len(ranking) + 1
    while high - low > max(1, len(ranking) // 40):
        middle = (low + high) // 2
        if judge(dict(ranking[:middle])) <= most:
            low = middle
        else:
            high = middle
    return dict(ranking[:low])
