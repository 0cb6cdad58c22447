"""Weights in the layouts that kernels read fastest, made when a plan is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from supernet.fusion.kernels import onednn, product, winograd

__all__ = ["Pack"]


@dataclass(frozen=True, slots=True)
class Pack:
    """A weight that is to be packed: ``kind`` is "linear", "product", "int8", "convolution" or
    "winograd".

    ``where``: the other arguments of the packing function, of convolutions only.
    """

    kind: str
    weight: Tensor
    where: tuple[Any, ...] = ()

    def packed(self) -> Tensor:
        if self.kind == "winograd":
            return winograd.pack(self.weight, *self.where)
        if self.kind == "product":
            return product.pack(self.weight)
        if self.kind == "convolution":
            return onednn.pack_convolution(self.weight, *self.where)
        if self.kind == "int8":
            return onednn.pack_int8(self.weight)
        return onednn.pack_linear(self.weight)
