"""Inputs to learn from: read, cleaned, a part of them held out to judge by.

What is no number is left out, and what came more than once counts once, so that nothing that was
learnt from judges. Too few to learn from and to judge by are refused in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from supernet.distillation.ambition import LEAST_ROWS
from supernet.distillation.batches import Batch, Corpus, batched
from supernet.jobs.errors import JobRefused
from supernet.signature import Signature

__all__ = ["Inputs", "prepared", "read_inputs"]

LEAST_JUDGES = 8
"""Fewer rows held out say next to nothing: the lower end of an interval is far below its mean."""
_HELD_OUT = 0.2
_MOST_JUDGES = 256
_ROWS = 32
_LEAST_BATCHES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """`corpus` to learn from; `judges`: of what it holds out each row alone, unpadded; `lengths` of
    all; `notes`: what was left out and why."""

    corpus: Corpus
    judges: tuple[Batch, ...]
    lengths: tuple[int, ...]
    notes: tuple[str, ...]


def read_inputs(path: Path, signature: Signature) -> list[list[Tensor]]:
    """Flat inputs of the requests in a safetensors file, by ``EXAMPLE.LEAF``.

    `JobRefused` for a file that does not hold what the model takes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        given = load(path.read_bytes())  # not by its name, which a memfd has none of
    except (OSError, SafetensorError) as error:
        raise JobRefused(f"inputs must be a safetensors file: {error}") from error
    found: dict[int, dict[int, Tensor]] = {}
    for name, tensor in given.items():
        example, _, leaf = name.partition(".")
        if not (example.isdecimal() and leaf.isdecimal()):
            raise JobRefused(f"inputs must be named EXAMPLE.LEAF, got {name!r}")
        found.setdefault(int(example), {})[int(leaf)] = tensor
    wanted = range(len(signature.inputs))
    for number, leaves in found.items():
        if sorted(leaves) != list(wanted):
            raise JobRefused(
                f"example {number} of the inputs must have {len(wanted)} leaves, got {len(leaves)}"
            )
    return [[found[example][leaf] for leaf in wanted] for example in sorted(found)]


def prepared(signature: Signature, examples: Sequence[Sequence[Tensor]], seed: int) -> Inputs:
    """Inputs that can be learnt from, out of flat inputs of one row or more each."""
    rows = [row for example in examples for row in _rows(signature, example)]
    finite = [row for row in rows if _is_finite(row)]
    notes = []
    if len(finite) < len(rows):
        notes.append(f"{len(rows) - len(finite)} of {len(rows)} inputs hold a NaN or an infinity")
    alone = _distinct(finite)
    if len(alone) < len(finite):
        notes.append(f"narrow inputs, {len(alone)} different among {len(finite)}")
    least = LEAST_ROWS + LEAST_JUDGES
    if len(alone) < least:
        raise JobRefused(
            f"inputs must hold at least {least} different rows, {LEAST_ROWS} to learn from and "
            f"{LEAST_JUDGES} to judge by, got {len(alone)}; give more of what the model is asked"
            + "".join(f" ({note})" for note in notes)
        )
    count = min(max(LEAST_JUDGES, round(_HELD_OUT * len(alone))), _MOST_JUDGES)
    order = np.random.default_rng([seed, 29]).permutation(len(alone))
    held_out, training = [[alone[i] for i in part] for part in (order[:count], order[count:])]
    size = min(_ROWS, max(1, len(training) // _LEAST_BATCHES))
    corpus = Corpus(
        _shuffled(batched(signature, training, size), seed),
        _shuffled(batched(signature, held_out, size), seed),
    )
    lengths = tuple(_length(signature, row) for row in alone)
    return Inputs(corpus, tuple(Batch(tuple(row)) for row in held_out), lengths, tuple(notes))


def _shuffled(batches: Sequence[Batch], seed: int) -> tuple[Batch, ...]:
    """In another order than by length, so that any first few are like the rest."""
    order = np.random.default_rng([seed, 31]).permutation(len(batches))
    return tuple(batches[i] for i in order)


def _rows(signature: Signature, example: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Each row of a request alone; the request itself where rows may not be taken apart."""
    if not (signature.batchable and signature.has_rows):
        return [tuple(example)]
    axes = [spec.axis("rows") for spec in signature.inputs]
    count = next(
        leaf.shape[axis] for leaf, axis in zip(example, axes, strict=True) if axis is not None
    )
    return [
        tuple(
            leaf if axis is None else leaf.narrow(axis, row, 1)
            for leaf, axis in zip(example, axes, strict=True)
        )
        for row in range(count)
    ]


def _is_finite(row: Sequence[Tensor]) -> bool:
    return all(bool(leaf.isfinite().all()) for leaf in row if leaf.is_floating_point())


def _distinct(rows: Sequence[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    found: dict[bytes, tuple[Tensor, ...]] = {}
    for row in rows:
        found.setdefault(b"".join(_bytes(leaf) for leaf in row), row)
    return list(found.values())


def _bytes(leaf: Tensor) -> bytes:
    plain = leaf.detach().cpu().contiguous().reshape(-1)
    return f"{tuple(leaf.shape)}".encode() + plain.view(torch.uint8).numpy().tobytes()


def _length(signature: Signature, row: Sequence[Tensor]) -> int:
    for spec, leaf in zip(signature.inputs, row, strict=True):
        if (axis := spec.axis("length")) is not None:
            return int(leaf.shape[axis])
    return 1
