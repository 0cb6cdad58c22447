"""Inputs at the ends of what the guards let through, for plans to be judged on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from supernet.capture.dynamic_dims import Axes, resize
from supernet.guards import Guard, Within

__all__ = ["boundaries"]

_MOST = 12  # rows beside the example's
# No large ones: the ranges of int8 are chosen on these batches, and would no longer fit what comes.
_SCALES = (0.0, -1e-3)


def boundaries(
    axes: Axes, guards: Sequence[Guard], leaves: Sequence[Tensor], *, shortest: int, most_rows: int
) -> Iterator[list[Tensor]]:
    """Batches of hostile rows beside one of the example's, which gives their answers a scale.

    At the example's length and at the shortest one. Where rows cannot share a batch, each is one,
    and only contents that cannot have answers near 0 by themselves are changed.
    """
    own = axes.length(leaves)
    if not axes.batchable:
        yield from _rows(guards, leaves, floats=False)
        return
    for length in dict.fromkeys((own, shortest)) if axes.has_length else (own,):
        first = resize(leaves, axes, 1, length)
        rows = [first, *_rows(guards, first, floats=True)][: min(most_rows, 1 + _MOST)]
        if len(rows) > 1:
            yield [torch.cat(same) for same in zip(*rows, strict=True)]


def _rows(
    guards: Sequence[Guard], leaves: Sequence[Tensor], *, floats: bool
) -> Iterator[list[Tensor]]:
    for index, changed in _changes(guards, leaves, floats=floats):
        row = [changed if at == index else leaf for at, leaf in enumerate(leaves)]
        if not any(guard.violation(row) for guard in guards):
            yield row


def _changes(
    guards: Sequence[Guard], leaves: Sequence[Tensor], *, floats: bool
) -> Iterator[tuple[int, Tensor]]:
    """One leaf at a time with other contents: both ends of its range, and both in turn."""
    ends = {g.leaf: (g.least, g.most) for g in guards if isinstance(g, Within)}
    for index, leaf in enumerate(leaves):
        if leaf.dtype is torch.bool:
            ends[index] = (0, 1)
        if index in ends:
            for end in ends[index]:
                yield index, torch.full_like(leaf, end)
            in_turn = torch.arange(leaf.numel(), device=leaf.device) % 2
            yield (
                index,
                torch.tensor(ends[index], dtype=leaf.dtype, device=leaf.device)[in_turn].reshape(
                    leaf.shape
                ),
            )
        elif leaf.is_floating_point() and floats:
            for scale in _SCALES:
                yield index, leaf.detach() * scale
