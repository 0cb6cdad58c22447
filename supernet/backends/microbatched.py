"""Batches run a few rows at a time where that is faster: what lies between layers stays in caches.

The term is that of Huang et al., "GPipe", 2019 (arXiv:1811.06965), where pipelines are the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from profiler.shapes import Shape
from supernet.signature import Signature

if TYPE_CHECKING:
    from supernet.backends.base import LoadedPlan

__all__ = ["Microbatched", "Microbatches"]


@dataclass(frozen=True, slots=True)
class Microbatches:
    """How many rows at once are faster than a whole batch.

    ``at_once``: by timed shape, 0 where the whole was faster. Batches between take what the next
    longer length and, of that, the next larger batch takes, those beyond the last the last one's.

    >>> how = {Shape(4, 16): 0, Shape(4, 64): 2, Shape(16, 64): 0}
    >>> [Microbatches(how, signature=None).rows_at_once(rows, 17) for rows in (3, 5)]
    [2, 0]
    """

    at_once: Mapping[Shape, int]
    signature: Signature

    def rows_at_once(self, rows: int, length: int) -> int:
        """The most rows to run together of so many of this length, 0 for all."""
        lengths = sorted({shape.length for shape in self.at_once})
        known = next((one for one in lengths if one >= length), lengths[-1])
        sizes = sorted(shape.rows for shape in self.at_once if shape.length == known)
        return self.at_once[Shape(next((one for one in sizes if one >= rows), sizes[-1]), known)]

    def __str__(self) -> str:
        """In words, e.g. ``"8 rows of 64 at a time"``; lengths of whole batches are left out."""
        told = sorted({(shape.length, rows) for shape, rows in self.at_once.items() if rows})
        return ", ".join(f"{rows} rows of {length}" for length, rows in told) + " at a time"

    def to_json(self) -> dict[str, Any]:
        parts = sorted([shape.rows, shape.length, rows] for shape, rows in self.at_once.items())
        return {"parts": parts, "signature": self.signature.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Microbatches:
        at_once = {Shape(int(rows), int(length)): int(n) for rows, length, n in data["parts"]}
        return Microbatches(at_once, Signature.from_json(data["signature"]))


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
