"""A fused plan as a worker runs it, and what its kernels do otherwise than torch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch.fx import GraphModule

from supernet.backends.base import check_run
from supernet.domain.engine import Engine, words
from supernet.fusion.kernels import onednn
from supernet.fusion.kernels.quantization import kinds

__all__ = ["ENGINE", "RECIPE", "FusedPlan", "offered"]

RECIPE = 14
"""Raised when the same spec would be lowered, rounded or stored otherwise."""

ENGINE = Engine(
    drops_nan=words(
        """relu relu6 hardtanh hardswish hardsigmoid leaky_relu elu clamp clamp_min clamp_max
        max_pool1d max_pool2d"""
    )
)
"""What oneDNN's kernels do otherwise: activations and maxima take a NaN for the least number."""


class FusedPlan:
    """A lowered program with its packed weights."""

    arrays: Literal["torch"] = "torch"

    def __init__(self, module: GraphModule) -> None:
        self._wanted = sum(node.op == "placeholder" for node in module.graph.nodes)
        self._module: GraphModule | None = module

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        check_run(inputs, self._wanted, is_open=self._module is not None)
        assert self._module is not None  # for the type checker: just checked
        with torch.no_grad():
            return [output.contiguous() for output in self._module.forward(*inputs)]

    def close(self) -> None:
        self._module = None

    @property
    def weight_bytes(self) -> int:
        """Of the weights it holds, packed or not."""
        held = () if self._module is None else (*self._module.buffers(), *self._module.parameters())
        return sum(tensor.numel() * tensor.element_size() for tensor in held)


def offered(isa: str) -> tuple[str, ...]:
    """The precisions below float that pay under ``isa`` and that this torch has kernels for."""
    able = kinds(isa)
    return able if onednn.without_int8() is None else tuple(k for k in able if k != "int8")
