"""Inputs and the original's answers to them: what every plan is judged by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from profiler.shapes import Shape, ShapeGrid
from supernet.capture.dynamic_dims import Axes, pad, resize
from supernet.capture.probe import Probe
from supernet.errors import Uncapturable
from supernet.experiments.boundaries import boundaries
from supernet.experiments.inputs import MaskForm, invented, mask_forms
from supernet.guards import Guard

__all__ = ["Reference", "make_references"]

# In all: enough to catch a bad kernel, and seconds even for a large model. A language model's
# answers are large: 2,048 tokens of a 50,000 word vocabulary are 400 MB.
_MOST_ROWS = 40
_MOST_BYTES = 64 << 20


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
    longest: Sequence[Tensor],
    *,
    paddable: bool,
    guards: Sequence[Guard] = (),
    shortest: int = 1,
) -> tuple[Reference, ...]:
    """Batches spread over the grid: the examples, one row, full batches, both ends of the lengths.

    Batches of padded rows are included where padding is legal, since that is what is served. What
    is invented looks like the examples: masks stay masks. Beyond these, what lies at the ends of
    the ranges that ``guards`` let through, from length ``shortest`` on.
    """
    usual = _candidates(axes, grid, examples, longest, paddable)
    hostile = boundaries(
        axes, guards, examples[0], shortest=shortest, most_rows=max(2, grid.max_rows)
    )
    made = _answered(probe, axes, usual, max(_MOST_ROWS, 2 * grid.max_rows), needed=True)
    return (*made, *_answered(probe, axes, hostile, _MOST_ROWS, needed=False))


def _answered(
    probe: Probe,
    axes: Axes,
    candidates: Iterable[Sequence[Tensor]],
    most_rows: int,
    *,
    needed: bool,
) -> tuple[Reference, ...]:
    """The batches that the original answers, within the limits; the first one if it is needed."""
    made: list[Reference] = []
    rows = size = 0
    for inputs in candidates:
        own = axes.rows(inputs)
        if made and (rows + own > most_rows or size > _MOST_BYTES):
            continue
        try:
            outputs = probe(inputs)
        except (RuntimeError, ValueError, IndexError, Uncapturable):
            if needed and not made:
                raise
            continue  # an invented batch that the original itself refuses proves nothing
        shape = Shape(own, axes.length(inputs))
        made.append(Reference(shape, tuple(t.contiguous() for t in inputs), tuple(outputs)))
        rows += own
        size += sum(output.numel() * output.element_size() for output in outputs)
    return tuple(made)


def _candidates(
    axes: Axes,
    grid: ShapeGrid,
    examples: Sequence[Sequence[Tensor]],
    longest: Sequence[Tensor],
    paddable: bool,
) -> Iterator[Sequence[Tensor]]:
    """Most telling first, because later ones are left out where memory or time would be."""
    first, last = examples[0], examples[-1]
    own, forms = axes.length(first), mask_forms(examples)
    yield from examples[:8]
    if longest is not last:
        drawn = invented(longest, forms, seed=0)
        yield [a if form is None else b for a, b, form in zip(longest, drawn, forms, strict=True)]
    if axes.batchable:
        yield resize(_rows(first, axes, forms, grid.max_rows), axes, grid.max_rows, own)
        yield resize(invented(first, forms, seed=1), axes, 1, own)
        if paddable and len(examples) > 1:
            mixed = [resize(leaves, axes, 1, axes.length(leaves)) for leaves in examples[:8]]
            top = grid.pad(max(axes.length(leaves) for leaves in examples))
            padded = [pad(leaves, axes, top) for leaves in mixed]
            yield [torch.cat(same) for same in zip(*padded, strict=True)]
        three = min(3, grid.max_rows)
        yield resize(_rows(last, axes, forms, three), axes, three, axes.length(last))
    else:
        yield invented(first, forms, seed=1)
        yield invented(last, forms, seed=0)
    if axes.has_length:
        for length in {grid.lengths[0], grid.lengths[len(grid.lengths) // 2]} - {own}:
            yield invented(resize(last, axes, 1, length), forms, seed=length)


def _rows(
    leaves: Sequence[Tensor], axes: Axes, forms: Sequence[MaskForm | None], rows: int
) -> list[Tensor]:
    """The first example and variations of it, stacked to at least ``rows`` rows."""
    parts = [list(leaves)]
    while sum(axes.rows(part) for part in parts) < rows:
        parts.append(invented(leaves, forms, seed=len(parts)))
    return [torch.cat(same) for same in zip(*parts, strict=True)]
