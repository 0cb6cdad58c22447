"""Enumerated truths to hold a strategic search against: read from a file, or made by a formula.

The formula (`synthetic`): layers i of sensitivity s_i, log-normal about 0.06. Leaving a layer out
costs d_i = s_i, half its FFN d_i = 0.4 s_i, and

    z = Σ d_i + Σ_{i<j} w_ij √(d_i d_j) 0.7^(j-i-1) + Σ_{i left out with both neighbours} t_i
    quality loss = 1 - exp(-z),  w_ij ~ N(0, 2),  t_i ~ U(0, 0.3)

so that changes make each other worse, or are redundant, whichever layers they lie in: for half of
the seeds a sixth of the variance or more is beyond every additive model. Latency is additive but
for 0.05 ms wherever neighbours differ; memory is additive. Without noise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from policies.strategic import Gene, Genome, Objectives, Space
from policies.strategic.evaluations import nondominated

__all__ = ["Truth", "read", "synthetic"]

LAYERS = 6
CHOICES = ("skip", "half", "full")
BOUNDS = 12


@dataclass(frozen=True)
class Truth:
    """The objectives of every genome of a space.

    >>> truth = synthetic(0)
    >>> len(truth.objectives), truth.regret([truth.space.original]) > truth.regret(truth.objectives)
    (729, True)
    """

    space: Space
    objectives: Mapping[Genome, Objectives]

    def bounds_ms(self) -> list[float]:
        """Bounds of latency in equal steps, from a quarter of the way between the fastest genome
        and the original on, up to the original: a tighter bound leaves a handful of genomes."""
        times = [one.latency_ms for one in self.objectives.values()]
        original = self.objectives[self.space.original].latency_ms
        return [
            float(b) for b in np.linspace(0.75 * min(times) + 0.25 * original, original, BOUNDS)
        ]

    def regrets(self, found: Sequence[Genome] | Mapping[Genome, Objectives]) -> list[float]:
        """For each bound the share of the best quality within it that `found` misses; quality is
        1 - loss, 0 at the least. 1 where nothing found keeps the bound."""
        bounds = self.bounds_ms()
        best = [self._best(self.objectives, bound) for bound in bounds]
        had = [self._best(found, bound) for bound in bounds]
        return [1.0 - h / b if b > 0.0 else 0.0 for h, b in zip(had, best, strict=True)]

    def regret(self, found: Sequence[Genome] | Mapping[Genome, Objectives]) -> float:
        """Mean of `regrets`."""
        return float(np.mean(self.regrets(found)))

    def hypervolume(self, found: Sequence[Genome]) -> float:
        """Area in the plane of loss and latency that `found` dominates, over that of the truth."""
        return self._area(found) / self._area(list(self.objectives))

    def beyond_additive(self) -> float:
        """Share of the variance of the loss that no additive model explains."""
        rows = np.array(list(self.objectives))
        loss = np.array([one.quality_loss for one in self.objectives.values()])
        one_hot = [rows[:, i] == c for i, most in enumerate(self.space.original)
                   for c in range(most)]  # fmt: skip
        design = np.stack([np.ones(len(rows)), *one_hot], axis=1)
        residual = loss - design @ np.linalg.lstsq(design, loss, rcond=None)[0]
        return float(residual.var() / loss.var())

    def _best(self, found: Sequence[Genome] | Mapping[Genome, Objectives], bound: float) -> float:
        within = [self.objectives[g] for g in found if self.objectives[g].latency_ms <= bound]
        return max([0.0, *(1.0 - one.quality_loss for one in within)])

    def _area(self, found: Sequence[Genome]) -> float:
        every = np.array([one.values[:2] for one in self.objectives.values()])
        worst = every.max(axis=0)
        points = np.array([self.objectives[g].values[:2] for g in found])
        front = points[nondominated(points)]  # by loss upwards, so that latency falls
        above = np.concatenate([[worst[1]], front[:-1, 1]])
        return float(((worst[0] - front[:, 0]) * (above - front[:, 1])).sum())


def synthetic(seed: int) -> Truth:
    """3⁶ architectures by the formula above, its constants drawn from `seed`."""
    rng = np.random.default_rng(seed)
    space = Space([Gene(f"{i}.layer", CHOICES, "layer") for i in range(LAYERS)])
    sensitivity = 0.06 * np.exp(rng.normal(0.0, 0.6, LAYERS))
    pairs = np.triu(rng.normal(0.0, 2.0, (LAYERS, LAYERS)), 1)
    distance = np.abs(np.subtract.outer(np.arange(LAYERS), np.arange(LAYERS)))
    pairs *= 0.7 ** (np.maximum(distance, 1) - 1)
    triples = rng.uniform(0.0, 0.3, LAYERS)
    layer_ms = rng.uniform(0.9, 1.1, LAYERS)
    damage, work = np.array([1.0, 0.4, 0.0]), np.array([0.0, 0.62, 1.0])
    memory_mib = np.array([0.0, 4.5, 6.8])
    objectives = {}
    for genome in space.members():
        genes = np.array(genome)
        d = sensitivity * damage[genes]
        out = genes == 0
        inner = out[1:-1] & out[:-2] & out[2:]
        root = np.sqrt(d)
        z = d.sum() + root @ pairs @ root + triples[1:-1][inner].sum()
        ms = 0.6 + float(layer_ms @ work[genes]) + 0.05 * int((genes[1:] != genes[:-1]).sum())
        mib = 45.0 + float(memory_mib[genes].sum())
        objectives[genome] = Objectives(float(1.0 - np.exp(-z)), ms, mib)
    return Truth(space, objectives)


def read(path: Path) -> Truth:
    """A truth from JSON: `space` (`Space.to_json`), and `objectives`, a list for every genome of
    [genome, quality loss, latency in ms, memory in MiB]. ValueError if any is missing or unusable.
    """
    stored = json.loads(path.read_text())
    space = Space.from_json(stored["space"])
    objectives = {
        space.canonical(genome): Objectives(float(loss), float(ms), float(mib))
        for genome, loss, ms, mib in stored["objectives"]
    }
    if len(objectives) != space.size:
        raise ValueError(
            f"objectives must hold all {space.size} genomes of the space, got {len(objectives)}; "
            "regret needs the best there is"
        )
    for genome, one in objectives.items():
        if one.fault:
            raise ValueError(f"objectives of {genome}: {one.fault}")
    return Truth(space, objectives)
