"""A plan ready to run, and one that runs its large batches in parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, Protocol

import numpy as np

from supernet.microbatches import Microbatches

__all__ = ["LoadedPlan", "Microbatched"]


class LoadedPlan(Protocol):
    """A plan ready to run. One call at a time: load one per worker.

    ``arrays`` says what ``run`` takes and gives: numpy arrays or torch tensors, C
    contiguous. Outputs belong to the caller, are complete on return, and no later call writes into
    them.
    """

    @property
    def arrays(self) -> Literal["numpy", "torch"]: ...

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Flat inputs in signature order to flat outputs in signature order."""
        ...

    def close(self) -> None:
        """Give the memory back; the plan cannot run afterwards."""
        ...


class Microbatched:
    """A loaded plan whose large batches run in even parts of at most so many rows."""

    def __init__(self, plan: LoadedPlan, how: Microbatches) -> None:
        self._plan = plan
        self._at_once = lru_cache(maxsize=1024)(how.rows_at_once)
        self.arrays: Literal["numpy", "torch"] = plan.arrays
        inputs, outputs = how.signature.inputs, how.signature.outputs
        self._inputs = [spec.axis("rows") for spec in inputs]
        self._outputs = [spec.axis("rows") for spec in outputs]
        lengths = enumerate(spec.axis("length") for spec in inputs)
        self._length = next(((index, axis) for index, axis in lengths if axis is not None), None)

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        if len(inputs) != len(self._inputs):
            return self._plan.run(inputs)  # which says what is wrong with them
        rows = max(
            leaf.shape[axis]
            for leaf, axis in zip(inputs, self._inputs, strict=True)
            if axis is not None
        )
        length = 1 if self._length is None else inputs[self._length[0]].shape[self._length[1]]
        most = self._at_once(rows, length)
        if not 0 < most < rows:
            return self._plan.run(inputs)
        count = -(-rows // most)
        bounds = pairwise(rows * index // count for index in range(count + 1))
        parts = [self._plan.run(self._rows(inputs, *bound)) for bound in bounds]
        return [
            self._joined(outputs, axis)
            for outputs, axis in zip(zip(*parts, strict=True), self._outputs, strict=True)
        ]

    def close(self) -> None:
        self._plan.close()

    def _rows(self, inputs: Sequence[Any], first: int, end: int) -> list[Any]:
        return [
            leaf if axis is None else self._whole(leaf[(*(slice(None),) * axis, slice(first, end))])
            for leaf, axis in zip(inputs, self._inputs, strict=True)
        ]

    def _whole(self, leaf: Any) -> Any:
        return leaf.contiguous() if self.arrays == "torch" else np.ascontiguousarray(leaf)

    def _joined(self, outputs: Sequence[Any], axis: int | None) -> Any:
        if axis is None:  # it does not depend on the input
            return outputs[0]
        if self.arrays == "numpy":
            return np.concatenate(outputs, axis)
        import torch

        return torch.cat(list(outputs), axis)
