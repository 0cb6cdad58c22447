"""What a distillation came to: the best weights met, and how every sub-network does with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor

from supernet.distillation.judging.judge import Comparison, Judge, Score, compared, mean_of
from supernet.distillation.settings import Phase
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.supernet import Supernet

__all__ = ["Distilled", "Ended", "Stage", "best_of"]

Ended: TypeAlias = Literal["done", "budget", "stopped", "diverged", "not written"]
Stage: TypeAlias = Literal["before", "local", "global"]


@dataclass(frozen=True, slots=True, eq=False)
class Distilled:
    """What came of it: a supernet with the best weights met, which may be those from before.

    `comparisons`: of each judged sub-network before and with the weights that are kept or, where
    those from before are, with the best of those thrown away. `means`: of each stage.
    """

    net: Supernet
    kept: Stage
    ended: Ended
    means: Mapping[Stage, float]
    comparisons: tuple[Comparison, ...]
    steps: Mapping[Phase, int]
    elapsed_s: float
    notes: tuple[str, ...]

    @property
    def improved(self) -> bool:
        """Whether the weights are new ones."""
        return self.kept != "before"

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record, without the weights."""
        return {
            "kept": self.kept,
            "ended": self.ended,
            "means": {k: v if math.isfinite(v) else None for k, v in self.means.items()},
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "steps": dict(self.steps),
            "elapsed_s": self.elapsed_s,
            "notes": list(self.notes),
        }


def best_of(
    net: Supernet,
    stages: Mapping[Stage, Mapping[str, Tensor]],
    judge: Judge,
    specs: Sequence[SubnetSpec],
    *,
    seed: int,
    notes: Sequence[str],
    ended: Ended,
    steps: Mapping[Phase, int],
    elapsed_s: float,
) -> Distilled:
    """The best of the weights of these stages, of which ``"before"`` is the first."""
    scores: dict[Stage, tuple[Score, ...]] = {
        stage: judge.scores(weights, specs) for stage, weights in stages.items()
    }
    means = {stage: mean_of(found) for stage, found in scores.items()}
    kept = max(stages, key=lambda stage: means[stage])  # of equals the first, the one from before
    others = [stage for stage in stages if stage != "before"]
    shown = kept if kept != "before" or not others else max(others, key=lambda s: means[s])
    thrown = [
        f"thrown away: after the {stage} phase {means[stage]:.4f}, before {means['before']:.4f}"
        for stage in others
        if means[stage] <= means["before"]
    ]
    return Distilled(
        net=net.with_weights(stages[kept]),
        kept=kept,
        ended=ended,
        means=means,
        comparisons=compared(specs, scores["before"], scores[shown], seed),
        steps=dict(steps),
        elapsed_s=elapsed_s,
        notes=(*notes, *judge.notes, *thrown),
    )
