"""Invented inputs that look like the examples where a model asks them to: masks stay masks.

A row of an attention's mask without any key has no defined answer, and engines differ there. Plans
are not judged by what nobody will ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from supernet.capture.dynamic_dims import vary

__all__ = ["MaskForm", "invented", "mask_form", "mask_forms"]

_FORBIDS = -1e4
"""What is added to a score to forbid it: this or less."""


@dataclass(frozen=True, slots=True)
class MaskForm:
    """What the rows (last dims) of a mask look like.

    ``ones``: where the ones of every row are. ``may_be_empty``, ``may_be_full``: whether a row of
    zeros, of ones, was seen. ``lowest``: None for ones and zeros; else the mask is added to scores,
    0 where it has a one and this where it has a zero.
    """

    ones: Literal["first", "last", "anywhere"]
    may_be_empty: bool
    may_be_full: bool
    lowest: float | None = None

    def draw(self, like: Tensor, rng: torch.Generator) -> Tensor:
        """Another mask of the shape, dtype and device of ``like``."""
        length = like.shape[-1]
        least = 0 if self.may_be_empty else 1
        most = length if self.may_be_full else max(length - 1, least)
        count = torch.randint(least, most + 1, like.shape[:-1], generator=rng)[..., None]
        place = torch.arange(length).expand(like.shape)
        if self.ones == "last":
            place = length - 1 - place
        elif self.ones == "anywhere":
            place = torch.rand(like.shape, generator=rng).argsort(-1).argsort(-1)
        drawn = place < count
        if self.lowest is not None:
            return torch.where(drawn, 0.0, self.lowest).to(like.dtype).to(like.device)
        return drawn.to(like.dtype).to(like.device)


def mask_forms(examples: Sequence[Sequence[Tensor]]) -> tuple[MaskForm | None, ...]:
    """The form of every leaf that is a mask in all the examples, None for the others."""
    return tuple(mask_form(leaves) for leaves in zip(*examples, strict=True))


def mask_form(leaves: Sequence[Tensor]) -> MaskForm | None:
    """The form that these have in common, None where they are no masks as far as can be told.

    >>> mask_form([torch.tensor([[1, 1, 0], [1, 1, 1]])])
    MaskForm(ones='first', may_be_empty=False, may_be_full=True, lowest=None)
    >>> mask_form([torch.tensor([[3, 1, 2]])]) is None
    True
    """
    masks = [_ones_of(leaf.detach().cpu()) for leaf in leaves]
    told = [mask for mask in masks if mask is not None]
    if len(told) < len(masks) or any(mask.ndim < 2 or not mask.numel() for mask in told):
        return None
    is_full = any(bool(mask.all(-1).any()) for mask in told)
    is_empty = any(bool((~mask.any(-1)).any()) for mask in told)
    if (is_full and is_empty) or not any(bool(mask.any()) for mask in told):
        return None  # numbers that happen to be 0 and 1, or a constant
    lowest = min(float(leaf.min()) for leaf in leaves) if leaves[0].is_floating_point() else None
    if lowest is not None and lowest > _FORBIDS:
        return None
    return MaskForm(_place(told), is_empty, is_full, lowest)


def _ones_of(leaf: Tensor) -> Tensor | None:
    """Where a mask has its ones, if these can be a mask's numbers."""
    if leaf.is_complex():
        return None
    if leaf.is_floating_point():
        ones = leaf == 0
        return ones if bool((ones | (leaf <= _FORBIDS)).all()) else None
    return leaf == 1 if bool(((leaf == 0) | (leaf == 1)).all()) else None


def _place(masks: Sequence[Tensor]) -> Literal["first", "last", "anywhere"]:
    if all(bool((mask[..., :-1] >= mask[..., 1:]).all()) for mask in masks):
        return "first"
    if all(bool((mask[..., :-1] <= mask[..., 1:]).all()) for mask in masks):
        return "last"
    return "anywhere"


def invented(leaves: Sequence[Tensor], forms: Sequence[MaskForm | None], seed: int) -> list[Tensor]:
    """Other contents of the same shapes, as `dynamic_dims.vary` makes them, and other masks."""
    rng = torch.Generator().manual_seed(seed)
    return [
        other if form is None else form.draw(leaf, rng)
        for leaf, other, form in zip(leaves, vary(leaves, seed), forms, strict=True)
    ]
