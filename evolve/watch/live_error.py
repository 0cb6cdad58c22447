"""Errors of less exact plans, pooled over answers: one request alone says little about a metric."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from supernet.fidelity import as_array, as_floats, error

if TYPE_CHECKING:
    from torch import Tensor

    from supernet.fidelity import Limit

__all__ = ["LiveErrors"]

_KEPT = 256
_RECENT = 16  # few enough that one wrong answer among them shows
_SIGMAS = 4.0
_FLOOR = 1e-6


class _Seen(NamedTuple):
    """One answer: its error by the metric, and per output the squares of its distance and size."""

    error: float
    apart: tuple[float, ...]
    size: tuple[float, ...]


class LiveErrors:
    """Errors of the checked answers per plan, against the SLO's limit.

    A plan was admitted by the worst of a few batches, so single requests may lie over the limit
    without being wrong: outputs near zero do by their nature. Hence distances are pooled over the
    latest answers, and the fewer there are the more is allowed: 4 times the limit for one, 1.75
    times over 16, 1.19 times over 256. Shares (``top1``), which are 0 or 1 for one request, count
    only once their mean is over the limit by 4 standard errors.
    """

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._seen: defaultdict[str, deque[_Seen]] = defaultdict(lambda: deque(maxlen=_KEPT))

    def over(self, plan: str, got: Sequence[Tensor], want: Sequence[Tensor]) -> str | None:
        """Takes one more answer of `plan` into account; why it is over the limit by now."""
        metric, most = self._limit.metric, self._limit.most
        one = error(metric, got, want)
        if not math.isfinite(one):
            return f"an answer's {metric} error is {one:g}"
        seen = self._seen[plan]
        seen.append(_Seen(one, *_squares(got, want)))
        for last in (min(_RECENT, len(seen)), len(seen)):
            part = list(seen)[-last:]
            found, allowed = self._pooled(part), most * (1 + 3 / math.sqrt(last))
            if metric == "top1":
                allowed = most + _SIGMAS * _standard_error([entry.error for entry in part])
            if found > allowed:
                return f"{metric} error over the last {last} answers is {found:.2g}, over {most:g}"
        return None

    def _pooled(self, part: Sequence[_Seen]) -> float:
        if self._limit.metric != "relative_l2":
            return float(np.mean([entry.error for entry in part]))
        apart = np.sum([entry.apart for entry in part], axis=0)
        size = np.sum([entry.size for entry in part], axis=0)
        # An output of nearly nothing is judged by the size of all of them (`supernet.fidelity`).
        size = np.maximum(size, _FLOOR**2 * size.sum())
        if not size.all():
            return math.inf if apart.any() else 0.0
        return float(np.sqrt((apart / size).max(initial=0.0)))


def _squares(
    got: Sequence[Tensor], want: Sequence[Tensor]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    apart, size = [], []
    for one, other in zip(got, want, strict=True):
        a, b = as_floats(as_array(one)), as_floats(as_array(other))
        finite = np.isfinite(b)
        if as_array(other).dtype.kind not in "fc":  # the share of entries that differ
            apart.append(float(np.mean(a != b)) ** 2 if b.size else 0.0)
            size.append(1.0)
            continue
        apart.append(float(np.square(np.where(finite, a - b, 0.0)).sum()))
        size.append(float(np.square(np.where(finite, b, 0.0)).sum()))
    return tuple(apart), tuple(size)


def _standard_error(errors: Sequence[float]) -> float:
    return float(np.std(errors) / math.sqrt(len(errors))) if len(errors) > 1 else math.inf
