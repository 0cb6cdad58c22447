"""Statistical inference from the errors of some hundred unseen rows to those to come. Plain numpy.

A limit is to hold for the rows of years, not for those looked at. Of the usual rows the error that
one in a thousand exceeds is estimated from the tail of what was seen (Weissman 1978, JASA 73:812,
with the tail index of Hill 1975, Ann. Statist. 3:1163); of the strange ones those over the limit
bound what the plan may be given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from supernet.bounds import Bound, Bounds, Floats, widest
from supernet.fidelity import METRICS, Limit

__all__ = ["Looked", "RowErrors", "tail"]

RARE = 1e-3
_LEAST = 1e-9  # error of a tail
_MOST_LOG = 700.0  # of what a float holds
_SURE = 2.33  # standard deviations: 99 times in 100
_BY_MEAN = ("top1",)  # of a single row it is all or nothing


@dataclass(frozen=True, slots=True)
class Looked:
    """Rows that a plan answered: of each, per floating input, its features
    (`supernet.bounds.features`), and its error by every metric."""

    features: Sequence[Sequence[Sequence[float]]] = ()
    errors: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __add__(self, other: Looked) -> Looked:
        return Looked(
            [*self.features, *other.features],
            {name: [*self.of(name), *other.of(name)] for name in METRICS},
        )

    def of(self, metric: str) -> Sequence[float]:
        return self.errors.get(metric, ())

    def array(self, leaves: int) -> Floats:
        """The features, ``[rows, leaves, 2]``."""
        return np.asarray(self.features, np.float64).reshape(len(self.features), leaves, 2)

    def to_json(self) -> dict[str, Any]:
        return {"features": self.features, "errors": dict(self.errors)}


@dataclass(frozen=True, slots=True)
class RowErrors:
    """How a coarse plan answered unseen rows. ``leaves``: the numbers of the inputs that are
    bounded, and the axis of their rows."""

    leaves: Sequence[tuple[int, int | None]] = ()
    usual: Looked = field(default_factory=Looked)
    strange: Looked = field(default_factory=Looked)

    def error(self, metric: str) -> float:
        """What the error of 999 in 1000 usual rows is expected to stay below; of ``top1`` the
        mean. 0 where no row was looked at."""
        errors = self.usual.of(metric)
        if not errors:
            return 0.0
        return float(np.mean(errors)) if metric in _BY_MEAN else tail(errors)

    def worst(self, metric: str) -> float:
        """The largest error of all rows, strange ones included."""
        return max([0.0, *self.usual.of(metric), *self.strange.of(metric)])

    def bounds(self, limit: Limit) -> Bounds | None:
        """Where the strange rows keep the limit; None where one fails that looks like the usual."""
        usual = self.usual.array(len(self.leaves))
        if not self.leaves:
            return Bounds()
        strange = self.strange.array(len(self.leaves))
        fails = ~(np.asarray(self.strange.of(limit.metric), np.float64) <= limit.most)
        if not len(usual):
            return None if fails.any() else Bounds()
        # Zeros are common, and like nothing else: no range of sizes tells whether they work.
        is_empty = strange[:, :, 0] == 0
        zeros_fail = is_empty[fails].any(0)
        full = ~is_empty.any(1)
        sized = (usual[:, :, 0] > 0).all(1)  # none where an input is always 0, as a first state is
        found = widest(usual[sized] if sized.any() else usual, strange[full], fails[full])
        if found is None:
            return None
        return Bounds(
            tuple(
                Bound(leaf, axis, size, spread, not zeros)
                for (leaf, axis), (size, spread), zeros in zip(
                    self.leaves, found, zeros_fail.tolist(), strict=True
                )
            )
        )

    def __add__(self, other: RowErrors) -> RowErrors:
        return RowErrors(
            self.leaves or other.leaves, self.usual + other.usual, self.strange + other.strange
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "leaves": [list(leaf) for leaf in self.leaves],
            "usual": self.usual.to_json(),
            "strange": self.strange.to_json(),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> RowErrors:
        leaves = [(int(leaf), None if axis is None else int(axis)) for leaf, axis in data["leaves"]]
        return RowErrors(leaves, Looked(**data["usual"]), Looked(**data["strange"]))


def tail(errors: Sequence[float], rare: float = RARE) -> float:
    """The error that at most a share ``rare`` of further ones exceeds, 99 times in 100: the upper
    end of what the estimate may be off by (its logarithm is about normal; de Haan & Ferreira 2006,
    Extreme Value Theory, theorem 4.3.8). Never less than the largest of these.

    >>> errors = [0.01 * (i / 300) ** -0.5 for i in range(1, 301)]  # tail index 1/2
    >>> 0.32 < tail(errors) < 0.9  # the true value is 0.32
    True
    """
    found = np.sort(np.asarray(errors, np.float64))
    largest, count = float(found[-1]), max(3, len(found) // 10)
    if not math.isfinite(largest) or len(found) <= count:
        return largest
    top, threshold = found[-count:], max(float(found[-count - 1]), _LEAST)
    index = float(np.mean(np.log(np.maximum(top, threshold) / threshold)))
    reach = math.log(count / len(found) / rare)
    grown = math.log(threshold) + index * reach * (1 + _SURE / math.sqrt(count))
    return max(largest, math.exp(grown) if grown < _MOST_LOG else math.inf)
