"""Random choices of one case, all from its seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["CAP", "Draw"]

CAP = 8  # rows of the largest batch (`plans.max_rows`)

T = TypeVar("T")

_ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.tanh, functional.relu, functional.gelu, functional.silu, torch.sigmoid,
)  # fmt: skip


class Draw:
    """The random state of one case. Layers draw from torch's, which `Family.case` seeds."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def pick(self, *options: T) -> T:
        return options[int(self.rng.integers(len(options)))]

    def number(self, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``, both included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def width(self) -> int:
        return self.pick(3, 4, 6, 8, 16)

    def activation(self) -> Callable[[Tensor], Tensor]:
        return self.pick(*_ACTIVATIONS)

    def rows(self) -> int:
        """Rows of a hostile request: mostly one, sometimes as many as a batch, or more."""
        return self.pick(1, 1, 1, 1, 2, 3, CAP - 1, CAP, CAP + 1)

    def length(self, longest: int) -> int:
        """Length of a hostile request, where the examples' longest is ``longest``."""
        return self.pick(1, 1, 2, 2, 3, longest // 2, longest, longest + 1, 2 * longest,
                         4 * longest, 5 * longest + 3)  # fmt: skip

    def normal(self, *shape: int) -> Tensor:
        return torch.from_numpy(self.rng.standard_normal(shape)).float()

    def integers(self, low: int, high: int, shape: Any) -> Tensor:
        """Uniform from ``low`` to ``high``, the latter not included."""
        return torch.from_numpy(np.asarray(self.rng.integers(low, high, shape, dtype=np.int64)))
