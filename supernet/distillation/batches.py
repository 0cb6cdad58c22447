"""Unlabelled inputs in batches, with the real length of every row, and what is padding."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from supernet.signature import Dim, Signature

__all__ = ["Batch", "Corpus", "batched", "real"]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Flat inputs, as the signature has them. `lengths`: int64 `[rows]`, of every row how much is
    no padding; None where nothing is padded."""

    inputs: tuple[Tensor, ...]
    lengths: Tensor | None = None

    def rows(self, signature: Signature) -> int:
        """How many rows it has; 1 where the model has no rows."""
        axes = zip(signature.inputs, self.inputs, strict=True)
        sizes = [t.shape[axis] for s, t in axes if (axis := s.axis("rows")) is not None]
        return sizes[0] if sizes else 1


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Batches to train on, and others that only judge what training has brought."""

    training: tuple[Batch, ...]
    held_out: tuple[Batch, ...]

    def __post_init__(self) -> None:
        for name in ("training", "held_out"):
            if not getattr(self, name):
                raise ValueError(f"{name} must hold at least one batch, got none; give more inputs")

    @staticmethod
    def of(batches: Sequence[Batch], held_out: float = 0.1, seed: int = 0) -> Corpus:
        """A share of the batches is held out, at least one. ``seed`` draws the order of both
        parts, so that any first few are like the rest."""
        if not 0.0 < held_out < 1.0:
            raise ValueError(f"held_out must be a share between 0 and 1, got {held_out}")
        if len(batches) < 2:
            raise ValueError(
                f"batches must be at least 2, one of them held out, got {len(batches)}"
            )
        order = np.random.default_rng([seed, 17]).permutation(len(batches))
        count = min(max(1, round(len(batches) * held_out)), len(batches) - 1)
        return Corpus(
            tuple(batches[i] for i in order[count:]), tuple(batches[i] for i in order[:count])
        )


def batched(
    signature: Signature, examples: Sequence[Sequence[Tensor]], rows: int
) -> tuple[Batch, ...]:
    """Examples of one row each in batches of up to ``rows``, those of like length together.

    Padded with zeros at the end where the signature says that padding is harmless; where it is not,
    only equal lengths share a batch. A model without rows gets every example alone.
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    if not signature.batchable or not signature.has_rows:
        return tuple(Batch(tuple(example)) for example in examples)
    lengths = [_length(signature, example) for example in examples]
    order = sorted(range(len(examples)), key=lambda i: (lengths[i], i))
    groups: list[list[int]] = []
    for index in order:
        fits = groups and len(groups[-1]) < rows
        if fits and (signature.paddable or lengths[groups[-1][-1]] == lengths[index]):
            groups[-1].append(index)
        else:
            groups.append([index])
    return tuple(
        _stacked(signature, [examples[i] for i in group], [lengths[i] for i in group])
        for group in groups
    )


def _length(signature: Signature, example: Sequence[Tensor]) -> int:
    for spec, tensor in zip(signature.inputs, example, strict=True):
        axis = spec.axis("length")
        if axis is not None:
            return int(tensor.shape[axis])
    return 0


def _stacked(
    signature: Signature, examples: Sequence[Sequence[Tensor]], lengths: Sequence[int]
) -> Batch:
    longest = max(lengths)
    inputs = []
    for index, spec in enumerate(signature.inputs):
        parts, axis = [example[index] for example in examples], spec.axis("length")
        if axis is not None:
            parts = [_padded(part, axis, longest) for part in parts]
        rows = spec.axis("rows")
        inputs.append(parts[0] if rows is None else torch.cat(parts, rows))
    uneven = signature.has_length and min(lengths) < longest
    return Batch(tuple(inputs), torch.tensor(lengths) if uneven else None)


def _padded(tensor: Tensor, axis: int, length: int) -> Tensor:
    missing = length - tensor.shape[axis]
    if missing == 0:
        return tensor
    shape = list(tensor.shape)
    shape[axis] = missing
    return torch.cat([tensor, tensor.new_zeros(shape)], axis)


def real(lengths: Tensor | None, dims: Sequence[Dim], shape: Sequence[int]) -> Tensor | None:
    """Which entries of a tensor are no padding, as a mask that broadcasts; None where all are."""
    if lengths is None or "rows" not in dims or "length" not in dims:
        return None
    rows, length = dims.index("rows"), dims.index("length")
    mask = torch.arange(shape[length])[None, :] < lengths[:, None]
    if rows > length:
        mask = mask.T
    sizes = [size if i in (rows, length) else 1 for i, size in enumerate(shape)]
    return mask.reshape(sizes)


def distinct_rows(signature: Signature, batches: Sequence[Batch]) -> tuple[int, int]:
    """How many rows there are, and how many of them differ in what is no padding."""
    seen: set[bytes] = set()
    count = 0
    for batch in batches:
        for row in range(batch.rows(signature)):
            digest = hashlib.blake2b(digest_size=16)
            for spec, tensor in zip(signature.inputs, batch.inputs, strict=True):
                part, axis = tensor, spec.axis("rows")
                if axis is not None:
                    part = part.narrow(axis, row, 1)
                along = spec.axis("length")
                if along is not None and batch.lengths is not None:
                    part = part.narrow(along, 0, int(batch.lengths[row]))
                digest.update(part.contiguous().numpy().tobytes())
            seen.add(digest.digest())
            count += 1
    return count, len(seen)
