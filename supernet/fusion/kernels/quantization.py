"""Coarser arithmetic for single matrix products: bf16, and int8 within a calibrated range; and
weights alone in fp16, for products that bear neither (`supernet.fusion.kernels.product`).

int8 is static: the range of a product's input is taken from the reference batches, with some room,
so that the answer to one request never depends on who shares its batch, as it would with a scale
per batch. Weights have a scale per output channel (Jacob et al. 2018, arXiv:1712.05877;
Krishnamoorthi 2018, arXiv:1806.08342, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from supernet.errors import OutsideRange

__all__ = ["BITS", "CLIPPED", "HEADROOM", "Rounding", "kinds", "quantize", "scales"]

HEADROOM = 1.25
"""Of a range over what the reference batches show: live batches are many more."""
CLIPPED = 0.02
"""Of a row's norm, what may be cut off at the ends of the range: about what rounding costs."""
BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8}
_HARDWARE = {"bf16": ("avx512_bf16", "amx_bf16"), "int8": ("avx512_vnni", "avx_vnni", "amx_int8")}


def kinds(isa: str) -> tuple[str, ...]:
    """The roundings that pay where compiled code may use ``isa``; elsewhere they are emulated,
    and slower than float."""
    return tuple(kind for kind, names in _HARDWARE.items() if any(name in isa for name in names))


@dataclass(frozen=True, slots=True)
class Rounding:
    """How a product is computed: in ``"bf16"``, in ``"int8"`` of inputs from ``low`` to ``high``,
    or in float with weights in ``"fp16"``."""

    kind: str
    low: float = 0.0
    high: float = 0.0

    @property
    def scale(self) -> float:
        """Between two neighbours of the 256 values that stand for an input."""
        return max(self.high - self.low, 1e-12) / 255

    @property
    def zero(self) -> int:
        """The value that stands for 0."""
        return min(255, max(0, round(-self.low / self.scale)))

    def to_json(self) -> list[Any]:
        return [self.kind, self.low, self.high]

    @staticmethod
    def from_json(data: Sequence[Any]) -> Rounding:
        kind, low, high = data
        return Rounding(str(kind), float(low), float(high))


def scales(weight: Tensor) -> Tensor:
    """``[out]``: what one step of an int8 weight is worth, per output channel."""
    return weight.abs().amax(dim=1).clamp_min(1e-12) / 127


def quantize(x: Tensor, inverse: float, zero: float) -> Tensor:
    """``x`` in steps of ``1 / inverse`` from ``zero`` on, as uint8; what is beyond, at the ends.

    Raises `OutsideRange` where that is more than `CLIPPED` of a row (along the last dim), or where
    one is not finite, which a whole number cannot say.
    """
    steps = torch.add(torch.tensor(zero + 0.5), x, alpha=inverse)  # the cast rounds down
    low, high = (float(end) for end in steps.aminmax()) if steps.numel() else (0.0, 0.0)
    if low >= 0.0 and high < 256.0:  # as nearly always; a NaN is not
        return steps.to(torch.uint8)
    held = steps.clamp(0.0, 255.0)
    clipped = (steps - held).norm(dim=-1) if steps.ndim else (steps - held).abs()
    whole = (steps - (zero + 0.5)).norm(dim=-1) if steps.ndim else (steps - zero).abs()
    if not (math.isfinite(low) and math.isfinite(high) and (clipped <= CLIPPED * whole).all()):
        raise OutsideRange(
            "the input of an int8 product must lie within the range seen when it was calibrated"
        )
    return held.to(torch.uint8)
