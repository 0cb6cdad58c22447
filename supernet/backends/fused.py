"""The captured program in regions, each on oneDNN's fused kernels where there is one.

Which ops run as one is the plan's own choice (``PlanSpec.fusion``), not the engine's; so is the
precision of each matrix product. Weights are packed when the plan is loaded, in a fraction of a
second. Nothing is compiled ahead, but where the choice ends in `COMPILED`: then what is left to
torch is, once per form. A worker needs `fused_plan` alone; `fused_build` makes the plan.
"""

from __future__ import annotations

from pathlib import Path

import torch

from supernet.backends.base import Source
from supernet.backends.fused_plan import ENGINE, RECIPE, FusedPlan, offered
from supernet.domain.engine import Engine
from supernet.fusion.kernels import onednn
from supernet.fusion.lowering.stored_graph import read_graph
from supernet.plans import COMPILED, PlanSpec
from supernet.signature import Signature

__all__ = ["FusedBackend"]


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
        from supernet.backends.fused_build import build

        torch.set_num_threads(spec.threads)
        build(source, spec, out)

    def load(self, artifact: Path, spec: PlanSpec) -> FusedPlan:
        return FusedPlan(read_graph(artifact))
