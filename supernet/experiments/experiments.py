"""Experiments against a model: inputs that would show rows to depend on each other, or padding to
count.

Asked only where the graph proves nothing. Contents are hostile on purpose: extreme beside tame,
all negative, all equal, lengths 1 and 2, full batches. What no experiment shows is inferred, not
known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from supernet.capture.dynamic_dims import Axes, crop, pad, resize, vary
from supernet.capture.probe import Probe, one_line, tolerance
from supernet.signature import Dim

__all__ = ["masks", "padding_counts", "rows_meet"]

_EXTREME = (1e4, 300.0, 1e-3)
_MOST_PADDED = 48  # pairs of runs
Alone = tuple[list[Tensor], list[Tensor]]
"""One row's inputs, and the answer to them alone."""


def rows_meet(
    probe: Probe,
    axes: Axes,
    outputs: Sequence[Sequence[Dim]],
    examples: Sequence[Sequence[Tensor]],
    most: int,
) -> str | None:
    """In words, a batch in which a row got another answer than alone; None if none was found."""
    for leaves in (examples[0], examples[-1])[: len(examples)]:
        alone = list(_answered(probe, _single_rows(axes, leaves)))
        for members in _batches(len(alone), most):
            said = _together(probe, outputs, [alone[i] for i in members])
            if said is not None:
                return said
    return None


def padding_counts(
    probe: Probe,
    axes: Axes,
    outputs: Sequence[Sequence[Dim]],
    examples: Sequence[Sequence[Tensor]],
    longest: int,
) -> str | None:
    """In words, an input to which padding gave another answer; None if none was found."""
    runs = 0
    for leaves, length in _short_and_long(axes, examples):
        for inputs, alone in _answered(probe, (leaves,)):
            for padded_to in sorted({length + 1, length + 3, longest}):
                if not length < padded_to <= longest:
                    continue
                runs += 1
                if runs > _MOST_PADDED:
                    return None
                said = _padded(probe, axes, outputs, inputs, alone, padded_to)
                if said is not None:
                    return f"length {length} padded to {padded_to}: {said}"
    return None


def masks(axes: Axes, examples: Sequence[Sequence[Tensor]]) -> tuple[int, ...]:
    """The inputs along the length that are masks in every example: only 0 and 1, and 1 at first."""
    found = []
    for index, dims in enumerate(axes.dims):
        leaves = [example[index] for example in examples]
        if "length" in dims and all(_is_mask(x, dims.index("length")) for x in leaves):
            found.append(index)
    return tuple(found)


def _is_mask(leaf: Tensor, along: int) -> bool:
    if leaf.is_floating_point() or leaf.is_complex():
        return False
    bits = bool(((leaf == 0) | (leaf == 1)).all())
    return bits and bool((leaf.select(along, 0) == 1).all())


def _contents(leaves: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The example and hostile variations, of the same shapes."""
    yield list(leaves)
    for seed in (1, 2):
        for boldness in (1, 2):
            yield vary(leaves, seed, boldness=boldness)
    changes: list[Callable[[Tensor], Tensor]] = [
        lambda x: -x.abs(),
        lambda x: x.abs(),
        torch.zeros_like,
        lambda x: x.reshape(-1)[:1].expand(x.numel()).reshape(x.shape).clone(),
    ]
    for factor in _EXTREME:
        changes += [lambda x, f=factor: x * f, lambda x, f=factor: -x * f]  # type: ignore[misc]
    for change in changes:
        yield [_floats(leaf, change) for leaf in leaves]
    yield [_integers(leaf, torch.amax) for leaf in leaves]
    yield [_integers(leaf, torch.amin) for leaf in leaves]


def _floats(leaf: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    floating = leaf.is_floating_point() or leaf.is_complex()
    return change(leaf.detach()) if floating and leaf.numel() else leaf


def _integers(leaf: Tensor, pick: Callable[[Tensor], Tensor]) -> Tensor:
    """All of the largest or the smallest value present."""
    if leaf.is_floating_point() or leaf.is_complex() or not leaf.numel():
        return leaf
    wide = leaf.to(torch.int64)
    return torch.full_like(leaf, pick(wide).item())


def _single_rows(axes: Axes, leaves: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    for varied in _contents(leaves):
        yield resize(varied, axes, 1, axes.length(leaves))


def _answered(
    probe: Probe, inputs: Iterator[list[Tensor]] | Sequence[list[Tensor]]
) -> Iterator[Alone]:
    for leaves in inputs:
        try:
            answer, structure = probe.answer(leaves)
        except Exception:  # contents that the model refuses prove nothing
            continue
        if structure == probe.structure:
            yield leaves, answer


def _batches(count: int, most: int) -> Iterator[list[int]]:
    """Which rows meet: every one beside the first, equal ones, and full batches."""
    if not count or most < 2:
        return
    yield [0] * min(3, most)
    step = max(1, most - 1)
    for start in range(1, count, step):
        yield [0, *range(start, min(start + step, count))]
    for seed in (0, 1):
        rng = torch.Generator().manual_seed(seed)
        yield torch.randint(count, (most,), generator=rng).tolist()
        yield torch.randint(count, (2,), generator=rng).tolist()


def _together(
    probe: Probe, outputs: Sequence[Sequence[Dim]], members: Sequence[Alone]
) -> str | None:
    stacked = [torch.cat(same) for same in zip(*(inputs for inputs, _ in members), strict=True)]
    try:
        answer, structure = probe.answer(stacked)
    except Exception as error:
        return f"{len(members)} rows together raise {one_line(error)}, each alone is answered"
    if structure != probe.structure:
        return f"{len(members)} rows together give a result of another structure"
    for index, (got, dims) in enumerate(zip(answer, outputs, strict=True)):
        apart = [own[index] for _, own in members]
        if "rows" in dims:
            at = dims.index("rows")
            whole = torch.cat(apart, at) if len({t.shape for t in apart}) == 1 else None
            fits = whole is not None and whole.shape == got.shape and _close(got, whole, at)
        else:
            fits = all(t.shape == got.shape and _close(got, t, None) for t in apart)
        if not fits:
            return f"among {len(members)} rows, output {index} is not what each gives alone"
    return None


def _padded(
    probe: Probe, axes: Axes, outputs: Sequence[Sequence[Dim]], inputs: Sequence[Tensor],
    alone: Sequence[Tensor], padded_to: int,
) -> str | None:  # fmt: skip
    length, rows = axes.length(inputs), axes.rows(inputs)
    try:
        answer, structure = probe.answer(pad(inputs, axes, padded_to))
    except Exception as error:
        return f"it raises {one_line(error)}"
    if structure != probe.structure:
        return "the result has another structure"
    for index, (got, want, dims) in enumerate(zip(answer, alone, outputs, strict=True)):
        cropped = crop(got, dims, slice(0, rows), length)
        at = dims.index("rows") if "rows" in dims else None
        if cropped.shape != want.shape or not _close(cropped, want, at):
            return f"output {index} is another"
    return None


def _short_and_long(
    axes: Axes, examples: Sequence[Sequence[Tensor]]
) -> Iterator[tuple[list[Tensor], int]]:
    """Rows of lengths 1, 2 and the examples' own, with hostile contents; masks show the first."""
    shown = masks(axes, examples)
    lengths = sorted({axes.length(leaves) for leaves in examples})
    for length in (2, 1, lengths[0], lengths[len(lengths) // 2]):
        for varied in _contents(examples[0]):
            leaves = resize(varied, axes, 1, length)
            for index in shown:
                at = axes.dims[index].index("length")
                leaves[index] = leaves[index].clone()
                leaves[index].narrow(at, 0, 1).fill_(1)
            yield leaves, length


def _close(got: Tensor, want: Tensor, rows: int | None) -> bool:
    """Equal but for rounding, each entry by the scale of its own row and of its own column."""
    if got.dtype != want.dtype:
        return False
    if not (got.is_floating_point() or got.is_complex()):
        return torch.equal(got, want)
    wide = torch.complex128 if got.is_complex() else torch.float64
    a, b = got.detach().to(wide), want.detach().to(wide)
    if not torch.equal(a.isnan(), b.isnan()) or not torch.equal(a.isinf(), b.isinf()):
        return False
    a, b = (t.nan_to_num(0.0, 0.0, 0.0) for t in (a, b))
    if not b.numel():
        return True
    size = b.abs()
    scale = _scale(size, rows)
    limit = tolerance(got.dtype) * torch.maximum(size, scale)
    return bool(((a - b).abs() <= limit).all())


def _scale(size: Tensor, rows: int | None) -> Tensor:
    """What rounding is relative to: the largest of an entry's row or of its column, whichever is
    less; for single numbers a twentieth of the largest, as they may be differences."""
    others = [dim for dim in range(size.ndim) if dim != rows]
    if rows is None or not others or all(size.shape[dim] == 1 for dim in others):
        return size.amax() * (1.0 if rows is None else 0.05)
    row = size.amax(others, keepdim=True)
    column = size.amax(list(range(size.ndim - 1)), keepdim=True)
    return torch.minimum(row, column.expand_as(size))
