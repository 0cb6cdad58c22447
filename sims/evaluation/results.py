"""Results of `compare` on a suite: utility, differences to the default rule, regret."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sims.evaluation.entrants import described
from sims.evaluation.evaluate import AnyPolicy
from sims.evaluation.statistics import ConfidenceInterval, over_seeds, paired
from sims.evaluation.suite import Cell, Suite

__all__ = ["ComparedPolicy", "Comparison"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ComparedPolicy:
    """One policy on all cells and seeds.

    `utility`, `met` [cells, seeds]: as in `evaluate.Scores`. `pool`: the policy, or those of
    which `picked` [cells, seeds] tells the one that was played (best in hindsight). `how`:
    "default", "tuned" or "hindsight".
    """

    name: str
    how: str
    pool: tuple[AnyPolicy, ...]
    utility: Floats
    met: Floats
    picked: Ints

    @property
    def label(self) -> str:
        """Its name in tables and pictures."""
        return self.name if self.how == "default" else f"{self.name}, {self.how}"

    @property
    def setting(self) -> str:
        """What it ran with, in words; of many settings, how many."""
        chosen = np.unique(self.picked)
        if chosen.size == 1:
            return described(self.pool[int(chosen[0])])
        return f"{chosen.size} of {len(self.pool)} settings"

    def policy(self, cell: int, seed: int) -> AnyPolicy:
        """Who played that episode."""
        return self.pool[int(self.picked[cell, seed])]


@dataclass(frozen=True, eq=False)
class Comparison:
    """All rows on the same episodes, and the bound that none can exceed.

    `cells` in the suite's order; `bound` [cells, seeds]. The first row is the default rule.
    Differences and regret are in percentage points of utility; intervals are over seeds, see
    `sims.evaluation.statistics`.
    """

    suite: Suite
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    training_seeds: tuple[int, ...]
    rows: tuple[ComparedPolicy, ...]
    bound: Floats
    regimes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = tuple(dict.fromkeys(cell.regime for cell in self.cells))
        object.__setattr__(self, "regimes", names)

    def where(self, *, regime: str | None = None, load: float | None = None) -> Ints:
        """Indices of the cells of one regime, of one load, or of all."""
        return np.array(
            [
                c
                for c, cell in enumerate(self.cells)
                if regime in (None, cell.regime) and load in (None, cell.load)
            ],
            np.int64,
        )

    def utility(self, row: ComparedPolicy, *, regime: str | None = None) -> ConfidenceInterval:
        """Mean utility in 0..1."""
        return over_seeds(row.utility[self.where(regime=regime)])

    def difference(self, row: ComparedPolicy, *, regime: str | None = None) -> ConfidenceInterval:
        """Points over the default rule, paired."""
        at = self.where(regime=regime)
        return paired(row.utility[at], self.rows[0].utility[at])

    def regret(
        self, row: ComparedPolicy, *, regime: str | None = None, load: float | None = None
    ) -> ConfidenceInterval:
        """Points below the clairvoyant bound, paired."""
        at = self.where(regime=regime, load=load)
        return paired(self.bound[at], row.utility[at])

    def worst(self, row: ComparedPolicy) -> tuple[float, Cell]:
        """The cell where it is furthest below the default rule on average: points, cell."""
        points = 100.0 * (row.utility - self.rows[0].utility).mean(axis=1)
        at = int(points.argmin())
        return float(points[at]), self.cells[at]

    def to_json(self) -> dict[str, Any]:
        """Everything: definition, every episode's figures, and the intervals."""
        service = self.suite.service
        return {
            "workers": service.workers,
            "slo_ms": service.slo_ms,
            "seeds": list(self.seeds),
            "training_seeds": list(self.training_seeds),
            "cells": [{"regime": cell.regime, "load": cell.load} for cell in self.cells],
            "unit_of_replication": "seed",
            "bound": {"utility": self.bound.tolist(), "mean": float(self.bound.mean())},
            "policies": {row.label: self._told(row) for row in self.rows},
        }

    def _told(self, row: ComparedPolicy) -> dict[str, Any]:
        points, cell = self.worst(row)
        return {
            "how": row.how,
            "setting": row.setting,
            "settings": [[described(row.pool[k]) for k in cells] for cells in row.picked.tolist()]
            if len(row.pool) > 1
            else None,
            "utility": _interval(self.utility(row)),
            "difference_points": _interval(self.difference(row)),
            "regret_points": _interval(self.regret(row)),
            "met_ratio": _interval(over_seeds(row.met)),
            "worst_cell": {"regime": cell.regime, "load": cell.load, "difference_points": points},
            "by_regime": {
                regime: {
                    "utility": _interval(self.utility(row, regime=regime)),
                    "difference_points": _interval(self.difference(row, regime=regime)),
                    "regret_points": _interval(self.regret(row, regime=regime)),
                }
                for regime in self.regimes
            },
            "utility_by_cell_and_seed": row.utility.tolist(),
            "met_by_cell_and_seed": row.met.tolist(),
        }


def _interval(found: ConfidenceInterval) -> dict[str, float | int | None]:
    low, high = (v if math.isfinite(v) else None for v in (found.low, found.high))
    return {"mean": found.mean, "low": low, "high": high, "n": found.n}
