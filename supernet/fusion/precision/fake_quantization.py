"""Fake quantisation: what rounding a product would do to the answers, without any kernel for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from supernet.fusion.kernels.quantization import Rounding, scales
from supernet.fusion.lowering.linear import Rewrite, is_product, weight_of

__all__ = ["Emulation"]


class Emulation(Interpreter):
    """A bound program, run in float with single products rounded: for judging, not for speed."""

    def __init__(self, work: Rewrite) -> None:
        super().__init__(work.module)
        self._work = work
        self._rounded: Mapping[str, Rounding] = {}
        self._seen: dict[str, tuple[float, float]] | None = None

    def answers(self, inputs: Sequence[Tensor], rounded: Mapping[str, Rounding]) -> list[Tensor]:
        """Flat outputs with the named products rounded."""
        self._rounded = rounded
        with torch.no_grad():
            return list(self.run(*inputs))

    def ranges(self, batches: Sequence[Sequence[Tensor]]) -> dict[str, tuple[float, float]]:
        """Smallest and largest input of every product over these batches, 0 included."""
        self._seen = {}
        try:
            for inputs in batches:
                self.answers(inputs, {})
            return self._seen
        finally:
            self._seen = None

    def run_node(self, node: Node) -> Any:
        rounding = self._rounded.get(node.name)
        if rounding is None and (self._seen is None or not is_product(self._work, node)):
            return super().run_node(node)
        x = self.fetch_args_kwargs_from_env(node)[0][0]
        if self._seen is not None:
            low, high = self._seen.get(node.name, (0.0, 0.0))
            least, most = (float(bound) for bound in x.aminmax())
            self._seen[node.name] = min(low, least), max(high, most)
        if rounding is None:
            return super().run_node(node)
        bias = self._work.tensor(node.args[2]) if len(node.args) > 2 else None
        return _emulated(x, weight_of(self._work, node), bias, rounding)


def _emulated(x: Tensor, weight: Tensor, bias: Tensor | None, rounding: Rounding) -> Tensor:
    if rounding.kind == "bf16":
        x, weight = x.bfloat16().float(), weight.bfloat16().float()
        bias = None if bias is None else bias.bfloat16().float()
        return torch.nn.functional.linear(x, weight, bias).bfloat16().float()
    step = scales(weight)[:, None]
    held = (x / rounding.scale + rounding.zero).round().clamp(0, 255)
    near = (held - rounding.zero) * rounding.scale
    return torch.nn.functional.linear(near, (weight / step).round() * step, bias)
