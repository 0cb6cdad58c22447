"""Checks of a request's inputs: what holds for them, its plans were proven for.

A request that violates one is answered by the original model, alone. Each check takes a few
microseconds on small inputs: Python looks at few numbers, numpy at what else lies on the CPU.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["Finite", "Guard", "Shown", "Within", "is_finite"]

_LARGEST = sys.float_info.max
# After a model has run, nothing of numpy is in the caches: its first call takes 90 µs, the same by
# lists of Python 18. So few numbers are looked at that way.
_FEW = 256
_SOME = 8192  # numbers whose sum of squares BLAS takes in one thread: half the cost of a search


class Guard(Protocol):
    """A condition on the input leaves of one request, in signature order."""

    def violation(self, leaves: Sequence[Tensor]) -> str | None:
        """The rule that they break, without their values; None if they keep it."""
        ...


@dataclass(frozen=True, slots=True)
class Within:
    """The integers of leaf number ``leaf`` lie between ``least`` and ``most``, both included.

    >>> Within(0, "ids", 0, 9).violation([torch.tensor([3, 10])])
    'ids must lie between 0 and 9'
    """

    leaf: int
    name: str
    least: int
    most: int

    def violation(self, leaves: Sequence[Tensor]) -> str | None:
        leaf = leaves[self.leaf]
        if leaf.numel() and not self._holds(leaf):
            return f"{self.name} must lie between {self.least} and {self.most}"
        return None

    def _holds(self, leaf: Tensor) -> bool:
        if not leaf.is_cpu:
            low, high = (int(end) for end in leaf.aminmax())
            return self.least <= low and high <= self.most
        if leaf.numel() <= _FEW:
            return all(self.least <= min(row) and max(row) <= self.most for row in _rows(leaf))
        array = leaf.numpy()
        if self.least == 0 and leaf.dtype is torch.int64:
            # Seen as unsigned, what is negative is larger than everything: one look for two.
            return bool(np.maximum.reduce(array.view(np.uint64), axis=None) <= self.most)
        low, high = np.minimum.reduce(array, axis=None), np.maximum.reduce(array, axis=None)
        return bool(self.least <= low and high <= self.most)


@dataclass(frozen=True, slots=True)
class Finite:
    """The floating leaf number ``leaf`` holds no NaN, nothing infinite, nothing beyond ``most``.

    Sums, squares and products of far larger numbers overflow, in each engine at another place.

    >>> Finite(0, "x", 1e6).violation([torch.tensor([1.0, -1e9])])
    'x must lie between -1e+06 and 1e+06'
    """

    leaf: int
    name: str
    most: float

    def violation(self, leaves: Sequence[Tensor]) -> str | None:
        if _is_within(leaves[self.leaf], self.most):
            return None
        return f"{self.name} must lie between {-self.most:g} and {self.most:g}"


@dataclass(frozen=True, slots=True)
class Shown:
    """The mask that leaf number ``leaf`` is shows position 0 along dim ``dim`` of every row.

    A row that hides all its keys shares its attention among the padding as well.
    """

    leaf: int
    name: str
    dim: int

    def violation(self, leaves: Sequence[Tensor]) -> str | None:
        first = leaves[self.leaf].select(self.dim, 0)
        if first.is_cpu and first.numel() <= _FEW:
            shown = all(seen == 1 for row in _rows(first) for seen in row)
        else:
            shown = bool((first == 1).all())
        return None if shown else f"{self.name} must be 1 at the first position of every row"


def _rows(leaf: Tensor) -> list[list[float]]:
    """Its numbers row by row; in one piece unless it has two dims, which costs a copy."""
    found: list[list[float]] = leaf.tolist() if leaf.ndim == 2 else [leaf.reshape(-1).tolist()]
    return found


def is_finite(leaf: Tensor) -> bool:
    """Whether a floating tensor holds no NaN and no infinity."""
    return _is_within(leaf, _LARGEST)


def _is_within(leaf: Tensor, most: float) -> bool:
    """Whether all of a floating tensor lies between ``-most`` and ``most``; a NaN does not.

    On the CPU numpy looks: torch would wake all cores for it, which the workers need.
    """
    if leaf.is_cpu and leaf.dtype in (torch.float32, torch.float64) and leaf.numel():
        if leaf.numel() <= _FEW and all(math.hypot(*row) <= most for row in _rows(leaf)):
            return True
        array = leaf.detach().numpy()
        if array.size <= _SOME and float(np.vdot(array, array)) < most * most:
            return True
        # A large sum of squares says little: the extremes, which a NaN takes part in, decide.
        high, low = (float(of.reduce(array, axis=None)) for of in (np.maximum, np.minimum))
        return -most <= low and high <= most
    return bool((leaf.abs() <= most).all())
