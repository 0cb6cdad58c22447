"""Batches run a few rows at a time where that is faster: what lies between layers stays in caches.

The term is that of Huang et al., "GPipe", 2019 (arXiv:1811.06965), where pipelines are the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from supernet.signature import Signature, TensorSpec

if TYPE_CHECKING:
    from supernet.backends.base import LoadedPlan

__all__ = ["Microbatched", "Microbatches"]


@dataclass(frozen=True, slots=True)
class Microbatches:
    """How many rows at once are faster than a whole batch.

    ``at_once``: by length, 0 where the whole was faster. Lengths between take the next longer
    one's, those beyond the last the last one's.

    >>> Microbatches({16: 0, 64: 8}, signature=None).rows_at_once(17)
    8
    """

    at_once: Mapping[int, int]
    signature: Signature

    def rows_at_once(self, length: int) -> int:
        """The most rows to run together at this length, 0 for any number."""
        known = sorted(self.at_once)
        return self.at_once[next((one for one in known if one >= length), known[-1])]

    def __str__(self) -> str:
        """In words, e.g. ``"8 rows of 64 at a time"``; lengths of whole batches are left out."""
        told = [(rows, length) for length, rows in sorted(self.at_once.items()) if rows]
        return ", ".join(f"{rows} rows of {length}" for rows, length in told) + " at a time"

    def to_json(self) -> dict[str, Any]:
        return {"at_once": sorted(self.at_once.items()), "signature": self.signature.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Microbatches:
        at_once = {int(length): int(rows) for length, rows in data["at_once"]}
        return Microbatches(at_once, Signature.from_json(data["signature"]))


class Microbatched:
    """A loaded plan whose large batches run in even parts of at most so many rows."""

    def __init__(self, plan: LoadedPlan, how: Microbatches) -> None:
        self._plan, self._how = plan, how
        self.arrays: Literal["numpy", "torch"] = plan.arrays
        inputs, outputs = how.signature.inputs, how.signature.outputs
        self._inputs, self._outputs = _axes(inputs, "rows"), _axes(outputs, "rows")
        lengths = enumerate(_axes(inputs, "length"))
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
        most = self._how.rows_at_once(length)
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


def _axes(specs: Sequence[TensorSpec], dim: str) -> list[int | None]:
    return [spec.dims.index(dim) if dim in spec.dims else None for spec in specs]
