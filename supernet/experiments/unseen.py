"""Rows that no plan was chosen or calibrated by, with the original's own answers.

A plan that computes more coarsely than the model is held to its error on these, row by row: what
was chosen on some batches fits those batches best. The usual ones look like the examples; the
strange ones are far larger or smaller, shifted, constant, or of one outlier.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from profiler.shapes import Shape
from supernet.capture.dynamic_dims import Axes, resize
from supernet.capture.probe import Probe
from supernet.errors import Uncapturable
from supernet.experiments.inputs import MaskForm, mask_forms
from supernet.experiments.references import Reference
from supernet.guards import Guard, Within

__all__ = ["Unseen", "make_unseen"]

_USUAL, _STRANGE = 1024, 128  # rows
_TOGETHER = 8  # rows
_SECONDS = 0.8  # of the original's time, for each of the two
_MOST_BYTES = 32 << 20
_OFF, _BEYOND = 0.3, 0.3  # of a number, and of the examples' range
_WIDE = 2.0**20  # a range of so many integers is drawn from by magnitude


@dataclass(frozen=True, slots=True)
class Unseen:
    """Batches of rows like the examples, and of others; ``masks``: the leaves that are masks."""

    usual: tuple[Reference, ...] = ()
    strange: tuple[Reference, ...] = ()
    masks: tuple[int, ...] = ()


def make_unseen(
    probe: Probe,
    axes: Axes,
    examples: Sequence[Sequence[Tensor]],
    guards: Sequence[Guard],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Unseen:
    """As many as the original answers within a second or two; at least one batch of each kind.

    What violates one of ``guards`` is left out: no plan will see it.
    """
    drawn = _Drawn(axes, examples, guards)
    return Unseen(
        _answered(probe, axes, guards, drawn.usual(), _USUAL, clock),
        _answered(probe, axes, guards, drawn.strange(), _STRANGE, clock) if drawn.changed else (),
        tuple(leaf for leaf, form in enumerate(drawn.forms) if form is not None),
    )


def _answered(
    probe: Probe, axes: Axes, guards: Sequence[Guard], drawn: Iterable[list[Tensor]], most: int,
    clock: Callable[[], float],
) -> tuple[Reference, ...]:  # fmt: skip
    made: list[Reference] = []
    rows = size = refused = 0
    began = clock()
    for leaves in drawn:
        inputs = _kept(leaves, axes, guards)
        if inputs is not None:
            try:
                outputs = probe(inputs)
            except (RuntimeError, ValueError, IndexError, Uncapturable):
                refused += 1  # contents that the model itself refuses prove nothing
            else:
                shape = Shape(axes.rows(inputs), axes.length(inputs))
                made.append(Reference(shape, tuple(t.contiguous() for t in inputs), tuple(outputs)))
                rows += shape.rows
                size += sum(t.nbytes for t in (*inputs, *outputs))
        else:
            refused += 1
        if rows >= most or size > _MOST_BYTES or refused > most or clock() - began > _SECONDS:
            break
    return tuple(made)


def _kept(leaves: list[Tensor], axes: Axes, guards: Sequence[Guard]) -> list[Tensor] | None:
    """The rows that the guards let through; None where there are none."""
    if not axes.batchable:
        return None if any(guard.violation(leaves) for guard in guards) else leaves
    rows = [_row(leaves, axes, index) for index in range(axes.rows(leaves))]
    kept = [row for row in rows if not any(guard.violation(row) for guard in guards)]
    if not kept:
        return None
    return [
        torch.cat(same, dims.index("rows")) if "rows" in dims else same[0]
        for same, dims in zip(zip(*kept, strict=True), axes.dims, strict=True)
    ]


def _row(leaves: Sequence[Tensor], axes: Axes, index: int) -> list[Tensor]:
    return [
        leaf.narrow(dims.index("rows"), index, 1) if "rows" in dims else leaf
        for leaf, dims in zip(leaves, axes.dims, strict=True)
    ]


class _Drawn:
    """Endless batches, the same in every process."""

    def __init__(
        self, axes: Axes, examples: Sequence[Sequence[Tensor]], guards: Sequence[Guard]
    ) -> None:
        self._axes, self._examples = axes, examples
        self.forms = mask_forms(examples)
        self.changed = [
            leaf
            for leaf, (tensor, form) in enumerate(zip(examples[0], self.forms, strict=True))
            if tensor.is_floating_point() and form is None
        ]
        self._ends = {g.leaf: (g.least, g.most) for g in guards if isinstance(g, Within)}

    def usual(self) -> Iterator[list[Tensor]]:
        """Like the examples: their own numbers a little off, in their places or in others; whole
        numbers from all that is let through, too."""
        for turn in itertools.count():
            yield self._usual(turn, torch.Generator().manual_seed(turn))

    def strange(self) -> Iterator[list[Tensor]]:
        """Unlike them in their floating inputs: in all, or in one of several."""
        for turn in itertools.count():
            rng = torch.Generator().manual_seed(1_000_003 + turn)
            leaves = self._usual(turn, rng)
            some = self.changed if turn % 2 else [self.changed[turn // 2 % len(self.changed)]]
            change = _CHANGES[turn % len(_CHANGES)]
            for leaf in some:
                if not leaves[leaf].numel():
                    continue
                dims = self._axes.dims[leaf]
                axis = dims.index("rows") if "rows" in dims else None
                leaves[leaf] = change(leaves[leaf], axis, rng)
            yield leaves

    def _usual(self, turn: int, rng: torch.Generator) -> list[Tensor]:
        example = self._examples[turn % len(self._examples)]
        rows = _TOGETHER if self._axes.batchable else self._axes.rows(example)
        leaves = resize(example, self._axes, rows, self._axes.length(example))
        return [
            self._other(index, leaf.detach(), form, turn // len(self._examples), rng)
            for index, (leaf, form) in enumerate(zip(leaves, self.forms, strict=True))
        ]

    def _other(
        self, index: int, leaf: Tensor, form: MaskForm | None, turn: int, rng: torch.Generator
    ) -> Tensor:
        if form is not None:
            return form.draw(leaf, rng)
        if not leaf.numel() or leaf.is_complex():
            return leaf
        flat = leaf.reshape(-1).cpu()
        if leaf.is_floating_point():
            flat = _alike(flat, rng, in_place=turn % 2 == 1)
        elif turn % 2:
            flat = _whole(leaf.dtype, flat.shape, self._ends.get(index), rng)
        else:
            flat = flat[torch.randint(flat.numel(), flat.shape, generator=rng)]
        return flat.reshape(leaf.shape).to(leaf.dtype).to(leaf.device)


def _alike(flat: Tensor, rng: torch.Generator, *, in_place: bool) -> Tensor:
    """As many numbers like these: each a third off, or drawn from a smooth density of them
    (Silverman 1986, Density Estimation, sections 3.4.2 and 6.4). They reach beyond the range of
    these by `_BEYOND` of it; what is exactly zero, infinite or no number stays so."""
    finite = flat[flat.isfinite()].double()
    if not len(finite):
        return flat
    noise = torch.randn(flat.shape, generator=rng).double()
    if in_place:
        drawn = flat
        moved = flat.double() * (1.0 + _OFF * noise)
    else:
        drawn = flat[torch.randint(flat.numel(), flat.shape, generator=rng)]
        moved = drawn.double() + _spread(finite) * len(finite) ** -0.2 * noise
    low, high = float(finite.min()), float(finite.max())
    limits = torch.finfo(flat.dtype)
    reach = _BEYOND * max(high - low, abs(low), abs(high))
    moved = moved.clamp(max(low - reach, limits.min), min(high + reach, limits.max))
    return torch.where((drawn == 0) | ~drawn.isfinite(), drawn, moved.to(flat.dtype))


def _spread(finite: Tensor) -> float:
    """A standard deviation that one outlier does not widen."""
    some = finite[: 1 << 20]
    lower, upper = (float(torch.quantile(some, share)) for share in (0.25, 0.75))
    return min(float(some.std(correction=0)), (upper - lower) / 1.34)


def _whole(
    dtype: torch.dtype, shape: torch.Size, ends: tuple[int, int] | None, rng: torch.Generator
) -> Tensor:
    """Whole numbers from all over a range; from a wide one of all magnitudes."""
    if dtype is torch.bool:
        return torch.randint(2, shape, generator=rng).bool()
    limits = torch.iinfo(dtype)
    least, most = ends or (limits.min, limits.max)
    if most - least <= _WIDE:
        return torch.randint(least, most + 1, shape, generator=rng)
    size = torch.exp2(torch.rand(shape, generator=rng) * math.log2(max(most, 2)))
    if least < 0:
        size = size * (2 * torch.randint(2, shape, generator=rng) - 1)
    # Of the largest, a float rounds up beyond what the type holds.
    return size.double().clamp(max(least, -(2.0**62)), min(most, 2.0**62)).to(torch.int64)


Change = Callable[[Tensor, "int | None", torch.Generator], Tensor]


def _scaled(leaf: Tensor, axis: int | None, rng: torch.Generator) -> Tensor:
    return leaf * _per_row(leaf, axis, rng, 1e-4, 1e4)


def _shifted(leaf: Tensor, axis: int | None, rng: torch.Generator) -> Tensor:
    return leaf + leaf.abs().amax() * _per_row(leaf, axis, rng, 0.1, 100.0, signed=True)


def _constant(leaf: Tensor, axis: int | None, rng: torch.Generator) -> Tensor:
    size = leaf.abs().amax() * _per_row(leaf, axis, rng, 0.01, 10.0, signed=True)
    return size.expand_as(leaf).clone()


def _outlier(leaf: Tensor, axis: int | None, rng: torch.Generator) -> Tensor:
    """Each number in so many is far larger, so that about every row has one."""
    numbers = leaf.numel() // (leaf.shape[axis] if axis is not None and leaf.shape[axis] else 1)
    hit = torch.rand(leaf.shape, generator=rng).to(leaf.device) < 1.0 / max(numbers, 1)
    far = leaf.abs().amax() * _per_row(leaf, axis, rng, 3.0, 300.0, signed=True)
    return torch.where(hit, far, leaf)


def _zeros(leaf: Tensor, axis: int | None, rng: torch.Generator) -> Tensor:
    return torch.zeros_like(leaf)


_CHANGES: tuple[Change, ...] = (
    _scaled, _shifted, _outlier, _scaled, _constant, _shifted, _scaled, _zeros, _outlier,
)  # fmt: skip


def _per_row(
    leaf: Tensor, axis: int | None, rng: torch.Generator, least: float, most: float,
    *, signed: bool = False,
) -> Tensor:  # fmt: skip
    """A number for every row, of all magnitudes from ``least`` to ``most``."""
    shape = [leaf.shape[dim] if dim == axis else 1 for dim in range(leaf.ndim)]
    low, high = math.log(least), math.log(most)
    found = torch.exp(low + (high - low) * torch.rand(shape, generator=rng))
    if signed:
        found = found * (2 * torch.randint(2, shape, generator=rng) - 1)
    return found.to(leaf.dtype).to(leaf.device)
