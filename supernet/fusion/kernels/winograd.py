"""3 x 3 convolutions by Winograd's algorithm: a quarter of the multiplications (decision 0016).

Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016 (arXiv:1509.09308), with
tiles of 4 x 4 outputs; the kernel is `winograd.cpp`. The same call stays oneDNN's where the kernel
cannot be had or a plan has several threads: how the weight was packed decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from supernet.fusion.kernels import native, onednn
from supernet.fusion.kernels.onednn import PostOp

__all__ = ["Where", "convolve", "fits", "pack", "takes"]

Where: TypeAlias = tuple[list[int], list[int], list[int], int]
"""Padding, stride and dilation, each per spatial dimension, and the groups."""

_CHANNELS = 16
"""Both numbers of channels are multiples of it: a vector of the widest kind."""
_OUT, _POINTS = 4, 36
_LEAST_TILES = 4
"""Of an image: with fewer of them, reading four times the weights costs more than it saves."""
# Lavin and Gray 2016, section 4.3: what a kernel is multiplied with from both sides.
_G = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
      (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))  # fmt: skip
_CLIPS = {"none": (-math.inf, math.inf), "relu": (0.0, math.inf)}


def fits(weight: Tensor, where: Where, image: Sequence[int] | None) -> bool:
    """Whether the kernel is for a convolution of this `weight` [out, in / groups, *kernel].

    `image`: the sizes of a typical input, None where they are not known.
    """
    padding, stride, dilation, groups = where
    if image is None or groups != 1 or tuple(weight.shape[2:]) != (3, 3):
        return False
    if [*stride, *dilation] != [1] * 4 or padding[0] != padding[1]:
        return False
    tiles = math.prod(-(-(size + 2 * padding[0] - 2) // _OUT) for size in image[2:])
    return tiles >= _LEAST_TILES and all(n % _CHANNELS == 0 for n in weight.shape[:2])


def takes(activation: PostOp) -> bool:
    """Whether the kernel can apply it: those that clip."""
    return activation.name in (*_CLIPS, "hardtanh")


def pack(weight: Tensor, *where: Any) -> Tensor:
    """`weight` [out, in, 3, 3] as [panel, 36, in, outputs of a panel]; as oneDNN has it where the
    kernel cannot be used, which runs on one thread.

    `where`: the other arguments of `onednn.pack_convolution`.
    """
    kernel = native.kernels()
    if kernel is None or torch.get_num_threads() > 1:
        return onednn.pack_convolution(weight, *where)
    out, taken = weight.shape[:2]
    panel = kernel.evolve_winograd_panel(out)
    g = torch.tensor(_G, dtype=torch.double)
    packed = torch.empty(out // panel, _POINTS, taken, panel)
    for part, outputs in zip(packed, torch.split(weight, panel), strict=True):
        part.copy_((g @ outputs.double() @ g.T).flatten(2).permute(2, 1, 0))
    return packed


def convolve(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    addend: Tensor | None,
    padding: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    scalars: list[float],
) -> Tensor:
    """A 3 x 3 convolution of `x` [image, in, row, column], channels last, with what `pack` made.

    What is added to it has the form of the result.
    """
    where = (padding, stride, dilation, groups)
    if packed.is_mkldnn:
        return _by_onednn(x, packed, bias, addend, where, PostOp(activation, tuple(scalars)))
    kernel = native.kernels()
    assert kernel is not None  # it packed the weight
    images, taken, height, width = x.shape
    rows, columns = height + 2 * padding[0] - 2, width + 2 * padding[0] - 2
    out = packed.shape[0] * packed.shape[3]
    made = x.new_empty((images, rows, columns, out))
    scratch = x.new_empty(kernel.evolve_winograd_scratch(taken, out))
    least, most = scalars or _CLIPS[activation]
    if addend is not None:
        addend = addend.contiguous(memory_format=torch.channels_last)
    after = (None if tensor is None else tensor.data_ptr() for tensor in (bias, addend))
    kernel.evolve_winograd(
        x.data_ptr(), packed.data_ptr(), *after, made.data_ptr(),
        images, height, width, taken, out, padding[0], least, most, scratch.data_ptr(),
    )  # fmt: skip
    return made.permute(0, 3, 1, 2)


def _by_onednn(
    x: Tensor, packed: Tensor, bias: Tensor | None, addend: Tensor | None, where: Where,
    activation: PostOp,
) -> Tensor:  # fmt: skip
    weighted = (packed, bias, *where)
    if addend is None:
        made: Tensor = onednn.convolution()(x, *weighted, *activation.arguments())
        return made
    summed: Tensor = onednn.convolution_sum()(x, addend, *weighted, *onednn.of_sum(activation))
    return summed
