"""Sub-networks that learn in one step: the largest, the smallest and some at random.

Yu and Huang 2019, "Universally Slimmable Networks", arXiv:1903.05134, section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from supernet.elastic.cutting.narrowing import narrow
from supernet.elastic.space import Choice, Space
from supernet.elastic.subnet import LayerSpec, SubnetSpec
from supernet.elastic.supernet import Supernet

__all__ = ["Draws", "parameters"]

_SKIPPED = 0.25  # of layers that can be, in a draw from the space; never more than half of them


def parameters(net: Supernet, spec: SubnetSpec) -> int:
    """How many numbers a sub-network takes of the weights."""
    narrowed = narrow(net.anatomy, net.space.check(spec), net.attentions)
    count = 0
    for name in set(narrowed.names.values()):
        shape = list(net.weights[name].shape)
        for selection in narrowed.selections.get(name, ()):
            shape[selection.dim] = len(selection.entries)
        count += math.prod(shape)
    return count


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """Where the sub-networks of a step come from: `given`, the largest first, or, where none are,
    `space`: there every layer keeps something or, now and then, is left out whole."""

    space: Space
    given: tuple[SubnetSpec, ...]

    @staticmethod
    def of(net: Supernet, specs: Sequence[SubnetSpec] | None) -> Draws:
        """Of these sub-networks, or of the whole space; the original is nothing to train."""
        if specs is None:
            return Draws(net.space, ())
        wanted = dict.fromkeys(net.space.check(spec) for spec in specs)
        wanted.pop(net.full, None)
        if not wanted:
            raise ValueError(
                "specs must hold a sub-network other than the original, which keeps its weights"
            )
        return Draws(net.space, tuple(sorted(wanted, key=lambda s: (-parameters(net, s), s.key))))

    def sandwich(self, rng: np.random.Generator, count: int) -> tuple[SubnetSpec, ...]:
        """The largest, ``count`` at random, the smallest; each once."""
        if not self.given:
            drawn = [self._drawn(rng) for _ in range(count)]
            return tuple(dict.fromkeys([self.space.full, *drawn, self._smallest()]))
        inner = self.given[1:-1]
        chosen = rng.permutation(len(inner))[:count]
        return tuple(dict.fromkeys([self.given[0], *(inner[i] for i in chosen), self.given[-1]]))

    def judged(self, seed: int, count: int) -> tuple[SubnetSpec, ...]:
        """The sub-networks by which weights are judged: all that are given, or some drawn."""
        if self.given:
            return self.given
        rng = np.random.default_rng([seed, 23])
        found = dict.fromkeys([self._smallest(), *(self._drawn(rng) for _ in range(count - 1))])
        found.pop(self.space.full, None)
        return tuple(found)

    def variants(self, layer: str, rng: np.random.Generator, count: int) -> tuple[LayerSpec, ...]:
        """Of one layer the largest, ``count`` at random, and the smallest form that stays."""
        if not self.given:
            drawn = [self._drawn(rng, skips=False).layer(layer) for _ in range(count)]
            ends = self.space.full.layer(layer), self._smallest().layer(layer)
            return tuple(dict.fromkeys([ends[0], *drawn, ends[1]]))
        found = list(
            dict.fromkeys(s.layer(layer) for s in self.given if not s.layer(layer).skipped)
        )
        found.sort(key=lambda own: _kept(own, self.space.full.layer(layer)), reverse=True)
        if not found:
            return ()
        inner = found[1:-1]
        chosen = rng.permutation(len(inner))[:count]
        return tuple(dict.fromkeys([found[0], *(inner[i] for i in chosen), found[-1]]))

    def _smallest(self) -> SubnetSpec:
        choices: dict[str, Choice] = {}
        for gene in self.space.genes:
            some = _some(gene.choices)
            if not gene.name.endswith(".skipped") and some:
                choices[gene.name] = some[0] if isinstance(some[0], int) else some[-1]
        return self.space.spec(choices)

    def _drawn(self, rng: np.random.Generator, *, skips: bool = True) -> SubnetSpec:
        choices: dict[str, Choice] = {}
        can_go = [g.name for g in self.space.genes if g.name.endswith(".skipped")]
        gone = [name for name in can_go if rng.random() < _SKIPPED]
        gone = [gone[i] for i in rng.permutation(len(gone))[: len(can_go) // 2]]
        for gene in self.space.genes:
            some = _some(gene.choices)
            if gene.name in can_go:
                choices[gene.name] = skips and gene.name in gone
            elif some:
                choices[gene.name] = some[int(rng.integers(len(some)))]
        return self.space.spec(choices)


def _some(choices: Sequence[Choice]) -> list[Choice]:
    """The choices by which a part stays."""
    return [choice for choice in choices if choice not in (0, "none")]


def _kept(own: LayerSpec, full: LayerSpec) -> float:
    """The sum of the shares that a layer keeps of each of its places."""
    heads = sum(a.heads / b.heads for a, b in zip(own.attention, full.attention, strict=True))
    return heads + sum(a / b for a, b in zip(own.widths, full.widths, strict=True))
