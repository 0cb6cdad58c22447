"""Answers of a coarse plan to rows that it was not chosen or calibrated by, one by one.

Torch is imported only by plans that run on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from profiler.shapes import Shape
from supernet.bounds import bounded, features
from supernet.building.confidence import Looked, RowErrors
from supernet.capture.stored import StoredBatch
from supernet.errors import OutsideRange
from supernet.fidelity import METRICS, as_array, row_errors, row_of

if TYPE_CHECKING:
    from supernet.backends.base import LoadedPlan
    from supernet.capture.stored import StoredCapture
    from supernet.signature import Signature

__all__ = ["answer_unseen"]


def answer_unseen(
    plan: LoadedPlan, capture: StoredCapture, on_share: Callable[[float], None]
) -> RowErrors:
    """The errors of all unseen rows of a capture, and what those rows look like."""
    leaves = tuple(bounded(capture.signature, capture.masks).items())
    axes = [spec.axis("rows") for spec in capture.signature.outputs]
    groups = {name: capture.batches(plan.arrays, name) for name in ("usual", "strange")}
    looked = {name: Looked() for name in groups}
    done, due = 0, sum(len(batches) for batches in groups.values())
    for name, batches in groups.items():
        for batch in batches:
            on_share(done / due)
            done += 1
            for inputs, answers, wanted in _answered(plan, capture.signature, batch):
                rows = row_errors(METRICS, answers, wanted, axes)
                looks = np.zeros((len(rows), len(leaves), 2))
                for place, (leaf, axis) in enumerate(leaves):
                    looks[:, place] = features(as_array(inputs[leaf]), axis)
                looked[name] += Looked(
                    looks.tolist(), {m: [row[m] for row in rows] for m in METRICS}
                )
    return RowErrors(leaves, **looked)


def _answered(
    plan: LoadedPlan, signature: Signature, batch: StoredBatch
) -> list[tuple[Sequence[Any], Sequence[Any], Sequence[Any]]]:
    """What the plan answers of a batch, whole or else row by row: inputs, answers, the original's.

    Rows that it declines it will decline while it serves, too.
    """
    try:
        return [(batch.inputs, plan.run(list(batch.inputs)), batch.outputs)]
    except OutsideRange:
        if batch.shape.rows == 1:
            return []
    ins, outs = ([spec.axis("rows") for spec in specs]
                 for specs in (signature.inputs, signature.outputs))  # fmt: skip
    rows = (
        StoredBatch(
            Shape(1, batch.shape.length),
            tuple(row_of(batch.inputs, ins, index)),
            tuple(row_of(batch.outputs, outs, index)),
        )
        for index in range(batch.shape.rows)
    )
    return [found for row in rows for found in _answered(plan, signature, row)]
