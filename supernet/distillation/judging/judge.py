"""Weights on trial: how good each sub-network is with them, on inputs held out from training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from supernet.distillation.judging.quality import (
    ConfidenceInterval,
    Measure,
    Outcome,
    Quality,
    agreement,
    ask,
    paired_bootstrap,
)
from supernet.distillation.learning.losses import Kind
from supernet.distillation.learning.teacher import Teacher
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.supernet import Supernet

__all__ = ["Comparison", "Judge", "Score", "compared"]


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """A sub-network's quality: the mean of `rows`, or what the user's own measure came to."""

    value: float
    rows: npt.NDArray[np.float64] | None
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A sub-network before and after. `gain`: the paired difference with its interval, None where
    quality is one number for all rows."""

    spec: SubnetSpec
    before: float
    after: float
    gain: ConfidenceInterval | None
    why: str = ""

    @property
    def improved(self) -> bool:
        """Whether it is better for certain, as far as that is known."""
        if self.gain is not None:
            return self.gain.lower > 0
        return self.after > self.before or (math.isnan(self.before) and not math.isnan(self.after))

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record."""
        gain = None if self.gain is None else [self.gain.value, self.gain.lower, self.gain.upper]
        numbers = [None if math.isnan(v) else v for v in (self.before, self.after)]
        record = {"before": numbers[0], "after": numbers[1], "gain": gain, "why": self.why}
        return {"spec": self.spec.to_json(), **record}


class Judge:
    """Judges weights by the user's quality where that works on the original, else by agreement.

    `notes`: in words, why the user's quality was not used.
    """

    def __init__(
        self,
        net: Supernet,
        teacher: Teacher,
        kinds: Sequence[Kind],
        measure: Measure,
        quality: Quality | None,
        limit_s: float,
    ) -> None:
        self._net, self._teacher, self._kinds, self.measure = net, teacher, kinds, measure
        self._limit_s = limit_s
        self.notes: tuple[str, ...] = ()
        self._quality = quality
        if quality is not None:
            why = self._why_not(quality)
            if why:
                self.notes = (f"{why}: judged by {measure} against the original instead",)
                self._quality = None

    def scores(
        self, weights: Mapping[str, Tensor], specs: Sequence[SubnetSpec]
    ) -> tuple[Score, ...]:
        """Of each sub-network with these weights."""
        net = self._net.with_weights(weights)
        return tuple(self.score(net, spec) for spec in specs)

    def score(self, net: Supernet, spec: SubnetSpec) -> Score:
        """Of one sub-network with the weights of its supernet."""
        module = net.module(spec)
        if self._quality is None:
            rows = agreement(self.measure, self._teacher, module, self._kinds, self._net.signature)
            return Score(float(rows.mean()), rows)
        outcome = ask(self._quality, module, self._limit_s)
        return Score(outcome.value, None, outcome)

    def _why_not(self, quality: Quality) -> str:
        outcome = ask(quality, self._net.module(self._net.full), self._limit_s)
        if outcome.said != "measured":
            return f"the quality of the original: {outcome.said} ({outcome.why})"
        chance = getattr(quality, "chance", -math.inf)
        if outcome.value <= chance:
            return (
                f"the labels contradict the original, which is right on {outcome.value:.1%} of "
                f"them, where the commonest one alone is on {chance:.1%}"
            )
        return ""


def mean_of(scores: Sequence[Score]) -> float:
    """The mean over sub-networks; one without a score counts as worse than any."""
    values = [-math.inf if math.isnan(score.value) else score.value for score in scores]
    return sum(values) / len(values)


def compared(
    specs: Sequence[SubnetSpec], before: Sequence[Score], after: Sequence[Score], seed: int
) -> tuple[Comparison, ...]:
    """Each sub-network before and after, with the interval of a paired bootstrap over rows."""
    found = []
    for spec, old, new in zip(specs, before, after, strict=True):
        gain = None
        if old.rows is not None and new.rows is not None:
            steps = new.rows - old.rows
            if np.isfinite(steps).all():
                gain = _gain(steps, seed)
        failed = next(
            (s.outcome for s in (new, old) if s.outcome and s.outcome.said != "measured"), None
        )
        why = "" if failed is None else f"{failed.said}: {failed.why}"
        found.append(Comparison(spec, old.value, new.value, gain, why))
    return tuple(found)


def _gain(steps: npt.NDArray[np.float64], seed: int) -> ConfidenceInterval:
    return paired_bootstrap(lambda rows: float(steps[rows].mean()), len(steps), seed=seed)
