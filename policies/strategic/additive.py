"""The additive model: every change costs the same whatever else is changed; best genomes by DP.

Its effects come from replace-one scores, the original with one gene changed. Where layers depend on
each other it is wrong, which is why its solutions only seed the search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.strategic.genome import Genome, Space

__all__ = ["Additive", "best_under"]

MOST_LABELS = 2_048
"""Partial genomes the dynamic programme keeps after each group of genes."""


@dataclass(frozen=True, slots=True)
class Additive:
    """`base`, the original's value, and for each gene the effect of each of its choices.

    The largest choice has effect 0; infinity marks a choice that nothing is known of.
    """

    base: float
    effects: tuple[tuple[float, ...], ...]

    def __call__(self, genome: Genome) -> float:
        """The value of a genome: the base and the effects of its choices."""
        return self.base + sum(e[i] for e, i in zip(self.effects, genome, strict=True))

    @property
    def least(self) -> float:
        """The value with every gene at its cheapest choice, whatever rules tie them."""
        return self.base + sum(min(effects) for effects in self.effects)

    @classmethod
    def from_replace_one(cls, space: Space, scores: Mapping[Genome, float]) -> Additive:
        """Effects from scores of the original and of genomes that change one gene of it.

        Where the rules change other genes along with it, the difference is shared among them (the
        least-squares solution of least norm). Other genomes are left aside. ValueError without
        the original's score.
        """
        original = space.original
        if original not in scores:
            raise ValueError(f"scores must hold the original {original}, got {len(scores)} others")
        alone = {space.canonical(_replaced(original, i, choice)): (i, choice)
                 for i, most in enumerate(original) for choice in range(most)}  # fmt: skip
        known = [genome for genome in alone if genome in scores]
        changes = sorted({(i, g[i]) for g in known for i, m in enumerate(original) if g[i] != m})
        column = {change: k for k, change in enumerate(changes)}
        design = np.zeros((len(known), len(changes)))
        for row, genome in enumerate(known):
            for i, most in enumerate(original):
                if genome[i] != most:
                    design[row, column[i, genome[i]]] = 1.0
        base = scores[original]
        difference = np.array([scores[genome] - base for genome in known])
        solved = np.linalg.lstsq(design, difference, rcond=None)[0] if known else np.empty(0)
        effects = [[math.inf] * most + [0.0] for most in original]
        for (i, choice), k in column.items():
            effects[i][choice] = float(solved[k])
        return cls(base, tuple(tuple(e) for e in effects))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, unknown effects as null."""
        rows = [[e if math.isfinite(e) else None for e in gene] for gene in self.effects]
        return {"base": self.base, "effects": rows}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Additive:
        """What `to_json` gave."""
        rows = (tuple(math.inf if e is None else float(e) for e in g) for g in stored["effects"])
        return cls(float(stored["base"]), tuple(rows))


@dataclass(frozen=True, slots=True)
class _Label:
    """A genome as far as its groups are decided."""

    latency_ms: float
    loss: float
    parts: tuple[Genome, ...]


def best_under(
    space: Space, loss: Additive, latency: Additive, bounds_ms: Sequence[float]
) -> list[Genome | None]:
    """For each bound the genome of the least loss whose latency keeps it; None where none does.

    Group by group of tied genes, only partial genomes that are faster or better than the others go
    on. Of more than `MOST_LABELS` those best in equal steps of latency stay: latencies remain
    exact, the loss may then be a little above the least.
    """
    labels = [_Label(latency.base, loss.base, ())]
    for group, members in zip(space.groups, space.group_members, strict=True):
        steps = []
        for part in members:
            ms = sum(latency.effects[i][g] for i, g in zip(group, part, strict=True))
            lost = sum(loss.effects[i][g] for i, g in zip(group, part, strict=True))
            if math.isfinite(ms) and math.isfinite(lost):
                steps.append((ms, lost, part))
        labels = _thinned(_undominated([
            _Label(label.latency_ms + ms, label.loss + lost, (*label.parts, part))
            for label in labels for ms, lost, part in steps
        ]))  # fmt: skip
    found: list[Genome | None] = []
    for bound_ms in bounds_ms:
        within = [label for label in labels if label.latency_ms <= bound_ms]
        best = min(within, key=lambda label: label.loss, default=None)
        found.append(None if best is None else space.joined(best.parts))
    return found


def _undominated(labels: list[_Label]) -> list[_Label]:
    kept: list[_Label] = []
    for label in sorted(labels, key=lambda one: (one.latency_ms, one.loss)):
        if not kept or label.loss < kept[-1].loss:
            kept.append(label)
    return kept


def _thinned(labels: list[_Label]) -> list[_Label]:
    if len(labels) <= MOST_LABELS:
        return labels
    least, most = labels[0].latency_ms, labels[-1].latency_ms
    # In order of latency the loss falls, so that the last of each step is its best. The fastest
    # stays too: a bound that only it keeps must not become impossible.
    best = {int((x.latency_ms - least) / (most - least) * (MOST_LABELS - 2)): x for x in labels}
    return _undominated([labels[0], *best.values()])


def _replaced(genome: Genome, at: int, choice: int) -> Genome:
    return (*genome[:at], choice, *genome[at + 1 :])
