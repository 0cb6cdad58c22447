"""The contents for which a coarse plan was seen to keep its error.

Rounding that is harmless for numbers of the usual size may not be for far larger or smaller ones,
or for numbers that hardly differ: a softmax saturates, a bias no longer counts, sums cancel. So
each floating input is bounded, row by row, in its largest magnitude and in its spread. Plain
numpy; torch is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from supernet.fidelity import as_array
from supernet.signature import Signature

__all__ = ["Bound", "Bounds", "Floats", "bounded", "features", "widest"]

Floats: TypeAlias = NDArray[np.float64]
Range: TypeAlias = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Bound:
    """What the rows (along ``axis``; None: it has none) of the input leaf number ``leaf`` keep.

    ``size``: the least and the most that a row's largest magnitude may be, ``spread`` the same of
    the distance between its largest and its smallest number. ``zeros``: rows of nothing but zeros
    are answered as well.
    """

    leaf: int
    axis: int | None
    size: Range
    spread: Range
    zeros: bool

    def holds(self, leaves: Sequence[Any]) -> bool:
        """Whether every row does; one with a NaN does not."""
        array = as_array(leaves[self.leaf])
        if not array.size:
            return True
        found = features(array, self.axis)
        size, spread = found[:, 0], found[:, 1]
        within = (self.size[0] <= size) & (size <= self.size[1])
        within &= (self.spread[0] <= spread) & (spread <= self.spread[1])
        if self.zeros:
            within |= size == 0
        return bool(within.all())


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of all floating inputs that are no masks; of none where a model has only others."""

    each: tuple[Bound, ...] = ()

    def hold(self, leaves: Sequence[Any]) -> bool:
        """Whether the flat inputs of a request are within all of them.

        >>> import numpy as np
        >>> bounds = Bounds((Bound(0, 0, size=(0.1, 8.0), spread=(0.0, 16.0), zeros=False),))
        >>> bounds.hold([np.array([[1.0, -2.0]])]), bounds.hold([np.array([[1.0, 9.0]])])
        (True, False)
        """
        return all(bound.holds(leaves) for bound in self.each)


def bounded(signature: Signature, masks: Sequence[int] = ()) -> Mapping[int, int | None]:
    """The inputs that are bounded: their numbers, and the axis of their rows."""
    return {
        leaf: spec.axis("rows")
        for leaf, spec in enumerate(signature.inputs)
        if "float" in spec.dtype and leaf not in masks
    }


def features(array: NDArray[Any], axis: int | None) -> Floats:
    """``[rows, 2]``: each row's largest magnitude and its spread; of a single number no spread."""
    if not array.size:
        return np.zeros((1 if axis is None else array.shape[axis], 2))
    rows = array.reshape(1, -1) if axis is None else np.moveaxis(array, axis, 0)
    rows = rows.reshape(len(rows), -1)
    high, low = rows.max(1).astype(np.float64), rows.min(1).astype(np.float64)
    return np.stack([np.maximum(high, -low), high - low], axis=1)


def widest(usual: Floats, strange: Floats, fails: NDArray[np.bool_]) -> list[list[Range]] | None:
    """The ranges of the features that hold all ``usual`` rows and no strange one that ``fails``.

    ``usual`` and ``strange`` are ``[rows, leaves, 2]``. Each failing row is shut out by the feature
    in which it is least like the usual rows. None where one is like them in every feature.
    """
    least, most = usual.min(0), usual.max(0)
    seen = np.concatenate([usual, strange])
    low, high = seen.min(0), seen.max(0)
    fine = strange[~fails]
    for row in strange[fails]:
        if not ((low <= row) & (row <= high)).all():
            continue
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            below = np.where(row < least, least / row, 0.0)
            above = np.where(row > most, row / most, 0.0)
        apart = np.maximum(below, above)
        if not apart.any():
            return None
        leaf, which = np.unravel_index(int(np.argmax(apart)), apart.shape)
        others = fine[:, leaf, which]
        if row[leaf, which] < least[leaf, which]:
            higher = others[others > row[leaf, which]]
            low[leaf, which] = min([least[leaf, which], *higher])
        else:
            lower = others[others < row[leaf, which]]
            high[leaf, which] = max([most[leaf, which], *lower])
    return [
        [(float(a), float(b)) for a, b in zip(*ends, strict=True)]
        for ends in zip(low, high, strict=True)
    ]
