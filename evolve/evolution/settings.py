"""Settings of a generation."""

from __future__ import annotations

from dataclasses import dataclass

from evolve.evolution.anchors import EAGER, Engine

__all__ = ["WORTHWHILE", "GenerationConfig"]

WORTHWHILE = 1.1
"""Times as fast as the original that a tier must be: below that it is not worth its memory."""


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """What a generation is to reach and may take.

    `agreement`: ``"cosine"`` or ``"top1"``, the service's measure. `speedups`: what tiers are to be
    where no twin says what they are worth. `engine`: what tiers will run on. `budget_s`: for all
    of it, on the clock of its hooks. `measured`: sub-networks that the search scores at most.
    """

    agreement: str = "cosine"
    min_quality: float = 0.97
    most_tiers: int = 2
    speedups: tuple[float, ...] = (1.5, 2.5)
    engine: Engine = EAGER
    budget_s: float = 300.0
    measured: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.agreement not in ("cosine", "top1"):
            raise ValueError(f"agreement must be cosine or top1, got {self.agreement!r}")
        if not 0 < self.min_quality <= 1:
            raise ValueError(f"min_quality must be above 0 and at most 1, got {self.min_quality}")
        for name in ("most_tiers", "measured"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.budget_s > 0:
            raise ValueError(f"budget_s must be positive, got {self.budget_s}")
