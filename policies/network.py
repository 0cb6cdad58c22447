"""The network of a tactical policy, evaluated in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Network"]

Array = NDArray[np.float32]

_RANGE_TOLERANCE = 0.1
"""An observation may leave the range seen in training by this share of it."""


@dataclass(frozen=True)
class Network:
    """A tanh network after normalisation: logits = W2 tanh(W1 tanh(W0 z + b0) + b1) + b2,
    z = clip((x - mean) / sqrt(var + 1e-8), ±clip).

    `layers`: (weight [out, in], bias [out]) each. `low`, `high` [D]: range seen in training.
    """

    mean: Array
    var: Array
    clip: float
    low: Array
    high: Array
    layers: tuple[tuple[Array, Array], ...]

    @property
    def sane(self) -> bool:
        """Whether every number is finite and no variance negative."""
        arrays = [
            self.mean,
            self.var,
            self.low,
            self.high,
            *(a for pair in self.layers for a in pair),
        ]
        return all(bool(np.isfinite(a).all()) for a in arrays) and bool((self.var >= 0).all())

    def logits(self, seen: Array) -> Array:
        """One preference per preset: [P] for an observation [D], [E, P] for many [E, D]."""
        x = np.clip((seen - self.mean) / np.sqrt(self.var + 1e-8), -self.clip, self.clip)
        for weight, bias in self.layers[:-1]:
            x = np.tanh(x @ weight.T + bias)
        weight, bias = self.layers[-1]
        return np.asarray(x @ weight.T + bias, np.float32)

    @property
    def slack(self) -> Array:
        """How far an observation may leave the range seen in training, [D]."""
        return np.asarray(_RANGE_TOLERANCE * (self.high - self.low) + 1e-6, np.float32)

    def outside(self, seen: Array) -> int | None:
        """Index of the first entry out of the range seen in training, None when within."""
        slack = self.slack
        beyond = np.flatnonzero(~((seen >= self.low - slack) & (seen <= self.high + slack)))
        return int(beyond[0]) if beyond.size else None
