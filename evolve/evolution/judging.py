"""Sub-networks on trial as the service will hold them to it: by their answers to rows held out.

The measure is the service's own (`supernet.fidelity.agreement`), each row alone and unpadded, of
the output that agrees least. What counts is the lower end of a bootstrap over the rows, not the
mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from supernet.distillation.batches import Batch
from supernet.distillation.judging.quality import ConfidenceInterval, paired_bootstrap
from supernet.fidelity import agreement

__all__ = ["Bench", "Verdict"]

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """The agreement with the original of each row held out, [rows], 0 to 1."""

    rows: Floats
    seed: int

    @property
    def quality(self) -> ConfidenceInterval:
        """The mean and its interval, of which each end is one-sided at 97.5 %."""
        rows = self.rows
        return paired_bootstrap(lambda drawn: float(rows[drawn].mean()), len(rows), seed=self.seed)

    def is_better_than(self, other: Verdict) -> bool:
        """Whether it agrees more on the same rows, beyond what their choice may explain."""
        gain = self.rows - other.rows
        found = paired_bootstrap(lambda drawn: float(gain[drawn].mean()), len(gain), seed=self.seed)
        return found.lower > 0.0


class Bench:
    """Rows held out with the original's answers to them, computed once."""

    def __init__(
        self, judges: Sequence[Batch], original: Callable[..., Any], measure: str, seed: int = 0
    ) -> None:
        self._judges, self._measure, self._seed = tuple(judges), measure, seed
        self._answers = [_answers(original, judge.inputs) for judge in self._judges]

    def judge(self, run: Callable[..., Any]) -> Verdict:
        """Of a sub-network as a module of flat tensors."""
        rows = [
            agreement(self._measure, _answers(run, judge.inputs), wanted)
            for judge, wanted in zip(self._judges, self._answers, strict=True)
        ]
        return Verdict(np.array(rows, np.float64), self._seed)


def _answers(run: Callable[..., Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [output.detach().clone() for output in run(*inputs)]
