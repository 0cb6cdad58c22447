"""Distance of a plan's answers from the original's. Plain numpy; torch is not imported.

========== ======================================================================================
relative_l2 ``‖got − reference‖ / ‖reference‖`` per output, the worst output of an example
cosine      ``1 − cos`` of the vectors along the last dim, mean over an example
top1        share of positions whose largest entry along the last dim is another one
========== ======================================================================================

Integer and boolean outputs count by the share of entries that differ, in every metric. What is
missing, has another shape or dtype, or is not finite where the reference is, errs infinitely.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EXACT",
    "METRICS",
    "Fidelity",
    "Limit",
    "agreement",
    "as_array",
    "as_floats",
    "error",
    "judge",
    "row_errors",
    "row_of",
    "tier_of",
]

Floats: TypeAlias = NDArray[np.float64]

# An output whose reference is (nearly) zero is judged against the size of all outputs
# together; relative to its own it would be condemned for rounding.
_FLOOR = 1e-6

EXACT = 1e-4
"""Errors up to this are float arithmetic in another order, not a choice between qualities."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The largest error that answers may have, by a metric.

    >>> Limit.parse(str(Limit("cosine", 0.005)))
    Limit(metric='cosine', most=0.005)
    """

    metric: str
    most: float

    def __str__(self) -> str:
        return f"{self.metric}<={self.most!r}"

    @staticmethod
    def parse(text: str) -> Limit:
        """What ``str`` wrote; a ``ValueError`` for anything else."""
        metric, found, most = text.partition("<=")
        if not found or metric not in METRICS:
            raise ValueError(f"limit must be METRIC<=NUMBER, got {text!r}")
        return Limit(metric, float(most))


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Errors over several examples: plans are judged by ``worst``."""

    metric: str
    worst: float
    mean: float
    examples: int


def error(metric: str, got: Sequence[Any], reference: Sequence[Any]) -> float:
    """The error of one example: flat outputs (numpy arrays or CPU torch tensors) of both.

    >>> import numpy as np
    >>> error("relative_l2", [np.array([3.0, 4.5])], [np.array([3.0, 4.0])])
    0.1
    """
    measure = _measure(metric)
    pairs = [(as_array(a), as_array(b)) for a, b in zip(got, reference, strict=False)]
    if len(got) != len(reference) or any(
        a.shape != b.shape or a.dtype != b.dtype for a, b in pairs
    ):
        return float("inf")
    floats = [(as_floats(a), as_floats(b)) for a, b in pairs if b.dtype.kind in "fc"]
    if any(not np.array_equal(np.isfinite(a), np.isfinite(b)) for a, b in floats):
        return float("inf")
    finite = [
        (np.where(np.isfinite(b), a, 0.0), np.where(np.isfinite(b), b, 0.0)) for a, b in floats
    ]
    exact = [float(np.mean(a != b)) for a, b in pairs if b.dtype.kind not in "fc" and b.size]
    with np.errstate(over="ignore", invalid="ignore"):
        measured = [*exact, *(measure(a, b, _scale(finite)) for a, b in finite if b.size)]
    # A norm of float64 may overflow: what can't be measured is no match.
    return max([0.0, *(float("inf") if math.isnan(one) else one for one in measured)])


def agreement(measure: str, got: Sequence[Any], original: Sequence[Any]) -> float:
    """How far the answers of a sub-network agree with the original's, 0 to 1.

    ``"cosine"``: the cosine similarity along the last dim, its mean, 0 where that is negative;
    ``"top1"``: the share of positions with the same largest entry. Of several outputs the one that
    agrees least counts; answers of another shape or with a NaN of their own agree in nothing.

    >>> import numpy as np
    >>> agreement("top1", [np.array([[1.0, 2.0], [1.0, 0.0]])], [np.array([[0.0, 2.0]] * 2)])
    0.5
    """
    return max(0.0, 1.0 - error(measure, got, original))


def judge(metric: str, pairs: Iterable[tuple[Sequence[Any], Sequence[Any]]]) -> Fidelity:
    """Errors over (got, reference) pairs; no pair at all is an infinite error, not a pass."""
    errors = [error(metric, got, reference) for got, reference in pairs]
    if not errors:
        return Fidelity(metric, float("inf"), float("inf"), 0)
    return Fidelity(metric, max(errors), float(np.mean(errors)), len(errors))


def row_errors(
    metrics: Collection[str],
    got: Sequence[Any],
    reference: Sequence[Any],
    axes: Sequence[int | None],
) -> list[dict[str, float]]:
    """The errors of each row of a batch by itself; ``axes``: where each output has its rows, None
    for one that every row gets whole.

    >>> got, reference = np.array([[1.0], [1.5]]), np.array([[1.0], [2.0]])
    >>> row_errors(["relative_l2"], [got], [reference], [0])
    [{'relative_l2': 0.0}, {'relative_l2': 0.25}]
    """
    sizes = [b.shape[axis] for b, axis in zip(reference, axes, strict=True) if axis is not None]
    if [tuple(a.shape) for a in got] != [tuple(b.shape) for b in reference]:
        return [dict.fromkeys(metrics, math.inf)] * (sizes[0] if sizes else 1)
    rows = [
        (row_of(got, axes, index), row_of(reference, axes, index))
        for index in range(sizes[0] if sizes else 1)
    ]
    return [{metric: error(metric, *pair) for metric in metrics} for pair in rows]


def row_of(leaves: Sequence[Any], axes: Sequence[int | None], index: int) -> list[Any]:
    """One row of a batch, C contiguous; leaves without rows, whole."""
    return [
        leaf if axis is None else _narrowed(leaf, axis, index)
        for leaf, axis in zip(leaves, axes, strict=True)
    ]


def _narrowed(leaf: Any, axis: int, index: int) -> Any:
    part = leaf[(*(slice(None),) * axis, slice(index, index + 1))]
    return part.contiguous() if hasattr(part, "contiguous") else np.ascontiguousarray(part)


def tier_of(error: float | None) -> int:
    """Tier of an error: 0 is exact, then one tier per factor of two. Of a plan see
    `supernet.tiers.plan_tier`.

    >>> tier_of(1e-6), tier_of(1.5e-4), tier_of(1e-3)
    (0, 1, 4)
    """
    if error is None or error <= EXACT:
        return 0
    return 1 + int(math.log2(error / EXACT))


def _measure(metric: str) -> Callable[[Floats, Floats, float], float]:
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {sorted(METRICS)}, got {metric!r}")
    return METRICS[metric]


def _relative_l2(got: Floats, reference: Floats, scale: float) -> float:
    apart = float(np.linalg.norm((got - reference).ravel()))
    size = max(float(np.linalg.norm(reference.ravel())), _FLOOR * scale)
    return apart / size if size > 0 else (0.0 if apart == 0 else float("inf"))


def _cosine(got: Floats, reference: Floats, scale: float) -> float:
    a, b = np.atleast_1d(got), np.atleast_1d(reference)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    dots = (a * b).sum(axis=-1)
    same = (a == b).all(axis=-1)  # two zero vectors have no angle, and are the same
    cosine = np.where(same, 1.0, dots / np.where(norms > 0, norms, 1.0))
    return float(np.mean(1.0 - np.clip(cosine, -1.0, 1.0)))


def _top1(got: Floats, reference: Floats, scale: float) -> float:
    a, b = np.atleast_1d(got), np.atleast_1d(reference)
    return float(np.mean(a.argmax(axis=-1) != b.argmax(axis=-1)))


METRICS: dict[str, Callable[[Floats, Floats, float], float]] = {
    "relative_l2": _relative_l2,
    "cosine": _cosine,
    "top1": _top1,
}


def _scale(pairs: Sequence[tuple[Floats, Floats]]) -> float:
    return float(np.sqrt(sum(float(np.square(b).sum()) for _, b in pairs)))


def as_array(value: Any) -> NDArray[Any]:
    """A numpy array of the same values; of bfloat16, which numpy does not have, as float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # numpy has no such dtype
            return np.asarray(value.float().numpy())
        return np.asarray(value.numpy())
    return np.asarray(value)


def as_floats(values: NDArray[Any]) -> Floats:
    """In float64; complex numbers get a last dim for their two parts."""
    if values.dtype.kind == "c":
        return np.stack([values.real, values.imag], axis=-1).astype(np.float64)
    return values.astype(np.float64)
