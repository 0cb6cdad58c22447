"""Which sub-networks are worth training, by the strategic search, and which of them to hold.

    asked of the search ─► scored on a few inputs, latency predicted ─► told
      ─► candidates: what the aim wants of the front, with the best depths and the uniform slices
      ─► tiers: what the aim wants of those, now that they are trained

An aim says what is wanted: `Bounds`, tiers so many times as fast, or `Useful`, the set that the
twin of the service values most.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from evolve.evolution.genomes import Genomes, uniform_slices
from evolve.evolution.settings import WORTHWHILE
from evolve.evolution.worth import Offer
from policies.strategic import Evaluation, Objectives, StrategicSearch, choose_tiers
from policies.strategic.evaluations import nondominated
from supernet.distillation.judging.scoring import Scorer
from supernet.distillation.learning.sampling import parameters
from supernet.elastic.subnet import SubnetSpec

__all__ = ["Aim", "Bounds", "Choice", "Useful"]

_ASKED = 16
_PER_BOUND = 3
_MOST_CANDIDATES = 12
_HOPE = 0.03
"""So much quality training by itself may still bring to a candidate."""
_SETS = 100
"""Of tiers, that the twin is asked about at most: each plays a minute of traffic."""
_FLOAT_MIB = 4 / 2**20

Latency = Callable[[SubnetSpec], float]


class Aim(Protocol):
    """What is wanted of sub-networks, of which quality and latency are known. `speedups`: beside
    which uniform slices are trained, to compare with."""

    @property
    def speedups(self) -> tuple[float, ...]: ...

    def of(
        self, known: Mapping[SubnetSpec, float], latency_ms: Latency, whole_ms: float, each: int
    ) -> list[SubnetSpec]:
        """The best, up to `each` of them for each tier that is wanted; `whole_ms`: the original's
        latency."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """For each of `speedups` the best quality of those that are as fast."""

    speedups: tuple[float, ...] = (1.5, 2.5)

    def __post_init__(self) -> None:
        if not self.speedups or not all(speedup > 1 for speedup in self.speedups):
            raise ValueError(f"speedups must be at least one, each above 1, got {self.speedups}")

    def of(
        self, known: Mapping[SubnetSpec, float], latency_ms: Latency, whole_ms: float, each: int
    ) -> list[SubnetSpec]:
        found = []
        for speedup in self.speedups:
            fast = [spec for spec in known if latency_ms(spec) * speedup <= whole_ms]
            found += sorted(fast, key=lambda spec: -known[spec])[:each]
        return list(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Useful:
    """The set of at most `most` that is worth most together, by `worth` of offers, of those of
    `min_quality` but for what training may still bring; without any, those nearest to it."""

    worth: Callable[[frozenset[Offer]], float]
    most: int
    min_quality: float
    speedups: tuple[float, ...] = (1.5, 2.5)

    def of(
        self, known: Mapping[SubnetSpec, float], latency_ms: Latency, whole_ms: float, each: int
    ) -> list[SubnetSpec]:
        good = {spec: quality for spec, quality in known.items()
                if quality >= self.min_quality - _HOPE}  # fmt: skip
        worthwhile = {spec: quality for spec, quality in (good or known).items()
                      if latency_ms(spec) * WORTHWHILE <= whole_ms}  # fmt: skip
        front = _front(worthwhile, latency_ms)
        if not good:  # the twin would like what is quick, and training won't save that
            return front[: self.most * each]
        offers = {
            Offer(spec.key, min(1.0, max(0.0, known[spec])), whole_ms / latency_ms(spec)): spec
            for spec in front[: self.most * each + _MOST_CANDIDATES]
        }
        if not offers:
            return []
        most = min(self.most * each, len(offers))
        found = choose_tiers(list(offers), most, self.worth, budget=_SETS)
        chosen = [offers[offer] for offer in found.tiers]
        return chosen or [spec for spec in front if spec in offers.values()][: self.most]


def _front(known: Mapping[SubnetSpec, float], latency_ms: Latency) -> list[SubnetSpec]:
    """What no other beats in quality and latency, the best quality first."""
    specs = list(known)
    rows = [(-known[spec], latency_ms(spec)) for spec in specs]
    return [specs[i] for i in nondominated(rows)]


@dataclass
class Choice:
    """A chooser for `supernet.distillation.pipeline.improve`.

    `search`: goes on from what earlier generations told; `measured`: at most so many sub-networks
    are scored for it in this generation; `keep`: a file for the search's state, where a second
    start finds it. `slices`: of each speedup of the aim the uniform slice next to it, to be trained
    with the others. `said` is called after each score.
    """

    genomes: Genomes
    latency_ms: Latency
    aim: Aim
    search: StrategicSearch
    measured: int = 32
    keep: Path | None = None
    slices: tuple[SubnetSpec, ...] = field(init=False)
    found: list[str] = field(default_factory=list)
    said: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.whole_ms = self.latency_ms(self.genomes.subnets.full)
        self.slices = self._slices()
        if self.keep is not None and self.keep.exists():
            self.search = StrategicSearch.from_state(json.loads(self.keep.read_text("utf-8")))

    def candidates(self, scorer: Scorer, first: Mapping[SubnetSpec, float]) -> Sequence[SubnetSpec]:
        """What the aim wants among depth subsets, what the search finds and the uniform slices."""
        full = self.genomes.subnets.full
        depths = {spec: score for spec, score in first.items()
                  if spec != full and math.isfinite(score)
                  and any(layer.skipped for layer in spec.layers)}  # fmt: skip
        wanted = self.aim.of(depths, self.latency_ms, self.whole_ms, _PER_BOUND)
        self._told(scorer, scorer.of(wanted))
        self._searched(scorer)
        self._told(scorer, {spec: scorer(spec) for spec in self.slices})
        known = {spec: quality for spec, quality in scorer.known.items()
                 if spec != full and math.isfinite(quality)
                 and self.latency_ms(spec) < self.whole_ms}  # fmt: skip
        best = self.aim.of(known, self.latency_ms, self.whole_ms, _PER_BOUND)
        self._save()
        found = [*best, *self.slices] or sorted(known, key=lambda spec: -known[spec])
        return tuple(dict.fromkeys(found))[:_MOST_CANDIDATES]

    def tiers(self, scorer: Scorer, candidates: Sequence[SubnetSpec]) -> Sequence[SubnetSpec]:
        """What the aim wants of the candidates, as they are now."""
        scores = {spec: scorer(spec) for spec in candidates}
        known = {spec: score for spec, score in scores.items() if math.isfinite(score)}
        return self.aim.of(known, self.latency_ms, self.whole_ms, 1)

    def _searched(self, scorer: Scorer) -> None:
        left = self.measured
        while left > 0 and scorer.has_time and (asked := self.search.ask(min(left, _ASKED))):
            specs = [self.genomes.spec(genome) for genome in asked]
            known: dict[SubnetSpec, float] = {}
            for spec in specs:
                if known and not scorer.has_time:
                    break
                known[spec] = scorer(spec)
                self.said()
            left -= self._told(scorer, known)
            record = self.search.record()
            self.found.append(f"{record.evaluations} measured, {len(record.front)} on the front")

    def _told(self, scorer: Scorer, known: Mapping[SubnetSpec, float]) -> int:
        """Tells the search of scores, of which those that no genome spells are left out."""
        results = []
        for spec, quality in known.items():
            memory_mib = parameters(scorer.net, spec) * _FLOAT_MIB
            objectives = Objectives(1.0 - quality, self.latency_ms(spec), memory_mib)
            try:
                genome = self.genomes.genome(spec)
            except ValueError:
                continue
            results.append(Evaluation(genome, objectives, self.search.weights))
        self.search.tell(results)
        return len(results)

    def _slices(self) -> tuple[SubnetSpec, ...]:
        """For each speedup the slice that takes most of what it allows, else the fastest."""
        slices = sorted(uniform_slices(self.genomes), key=self.latency_ms)
        found = []
        for speedup in self.aim.speedups if slices else ():
            fast = [spec for spec in slices if self.latency_ms(spec) * speedup <= self.whole_ms]
            found.append(fast[-1] if fast else slices[0])
        return tuple(found)

    def _save(self) -> None:
        if self.keep is not None:
            self.keep.parent.mkdir(parents=True, exist_ok=True)
            stage = self.keep.with_suffix(".tmp")
            stage.write_text(json.dumps(self.search.state()), encoding="utf-8")
            os.replace(stage, self.keep)
