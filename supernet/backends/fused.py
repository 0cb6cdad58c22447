"""The captured program in regions, each on oneDNN's fused kernels where there is one.

Which ops run as one is the plan's own choice (``PlanSpec.fusion``), not the engine's; so is the
precision of each matrix product. Weights are packed when the plan is loaded, in a fraction of a
second. Nothing is compiled ahead, but where the choice ends in `COMPILED`: then what is left to
torch is, once per form. What a worker needs is here; `supernet.fusion.building` makes the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch.fx import GraphModule

from supernet.backends.base import Source, check_run
from supernet.domain.engine import Engine, words
from supernet.fusion import onednn
from supernet.fusion.rounding import kinds
from supernet.fusion.stored_graph import read_graph
from supernet.plans import COMPILED, PlanSpec
from supernet.signature import Signature

__all__ = ["ENGINE", "RECIPE", "FusedBackend", "FusedPlan", "offered"]

RECIPE = 14
"""Raised when the same spec would be lowered, rounded or stored otherwise."""

ENGINE = Engine(
    drops_nan=words(
        """relu relu6 hardtanh hardswish hardsigmoid leaky_relu elu clamp clamp_min clamp_max
        max_pool1d max_pool2d"""
    )
)
"""What oneDNN's kernels do otherwise: activations and maxima take a NaN for the least number."""


class FusedBackend:
    """Regions by fusion rules, kernels by oneDNN, the rest by torch."""

    name = "fused"
    needs_torch = True
    recompiles = True  # oneDNN makes its kernels per shape: 2 to 5 ms on MiniLM

    def unavailable(self) -> str | None:
        return onednn.unavailable()

    def version(self) -> str:
        return f"{torch.__version__}-r{RECIPE}"

    def precisions(self, isa: str) -> tuple[str, ...]:
        return ("fp32", "mixed") if offered(isa) else ("fp32",)

    def supports(self, signature: Signature) -> str | None:
        if signature.device != "cpu":
            return f"it runs on the CPU, and the model is on {signature.device}"
        for spec in (*signature.inputs, *signature.outputs):
            if "float" in spec.dtype and spec.dtype != "float32":
                return f"it fuses float32 only, and {spec.name} is {spec.dtype}"
        return None

    def engine(self, fusion: str) -> Engine:
        if COMPILED not in fusion.split("+"):
            return ENGINE
        from supernet.backends.aoti import COMPILED_ENGINE

        return COMPILED_ENGINE

    def build(self, source: Source, spec: PlanSpec, out: Path) -> None:
        from supernet.fusion.building import build

        torch.set_num_threads(spec.threads)
        build(source, spec, out)

    def load(self, artifact: Path, spec: PlanSpec) -> FusedPlan:
        return FusedPlan(read_graph(artifact))


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
