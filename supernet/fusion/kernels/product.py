"""Matrix products by a kernel of ours, with weights in float or in fp16 (decision 0018).

The kernel is `product.cpp`. fp16 weights take half the memory and are made floats again on their
way into a register: all arithmetic is float's, so nothing but the weight is rounded. The same call
stays oneDNN's where the kernel cannot be had or a plan has several threads: how the weight was
packed decides.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from supernet.fusion.kernels import native, onednn
from supernet.fusion.kernels.onednn import PostOp

__all__ = ["fits", "multiply", "pack", "takes"]

_OUTPUTS = 64
"""Numbers of outputs are multiples of it: what the kernel computes side by side at most."""
_CLIPS = {"none": (-math.inf, math.inf), "relu": (0.0, math.inf)}
_CODES = {("swish", ""): 1, ("gelu", "none"): 2, ("gelu", "tanh"): 3}


def fits(weight: Tensor) -> bool:
    """Whether the kernel is for products with this `weight` [out, in]."""
    return weight.numel() > 0 and weight.shape[0] % _OUTPUTS == 0


def takes(activation: PostOp) -> bool:
    """Whether the kernel can apply it to the result."""
    clips = (*_CLIPS, "hardtanh")
    return activation.name in clips or (activation.name, activation.algorithm) in _CODES


def pack(weight: Tensor) -> Tensor:
    """`weight` [out, in], float or half, as [panel, in, outputs of a panel]; in float as oneDNN has
    it where the kernel cannot be used, which runs on one thread."""
    kernel = native.kernels()
    can = kernel is not None and torch.get_num_threads() == 1
    panel = kernel.evolve_product_panel(weight.dtype is torch.half) if can else 0  # type: ignore[union-attr]
    if not panel:
        return onednn.pack_linear(weight.float())
    out, taken = weight.shape
    return weight.reshape(out // panel, panel, taken).transpose(1, 2).contiguous()


def multiply(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    activation: str,
    scalars: list[float],
    algorithm: str,
) -> Tensor:
    """`activation(x w^T + bias)` of `x` [..., in] in float, with what `pack` made of w."""
    if packed.is_mkldnn:
        made: Tensor = onednn.linear()(x, packed, bias, activation, scalars, algorithm)
        return made
    kernel = native.kernels()
    assert kernel is not None  # it packed the weight
    panels, taken, panel = packed.shape
    x = x.contiguous()
    y = x.new_empty((*x.shape[:-1], panels * panel))
    least, most = scalars or _CLIPS.get(activation, (0.0, 0.0))
    kernel.evolve_product(
        x.data_ptr(), packed.data_ptr(), packed.dtype is torch.half,
        None if bias is None else bias.data_ptr(), y.data_ptr(),
        x.numel() // taken, taken, panels * panel,
        _CODES.get((activation, algorithm), 0), least, most,
    )  # fmt: skip
    return y
