"""Weights that several plans of one process hold: kept once, for as long as any plan needs them."""

from __future__ import annotations

import hashlib
import weakref

import torch
from torch import Tensor

from supernet.fusion.kernels.packing import Pack

__all__ = ["held"]

_HELD: weakref.WeakValueDictionary[str, Tensor] = weakref.WeakValueDictionary()


def held(weight: Tensor, pack: Pack | None = None) -> Tensor:
    """A copy of ``weight``, packed if asked for; an earlier plan's where that holds the same.

    A copy, because what was read from a file is a part of it, and would keep all of it in memory.
    Nobody may write to it. Plans are told apart by what they hold, not by where it came from: the
    digest of 90 MB takes a tenth of a second.
    """
    content = weight.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    how = (weight.dtype, tuple(weight.shape), pack and (pack.kind, pack.where))
    digest = hashlib.blake2b(repr(how).encode())
    digest.update(content.data)
    key = digest.hexdigest()
    known = _HELD.get(key)
    if known is None:
        known = _HELD[key] = weight.clone() if pack is None else pack.packed()
    return known
