"""The one door to torch's private oneDNN operators: packed weights, fused activations.

They are what TorchInductor itself calls for frozen models (torch/_inductor/fx_passes/
mkldnn_fusion.py); oneDNN's post-ops are described at
https://uxlfoundation.github.io/oneDNN/dev_guide_attributes_post_ops.html. Looked up, not assumed:
`unavailable` says why a torch or a machine is without them, and the eager ops stay in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

__all__ = [
    "AFTER_SUM",
    "IN_INT8",
    "PostOp",
    "activation_of",
    "convolution",
    "convolution_sum",
    "convolution_sum_into",
    "linear",
    "linear_int8",
    "of_sum",
    "pack_convolution",
    "pack_int8",
    "pack_linear",
    "unavailable",
    "without_int8",
]

_NAMES = (
    "_linear_pointwise",
    "_reorder_linear_weight",
    "_convolution_pointwise",
    "_convolution_pointwise_",
    "_reorder_convolution_weight",
)


# The activations that torch applies to an int8 product.
IN_INT8 = ("none", "relu", "gelu", "tanh", "swish", "hardswish", "hardtanh")
# The only activation that torch applies to a sum.
AFTER_SUM = ("relu",)


def unavailable() -> str | None:
    """Why oneDNN operators cannot be used here, in one line; None if they can."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "this torch was built without oneDNN"
    missing = [name for name in _NAMES if not hasattr(torch.ops.mkldnn, name)]
    if missing:
        return f"torch {torch.__version__} has no mkldnn.{missing[0]}"
    try:
        _trial()
    except (RuntimeError, TypeError) as error:
        return f"torch {torch.__version__} takes other arguments: {str(error).splitlines()[0]}"
    return None


def without_int8() -> str | None:
    """Why int8 products cannot be used here, in one line; None if they can."""
    try:
        ones, step = torch.ones(4, 16, dtype=torch.uint8), torch.ones(16)
        packed = pack_int8(torch.ones(16, 16, dtype=torch.int8))
        weighted = (packed, step, torch.zeros(16, dtype=torch.int64), None)
        for name in IN_INT8:
            scalars = (0.0, 6.0) if name == "hardtanh" else ()
            rest = PostOp(name, scalars, "none" if name == "gelu" else "").arguments()
            linear_int8()(ones, 1.0, 0, *weighted, 1.0, 0, torch.float32, *rest)
    except (AttributeError, RuntimeError, TypeError) as error:
        return f"torch {torch.__version__} has no such int8 products: {str(error).splitlines()[0]}"
    return None


def _trial() -> None:
    x = torch.ones(2, 16)
    linear()(x, pack_linear(torch.ones(16, 16)), None, *PostOp("relu").arguments())
    image, weight = torch.ones(1, 8, 4, 4), torch.ones(8, 8, 3, 3)
    where = ([1, 1], [1, 1], [1, 1], 1)
    packed = pack_convolution(weight, *where)
    convolution()(image, packed, None, *where, *PostOp().arguments())
    for name in (PostOp().name, *AFTER_SUM):
        rest = of_sum(PostOp(name))
        convolution_sum()(image, image, packed, None, *where, *rest)
        convolution_sum_into()(image, image, packed, None, *where, *rest)


@dataclass(frozen=True, slots=True)
class PostOp:
    """An elementwise function that oneDNN applies while the result is still in a register."""

    name: str = "none"
    scalars: tuple[float, ...] = ()
    algorithm: str = ""

    def arguments(self) -> tuple[str, list[float], str]:
        return self.name, list(self.scalars), self.algorithm


def activation_of(node: Node) -> PostOp | None:
    """The fused form of an activation node of a captured graph; None for any other node."""
    make = _ACTIVATIONS.get(str(node.target))
    return None if make is None else make(node)


def _gelu(node: Node) -> PostOp:
    approximate = node.kwargs.get("approximate", node.args[1] if len(node.args) > 1 else "none")
    return PostOp("gelu", algorithm=str(approximate))


def _hardtanh(node: Node) -> PostOp | None:
    given = dict(zip(("input", "min_val", "max_val"), node.args, strict=False)) | node.kwargs
    return _clipped(given.get("min_val", -1.0), given.get("max_val", 1.0))


def _clipped(least: Any, most: Any) -> PostOp | None:
    numbers = isinstance(least, (int, float)) and isinstance(most, (int, float))
    if not numbers or not (math.isfinite(least) and math.isfinite(most)):
        return None
    return PostOp("hardtanh", (float(least), float(most)))


def _plain(name: str) -> Callable[[Node], PostOp]:
    return lambda node: PostOp(name)


_ACTIVATIONS: dict[str, Callable[[Node], PostOp | None]] = {
    "aten.relu.default": _plain("relu"),
    "aten.sigmoid.default": _plain("sigmoid"),
    "aten.tanh.default": _plain("tanh"),
    "aten.silu.default": _plain("swish"),
    "aten.hardswish.default": _plain("hardswish"),
    "aten.gelu.default": _gelu,
    "aten.relu6.default": lambda node: PostOp("hardtanh", (0.0, 6.0)),
    "aten.hardtanh.default": _hardtanh,
}


def linear() -> Any:
    """``(x, packed, bias, activation, scalars, algorithm) -> y``."""
    return torch.ops.mkldnn._linear_pointwise.default


def linear_int8() -> Any:
    """``(quantized x, its scale, its zero, packed, scales, zeros, bias, 1.0, 0, float32,
    activation, scalars, algorithm) -> y``."""
    return torch.ops.onednn.qlinear_pointwise.default


def convolution() -> Any:
    """``(x, packed, bias, padding, stride, dilation, groups, activation, …) -> y``."""
    return torch.ops.mkldnn._convolution_pointwise.default


def convolution_sum() -> Any:
    """``(x, addend, packed, bias, padding, stride, dilation, groups, *of_sum(…)) -> y``."""
    return torch.ops.mkldnn._convolution_pointwise.binary


def convolution_sum_into() -> Any:
    """The same with ``addend`` and ``x`` changed about: the result is written over ``addend``."""
    return torch.ops.mkldnn._convolution_pointwise_.binary


def of_sum(activation: PostOp) -> tuple[Any, ...]:
    """The arguments that ask for ``activation``, one of ``AFTER_SUM`` or none, of the sum."""
    return "add", 1.0, activation.name if activation.name in AFTER_SUM else None, [], ""


def pack_linear(weight: Tensor) -> Tensor:
    """``[out, in]`` in the layout that oneDNN's matrix product reads fastest."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return packed


def pack_int8(weight: Tensor) -> Tensor:
    """``[out, in]`` int8 in the layout that oneDNN's int8 product reads fastest."""
    packed: Tensor = torch.ops.onednn.qlinear_prepack(weight.contiguous(), None)
    return packed


def pack_convolution(
    weight: Tensor,
    padding: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
    sizes: list[int] | None = None,
) -> Tensor:
    """``[out, in / groups, *kernel]`` in the layout that oneDNN's convolution reads fastest.

    ``sizes`` of a typical input: without them the layout is guessed, and some layers of a ResNet-50
    then take up to twenty times as long.
    """
    packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
        weight.contiguous(), padding, stride, dilation, groups, sizes
    )
    return packed
