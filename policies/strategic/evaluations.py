"""Measured objectives of genomes, for which weights they hold, and which of them nothing beats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.strategic.genome import Genome

__all__ = ["OBJECTIVES", "Evaluation", "Objectives", "Refusal", "nondominated", "on_front"]

OBJECTIVES = ("quality_loss", "latency_ms", "memory_mib")
Floats = NDArray[np.float64]

LARGEST = 1e12
"""No objective is larger; squares of far larger numbers would overflow in the predictor."""


@dataclass(frozen=True, slots=True)
class Objectives:
    """What a sub-network costs; less is better in all three.

    `quality_loss`: share of the original's quality that is lost, below 0 if it gains.
    `latency_ms`: mean under the present mix of shapes. `memory_mib`: of the loaded plan.
    """

    quality_loss: float
    latency_ms: float
    memory_mib: float

    def __post_init__(self) -> None:
        for name in OBJECTIVES:  # a numpy scalar would not be JSON
            object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def fault(self) -> str:
        """Why these can't be a measurement; empty if they can."""
        for name, value in zip(OBJECTIVES, self.values, strict=True):
            if not abs(value) <= LARGEST:
                return f"{name} must be finite and at most {LARGEST:g}, got {value}"
        if self.latency_ms <= 0.0 or self.memory_mib < 0.0:
            return (
                "latency_ms must be above 0 and memory_mib not below it, "
                f"got {self.latency_ms} and {self.memory_mib}"
            )
        return ""

    @property
    def values(self) -> tuple[float, float, float]:
        """The three in the order of `OBJECTIVES`."""
        return self.quality_loss, self.latency_ms, self.memory_mib


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A genome's measured objectives under one version of the weights."""

    genome: Genome
    objectives: Objectives
    weights: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "genome": list(self.genome),
            **dict(zip(OBJECTIVES, self.objectives.values, strict=True)),
            "weights": self.weights,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `to_json` gave."""
        values = (float(stored[name]) for name in OBJECTIVES)
        return cls(tuple(stored["genome"]), Objectives(*values), stored["weights"])


@dataclass(frozen=True, slots=True)
class Refusal:
    """A result that can't be used, and why; its genome isn't asked for again with these weights."""

    genome: Genome
    weights: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"genome": list(self.genome), "weights": self.weights, "reason": self.reason}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Refusal:
        """The refusal that `to_json` gave."""
        return cls(tuple(stored["genome"]), stored["weights"], stored["reason"])


def nondominated(values: Sequence[Sequence[float]] | Floats) -> list[int]:
    """Rows of `values` [N, M] that no other beats: none is as good in all and better in one.

    Of equal rows the first. In the order of the first column, then the second, and so on.
    """
    rows = np.asarray(values, np.float64)
    kept: list[int] = []
    front = np.empty((0, rows.shape[1] if rows.ndim == 2 else 0))
    for i in np.lexsort(rows.T[::-1]) if len(rows) else ():
        # What dominates a row comes before it in this order, so that one pass is enough.
        if not (front <= rows[i]).all(axis=1).any():
            kept.append(int(i))
            front = np.vstack([front, rows[i]])
    return kept


def on_front(evaluations: Iterable[Evaluation]) -> tuple[Evaluation, ...]:
    """Those that no other beats, from the best quality to the worst."""
    some = list(evaluations)
    return tuple(some[i] for i in nondominated([one.objectives.values for one in some]))
