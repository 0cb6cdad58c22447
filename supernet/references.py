"""Inputs and the original's answers to them: what every plan is judged by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from profiler.shapes import Shape, ShapeGrid
from supernet.axes import Axes, pad, resize, vary
from supernet.errors import Uncapturable
from supernet.probe import Probe

__all__ = ["Reference", "make_references"]

_MOST_ROWS = 40  # in all: enough to catch a bad kernel, seconds even for a large model


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """One batch: flat inputs, and the flat outputs the original gave under ``no_grad``."""

    shape: Shape
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def make_references(
    probe: Probe,
    axes: Axes,
    grid: ShapeGrid,
    examples: Sequence[Sequence[Tensor]],
    *,
    paddable: bool,
    min_length: int,
) -> tuple[Reference, ...]:
    """Batches spread over the grid: the examples, one row, full batches, both ends of the lengths.

    Batches of padded rows are included where padding is legal, since that is what is served.
    """
    made: list[Reference] = []
    rows = 0
    for inputs in _candidates(axes, grid, examples, paddable, min_length):
        size = axes.rows(inputs)
        if made and rows + size > max(_MOST_ROWS, 2 * grid.max_rows):
            continue
        try:
            outputs = probe(inputs)
        except (RuntimeError, ValueError, IndexError, Uncapturable):
            if not made:
                raise
            continue  # an invented batch that the original itself refuses proves nothing
        shape = Shape(size, axes.length(inputs))
        made.append(Reference(shape, tuple(t.contiguous() for t in inputs), tuple(outputs)))
        rows += size
    return tuple(made)


def _candidates(
    axes: Axes,
    grid: ShapeGrid,
    examples: Sequence[Sequence[Tensor]],
    paddable: bool,
    min_length: int,
) -> Iterator[list[Tensor]]:
    for leaves in examples[:8]:
        yield [leaf.detach().clone() for leaf in leaves]
    first, last = examples[0], examples[-1]
    own = axes.length(first)
    yield vary(first, seed=1)
    yield vary(last, seed=0)
    if axes.has_length:
        lowest = max(min_length, grid.lengths[0])
        middle = grid.lengths[len(grid.lengths) // 2]
        for length in sorted({lowest, middle, grid.lengths[-1]} - {own}):
            yield resize(vary(last, seed=length), axes, 1, length)
    if axes.batchable:
        top = max(axes.length(leaves) for leaves in examples)
        if paddable:
            mixed = [resize(leaves, axes, 1, axes.length(leaves)) for leaves in examples[:8]]
            padded = [pad(leaves, axes, grid.pad(top)) for leaves in mixed]
            if len(padded) > 1:
                yield [torch.cat(same) for same in zip(*padded, strict=True)]
        for rows in sorted({1, min(3, grid.max_rows), grid.max_rows}):
            stacked = resize(_rows(first, axes, rows), axes, rows, own)
            yield stacked


def _rows(leaves: Sequence[Tensor], axes: Axes, rows: int) -> list[Tensor]:
    """The first example and variations of it, stacked to at least ``rows`` rows."""
    parts = [list(leaves)]
    while sum(axes.rows(part) for part in parts) < rows:
        parts.append(vary(leaves, seed=len(parts) % 3))
    return [torch.cat(same) for same in zip(*parts, strict=True)]
