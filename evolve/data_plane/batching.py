"""Batching: from several requests to one batch and back, without a caller noticing.

Rows are stacked along dimension "rows"; "length" dimensions are padded with zeros to the
bucket that the rule chose. Both are legal only because the capture proved them on the
original model (`Signature.batchable`, `Signature.paddable`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch

from evolve.errors import PlanFault
from supernet.guards import is_finite

if TYPE_CHECKING:
    from evolve.data_plane.request_queue import Request
    from supernet.domain.engine import Domain
    from supernet.signature import Dim, Signature, TensorSpec

__all__ = ["crop", "pad", "plausible", "split", "stack"]


def stack(requests: Sequence[Request], signature: Signature, length: int) -> list[torch.Tensor]:
    """The batch's input leaves, `[rows, length, ...]`, in signature order.

    A single request that already has the wanted length is passed through uncopied where its
    layout allows.
    """
    if len(requests) == 1 and requests[0].length == length:
        return [leaf.contiguous() for leaf in requests[0].leaves]
    if len(requests) == 1:
        return [
            pad(leaf, spec, length)
            for leaf, spec in zip(requests[0].leaves, signature.inputs, strict=True)
        ]
    rows = sum(request.rows for request in requests)
    return [
        _stack_leaf([request.leaves[i] for request in requests], spec, rows, length)
        for i, spec in enumerate(signature.inputs)
    ]


def pad(leaf: torch.Tensor, spec: TensorSpec, length: int) -> torch.Tensor:
    """`leaf` with zeros at the end of each length dimension; itself where it needs none."""
    # One call instead of three: it counts where a single caller waits.
    room: list[int] = []  # torch wants (before, after) from the last dimension to the first
    for dim, size in zip(reversed(spec.dims), reversed(leaf.shape), strict=True):
        room += (0, length - size if dim == "length" else 0)
    return torch.constant_pad_nd(leaf, room) if any(room) else leaf.contiguous()


def _stack_leaf(
    leaves: Sequence[torch.Tensor], spec: TensorSpec, rows: int, length: int
) -> torch.Tensor:
    sizes = {"rows": rows, "length": length}
    shape = [dim if isinstance(dim, int) else sizes[dim] for dim in spec.dims]
    if "length" not in spec.dims:
        return leaves[0] if len(leaves) == 1 else torch.cat(list(leaves), spec.dims.index("rows"))
    batch = leaves[0].new_zeros(shape)
    at = 0
    for leaf in leaves:
        where = tuple(
            slice(at, at + leaf.shape[d]) if dim == "rows" else slice(0, leaf.shape[d])
            for d, dim in enumerate(spec.dims)
        )
        batch[where] = leaf
        at += leaf.shape[spec.dims.index("rows")] if "rows" in spec.dims else 0
    return batch


def split(
    outputs: Sequence[torch.Tensor],
    requests: Sequence[Request],
    signature: Signature,
    length: int,
    *,
    lent: bool = False,
    held: Collection[int] = (),
) -> list[list[torch.Tensor]]:
    """Each request's own output leaves: its rows, cropped to its length, contiguous.

    Where the outputs are `lent` all are copied, otherwise only what is a part of a batch, and those
    of the indices `held`, which lie in memory that is computed with again.

    Raises `PlanFault` when the outputs are not those of the signature.
    """
    _check(outputs, signature, sum(request.rows for request in requests), length)
    if len(requests) == 1 and requests[0].length == length:
        copied = range(len(outputs)) if lent else held
        return [[leaf.clone() if i in copied else leaf for i, leaf in enumerate(outputs)]]
    answers: list[list[torch.Tensor]] = []
    at = 0
    for request in requests:
        answers.append(
            [
                crop(
                    leaf,
                    spec,
                    at,
                    request.rows,
                    request.length,
                    owned=len(requests) == 1 and not lent and i not in held,
                )
                for i, (leaf, spec) in enumerate(zip(outputs, signature.outputs, strict=True))
            ]
        )
        at += request.rows
    return answers


def _check(outputs: Sequence[torch.Tensor], signature: Signature, rows: int, length: int) -> None:
    if len(outputs) != len(signature.outputs):
        raise PlanFault(f"{len(outputs)} outputs where {len(signature.outputs)} are due")
    sizes: dict[Dim, int] = {"rows": rows, "length": length}
    for leaf, spec in zip(outputs, signature.outputs, strict=True):
        fits = leaf.ndim == len(spec.dims) and all(
            dim == "any" or size == sizes.get(dim, dim)
            for size, dim in zip(leaf.shape, spec.dims, strict=True)
        )
        if not fits or str(leaf.dtype) != f"torch.{spec.dtype}":
            raise PlanFault(
                f"{spec.name} is {leaf.dtype} {tuple(leaf.shape)} where torch.{spec.dtype} "
                f"{spec.dims} is due for {rows} rows of length {length}"
            )


def crop(
    leaf: torch.Tensor, spec: TensorSpec, at: int, rows: int, length: int, *, owned: bool = False
) -> torch.Tensor:
    """`rows` of a batch from `at` on, cut to `length`; copied unless `owned` and whole.

    A parameter, which the original returned, stays the very parameter.
    """
    if isinstance(leaf, torch.nn.Parameter):
        return leaf
    part = leaf
    for index, dim in enumerate(spec.dims):
        if dim == "rows":
            part = part.narrow(index, at, rows)
        elif dim == "length":
            part = part.narrow(index, 0, length)
    # A copy, so that one kept answer does not keep its whole batch in memory.
    return part if owned and "length" not in spec.dims else part.clone()


def plausible(leaves: Sequence[Any], domain: Domain) -> bool:
    """Whether no output leaf holds a NaN or an infinity that the model itself would not give."""
    for index, leaf in enumerate(leaves):
        if not (leaf.is_floating_point() or leaf.is_complex()) or is_finite(leaf):
            continue
        if index < len(domain.nan) and domain.nan[index]:
            continue
        if index < len(domain.infinite) and domain.infinite[index] and not leaf.isnan().any():
            continue
        return False
    return True
