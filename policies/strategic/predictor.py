"""Objectives of genomes that nobody has measured: ridge regression on genes and pairs of genes.

    genome ─ one-hot of what is not the original's, and pairs ─► ridge, by leave-one-out ─► values

A pair is two genes that follow each other, or two of one kind with none of that kind between.
Kendall's τ between measured values and those predicted, each left out in turn, says how far the
order of predictions can be trusted.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.strategic.genome import Genome, Space

__all__ = ["Predictor", "kendall_tau"]

Floats = NDArray[np.float64]

RIDGES = tuple(float(r) for r in np.logspace(-3, 2, 11))
PAIR_SCALES = (0.25, 0.5, 1.0)
"""Columns of pairs are scaled down, so that the ridge holds them harder than genes alone."""
LEAST_SAMPLES = 3
DECIMALS = 9
"""Predictions are rounded to so many: what should be a tie must not hang on the order in which a
linear algebra library adds up, which changes with its number of threads."""


@dataclass(frozen=True, slots=True, eq=False)
class _Ridge:
    """One objective: `offset` + `weights` [D] · (features · `scale` - `mean`).

    `noise`: mean squared leave-one-out error. `unknown` [D, D]: what share of it stays in every
    direction of the features, 1 where no genome has shown any of it (the ridge's posterior
    covariance over its prior's).
    """

    scale: Floats
    mean: Floats
    offset: float
    weights: Floats
    unknown: Floats
    noise: float
    tau: float | None

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        x = features * self.scale - self.mean
        variance = self.noise * ((x @ self.unknown) * x).sum(axis=1)
        predicted = np.round(x @ self.weights + self.offset, DECIMALS)
        return predicted, np.round(np.sqrt(np.maximum(variance, 0.0)), DECIMALS)


@dataclass(frozen=True, slots=True, eq=False)
class Predictor:
    """Ridge regressions of M objectives over the genomes of one space. Made by `fit`."""

    space: Space
    models: tuple[_Ridge, ...]

    @classmethod
    def fit(cls, space: Space, genomes: Sequence[Genome], values: Floats) -> Predictor:
        """Fits `values` [N, M] of N different genomes; ValueError for fewer than three.

        Ridge and weight of the pairs are, for each objective, those of the least leave-one-out
        error.
        """
        values = np.asarray(values, np.float64)
        if len(genomes) < LEAST_SAMPLES or len(values) != len(genomes):
            raise ValueError(
                f"values must be [N, M] of N >= {LEAST_SAMPLES} genomes, "
                f"got {values.shape} for {len(genomes)} genomes"
            )
        features, is_pair = _features(space, genomes)
        scales = [np.where(is_pair, pair, 1.0) for pair in PAIR_SCALES]
        designs = [_Design.of(features, scale) for scale in scales]
        return cls(space, tuple(_best_fit(designs, column) for column in values.T))

    @property
    def taus(self) -> tuple[float | None, ...]:
        """Kendall's τ of each objective, leave-one-out; None where all values are equal."""
        return tuple(model.tau for model in self.models)

    def predict(self, genomes: Sequence[Genome]) -> tuple[Floats, Floats]:
        """Values and their standard errors, each [N, M]."""
        features, _ = _features(self.space, genomes)
        each = [model.predict(features) for model in self.models]
        return np.stack([v for v, _ in each], axis=1), np.stack([s for _, s in each], axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class _Design:
    """Centred features [N, D] of one scaling, taken apart: x = u · s · vt."""

    scale: Floats
    mean: Floats
    u: Floats
    s: Floats
    vt: Floats

    @classmethod
    def of(cls, features: Floats, scale: Floats) -> _Design:
        scaled = features * scale
        mean = scaled.mean(axis=0)
        u, s, vt = np.linalg.svd(scaled - mean, full_matrices=False)
        return cls(scale, mean, u, s, vt)

    def left_out(self, y: Floats, ridge: float) -> Floats:
        """Prediction of each of `y` [N] from the others, in closed form."""
        shrunk = self.s**2 / (self.s**2 + ridge)
        fitted = y.mean() + (self.u * shrunk) @ (self.u.T @ (y - y.mean()))
        leverage = 1.0 / len(y) + (self.u**2 * shrunk).sum(axis=1)
        return np.asarray(y - (y - fitted) / np.maximum(1.0 - leverage, 1e-9), np.float64)

    def fitted(self, y: Floats, ridge: float, left_out: Floats) -> _Ridge:
        gain = self.s / (self.s**2 + ridge)
        weights = self.vt.T @ (gain * (self.u.T @ (y - y.mean())))
        known = (self.vt.T * (self.s**2 / (self.s**2 + ridge))) @ self.vt
        noise = float(((y - left_out) ** 2).mean())
        return _Ridge(
            self.scale, self.mean, float(y.mean()), weights, np.eye(len(self.scale)) - known,
            noise, kendall_tau(y, left_out),
        )  # fmt: skip


def _best_fit(designs: Sequence[_Design], y: Floats) -> _Ridge:
    def error(tried: tuple[_Design, float]) -> float:
        design, ridge = tried
        return float(((y - design.left_out(y, ridge)) ** 2).sum())

    design, ridge = min(itertools.product(designs, RIDGES), key=error)
    return design.fitted(y, ridge, design.left_out(y, ridge))


def _features(space: Space, genomes: Sequence[Genome]) -> tuple[Floats, NDArray[np.bool_]]:
    """Features [N, D], 1 where a gene, or each of a pair, has that choice, and which are pairs."""
    rows = np.asarray(genomes, np.int64).reshape(len(genomes), len(space.genes))
    alone = [
        [(rows[:, i] == choice).astype(np.float64) for choice in range(most)]
        for i, most in enumerate(space.original)
    ]
    single = [column for gene in alone for column in gene]
    paired = [a * b for i, j in _pairs(space) for a in alone[i] for b in alone[j]]
    columns = single + paired
    stacked = np.stack(columns, axis=1) if columns else np.empty((len(rows), 0))
    return stacked, np.arange(len(columns)) >= len(single)


def _pairs(space: Space) -> list[tuple[int, int]]:
    """Positions of genes that follow each other, in all or among those of their kind."""
    pairs = {(i, i + 1) for i in range(len(space.genes) - 1)}
    last: dict[str, int] = {}
    for i, gene in enumerate(space.genes):
        if gene.kind in last:
            pairs.add((last[gene.kind], i))
        last[gene.kind] = i
    return sorted(pairs)


def kendall_tau(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> float | None:
    """Kendall's τ-b between two rankings (ties count for neither); None where one is constant.

    >>> kendall_tau([1.0, 2.0, 3.0], [10.0, 30.0, 20.0])
    0.3333333333333333
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    agreed = ordered_x = ordered_y = 0.0
    for i in range(len(x) - 1):
        dx, dy = np.sign(x[i + 1 :] - x[i]), np.sign(y[i + 1 :] - y[i])
        agreed += float(dx @ dy)
        ordered_x += float(np.abs(dx).sum())
        ordered_y += float(np.abs(dy).sum())
    if not ordered_x or not ordered_y:
        return None
    return agreed / float(np.sqrt(ordered_x * ordered_y))
