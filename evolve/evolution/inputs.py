"""Inputs to learn from: read, cleaned, and parted into those to learn from and those that judge.

::

    rows, by a hash of each ─► 15 % judge tiers │ 10 % judge weights and the search │ the rest teach

What holds a NaN is left out, and what came more than once counts once. A row's part follows from
the row alone: what came in an earlier generation is of the same part again, so that nothing that
was learnt from ever judges. Too few are refused in words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from supernet.distillation.batches import Batch, Corpus, batched
from supernet.distillation.learning.ambition import LEAST_ROWS
from supernet.jobs.errors import JobRefused
from supernet.signature import Signature

__all__ = ["Inputs", "prepared", "read_inputs"]

LEAST_JUDGES = 8
"""Fewer rows held out say next to nothing: the lower end of an interval is far below its mean."""
LEAST_PROBES = 4
_JUDGES, _PROBES = 0.15, 0.1
_MOST = 256
_ROWS = 32
_LEAST_BATCHES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """`corpus` to learn from, which holds some out to choose weights by; `judges`: others, that
    judge tiers, each row alone and unpadded; `lengths` of all; `notes`: what was left out and why.
    """

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


def prepared(signature: Signature, examples: Sequence[Sequence[Tensor]]) -> Inputs:
    """Inputs that can be learnt from, out of flat inputs of one row or more each."""
    rows = [row for example in examples for row in _rows(signature, example)]
    finite = [row for row in rows if _is_finite(row)]
    notes = []
    if len(finite) < len(rows):
        notes.append(f"{len(rows) - len(finite)} of {len(rows)} inputs hold a NaN or an infinity")
    alone = _distinct(finite)
    if len(alone) < len(finite):
        notes.append(f"narrow inputs, {len(alone)} different among {len(finite)}")
    least = LEAST_ROWS + LEAST_PROBES + LEAST_JUDGES
    if len(alone) < least:
        raise JobRefused(
            f"inputs must hold at least {least} different rows, {LEAST_ROWS} to learn from and "
            f"{least - LEAST_ROWS} to judge by, got {len(alone)}; give more of what the model is "
            "asked" + "".join(f" ({note})" for note in notes)
        )
    judges, probes, training = _parted(alone)
    size = min(_ROWS, max(1, len(training) // _LEAST_BATCHES))
    corpus = Corpus(
        _shuffled(batched(signature, training, size)), _shuffled(batched(signature, probes, size))
    )
    lengths = tuple(_length(signature, row) for row in alone.values())
    return Inputs(corpus, tuple(Batch(row) for row in judges), lengths, tuple(notes))


def _parted(
    rows: Mapping[float, tuple[Tensor, ...]],
) -> tuple[list[tuple[Tensor, ...]], list[tuple[Tensor, ...]], list[tuple[Tensor, ...]]]:
    """Those that judge tiers, those that judge weights, those to learn from: by where in 0 to 1 a
    row's hash is, but for few rows, of which a least number is needed."""
    places = sorted(rows)
    count = len(places)
    first = sum(place < _JUDGES for place in places)
    second = sum(place < _JUDGES + _PROBES for place in places)
    judges = min(max(first, LEAST_JUDGES), max(LEAST_JUDGES, count // 4), _MOST)
    start = max(judges, min(first, count // 4))
    probes = min(max(second - start, LEAST_PROBES), max(LEAST_PROBES, count // 6), _MOST)
    end = max(start + probes, min(second, count // 3))
    ordered = [rows[place] for place in places]
    return ordered[:judges], ordered[start : start + probes], ordered[end:]


def _shuffled(batches: Sequence[Batch]) -> tuple[Batch, ...]:
    """In another order than by length, so that any first few are like the rest."""
    order = np.random.default_rng(31).permutation(len(batches))
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


def _distinct(rows: Sequence[tuple[Tensor, ...]]) -> dict[float, tuple[Tensor, ...]]:
    """Each once, by a hash of it as a number from 0 to 1, the same in every process."""
    found: dict[float, tuple[Tensor, ...]] = {}
    for row in rows:
        digest = hashlib.blake2b(digest_size=8)
        for leaf in row:
            digest.update(f"{tuple(leaf.shape)}".encode())
            plain = leaf.detach().cpu().contiguous().reshape(-1)
            digest.update(plain.view(torch.uint8).numpy().tobytes())
        found.setdefault(int.from_bytes(digest.digest(), "big") / 2**64, row)
    return found


def _length(signature: Signature, row: Sequence[Tensor]) -> int:
    for spec, leaf in zip(signature.inputs, row, strict=True):
        if (axis := spec.axis("length")) is not None:
            return int(leaf.shape[axis])
    return 1
