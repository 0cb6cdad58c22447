"""Scores of sub-networks before they are trained, and who chooses by them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from supernet.distillation.judging.quality import Measure, agreement
from supernet.distillation.learning.losses import Kind
from supernet.distillation.learning.teacher import Teacher
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.supernet import Supernet

__all__ = ["Chooser", "Scorer", "depth_subsets", "replaced_once"]

_MOST_SUBSETS = 64


class Scorer:
    """The mean agreement of sub-networks with the original on a few batches, each worked out once
    for the weights of `net`. After so many ``seconds`` by the clock no more should be asked."""

    def __init__(
        self, net: Supernet, probe: Teacher, measure: Measure, kinds: Sequence[Kind],
        seconds: float, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.net, self._probe, self._measure, self._kinds = net, probe, measure, kinds
        self._clock = clock
        self._ends_s = clock() + seconds
        self.known: dict[SubnetSpec, float] = {}

    @property
    def has_time(self) -> bool:
        return self._clock() < self._ends_s

    def __call__(self, spec: SubnetSpec) -> float:
        """From -1 to 1 for cosine, else 0 to 1; NaN for answers that are not finite."""
        spec = self.net.space.check(spec)
        if spec not in self.known:
            module = self.net.module(spec)
            rows = agreement(self._measure, self._probe, module, self._kinds, self.net.signature)
            self.known[spec] = float(rows.mean())
        return self.known[spec]

    def of(self, specs: Sequence[SubnetSpec]) -> dict[SubnetSpec, float]:
        """Of as many of these, in their order, as there is time for: of one at least."""
        found: dict[SubnetSpec, float] = {}
        for spec in specs:
            if found and not self.has_time:
                break
            found[spec] = self(spec)
        return found


class Chooser(Protocol):
    """Who says which sub-networks are worth training, and which of them to hold."""

    def candidates(self, scorer: Scorer, first: Mapping[SubnetSpec, float]) -> Sequence[SubnetSpec]:
        """Some that may be worth it; ``first``: scores before any training, of depth subsets and of
        single genes, under other weights than the scorer's."""

    def tiers(self, scorer: Scorer, candidates: Sequence[SubnetSpec]) -> Sequence[SubnetSpec]:
        """Those to hold, of the candidates or others, now that they are trained together."""


def depth_subsets(net: Supernet) -> tuple[SubnetSpec, ...]:
    """Every choice of layers to leave out, the fewest first, as long as one stays; of a deep model,
    with more than 64 of them, those that leave out one layer or neighbours."""
    names = [layer.name for layer in net.anatomy.layers if layer.stream is not None]
    others = len(net.anatomy.layers) > len(names)
    most = len(names) if others else len(names) - 1
    if 2 ** len(names) <= _MOST_SUBSETS:
        gone = [g for count in range(1, most + 1) for g in itertools.combinations(names, count)]
    else:
        gone = [tuple(names[i : i + n]) for n in range(1, most + 1)
                for i in range(len(names) - n + 1)][: 4 * _MOST_SUBSETS]  # fmt: skip
    return tuple(_without(net, some) for some in gone)


def _without(net: Supernet, names: Sequence[str]) -> SubnetSpec:
    spec = net.full
    for name in names:
        spec = spec.replace(name, skipped=True)
    return spec.canonical()


def replaced_once(net: Supernet) -> tuple[SubnetSpec, ...]:
    """The original with one gene at each other choice that it has."""
    found = dict.fromkeys(
        net.space.spec({gene.name: choice})
        for gene in net.space.genes
        for choice in gene.choices[:-1]
    )
    return tuple(found)
