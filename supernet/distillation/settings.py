"""Settings of a distillation, and what its caller may see and do meanwhile."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from supernet.distillation.judging.quality import Measure
from supernet.distillation.learning.losses import Kind, LossWeights

__all__ = ["DistillConfig", "Hooks", "Phase", "Progress"]

Phase: TypeAlias = Literal["local", "global"]
"""``"local"``: each layer by itself, on the original's inputs to it; ``"global"``: sub-networks as
they are, against the original's answers."""


def _nothing(*_: object) -> None:
    return None


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class DistillConfig:
    """How long and how fast shared weights learn, and by what they are judged.

    A phase ends with its steps or its part of ``budget_s``, whichever is first: these are seconds
    of training, ``local_share`` of them for the local phase. A phase's rate rises over the share
    ``warmup`` of it, then falls to 0 by a cosine. `random_specs`: how many beside the largest and
    the smallest learn in one step. `kinds`: of each output (None: see ``losses.kinds_of``).
    `measure`: of quality (None: see ``quality.measure_for``). `judged`: of a space without given
    sub-networks how many are drawn to be judged. `memory_mib`: for what the original gave.
    """

    local_steps: int = 600
    global_steps: int = 3000
    budget_s: float = math.inf
    local_share: float = 0.3
    local_learning_rate: float = 5e-4
    learning_rate: float = 2e-4
    warmup: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0
    random_specs: int = 2
    train_embeddings: bool = False
    loss: LossWeights = field(default_factory=LossWeights)
    kinds: tuple[Kind, ...] | None = None
    measure: Measure | None = None
    judged: int = 6
    quality_limit_s: float = 120.0
    memory_mib: float = 1024.0
    checkpoint_every_s: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("local_steps", "global_steps", "random_specs", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("budget_s", "local_learning_rate", "learning_rate", "clip", "judged",
                     "quality_limit_s"):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("local_share", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")

    def steps(self, phase: Phase) -> int:
        """How many steps a phase has at most."""
        return self.local_steps if phase == "local" else self.global_steps

    def rate(self, phase: Phase, share: float) -> float:
        """The learning rate once a share of a phase is done."""
        top = self.local_learning_rate if phase == "local" else self.learning_rate
        if share < self.warmup:
            return top * share / self.warmup
        if self.warmup == 1:
            return top
        return top * (1 + math.cos(math.pi * (share - self.warmup) / (1 - self.warmup))) / 2

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record."""
        record = asdict(self)
        record["budget_s"] = None if math.isinf(self.budget_s) else self.budget_s
        record["kinds"] = None if self.kinds is None else list(self.kinds)
        return record


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a distillation is. `loss`: a running mean of the phase's; `left_s`: training seconds
    that are still to come in this phase, as it seems now."""

    phase: Phase
    step: int
    steps: int
    loss: float
    elapsed_s: float
    left_s: float


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a caller may see and do between steps.

    `pause` is called between any two steps and may take its time, which is not counted; once `stop`
    says so, training ends and what it has reached is judged. `tensorboard`: a folder for event
    files, needs the extra ``train``.
    """

    progress: Callable[[Progress], None] = _nothing
    pause: Callable[[], None] = _nothing
    stop: Callable[[], bool] = _never
    clock: Callable[[], float] = time.monotonic
    tensorboard: Path | None = None
