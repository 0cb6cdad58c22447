"""The captured program in regions, each on oneDNN's fused kernels where there is one.

Which ops run as one is the plan's own choice (``PlanSpec.fusion``), not the engine's; so is the
precision of each matrix product. Nothing is compiled ahead: weights are packed when the plan is
loaded, in a fraction of a second.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch.export import ExportedProgram

from profiler.shapes import Shape
from supernet.backends.base import ABOUT, Source, check_run
from supernet.backends.eager import load_program, save_program
from supernet.errors import BuildFailed
from supernet.fidelity import Limit, judge
from supernet.fusion import onednn
from supernet.fusion.graph import OpGraph
from supernet.fusion.lowering import functional, lower, products
from supernet.fusion.regions import Region
from supernet.fusion.rules import FusionChoice, apply_fusion_rules
from supernet.fusion.sensitivity import longest_prefix, rank
from supernet.plans import PlanSpec
from supernet.signature import Signature

__all__ = ["FusedBackend", "FusedPlan"]

_PROGRAM = "program.pt2"
_REGIONS = "regions.json"
_RECIPE = 3  # raise it when the same spec would be lowered or rounded otherwise
# Of the limit on the reference batches; the rest is for traffic that is worse than they are.
_MARGIN = 0.5
_RANKED_BY = 4  # references: the order needs fewer than the verdict
_BF16 = ("avx512_bf16", "amx_bf16")
_TYPICAL = Shape(4, 32)


class FusedBackend:
    """Regions by fusion rules, kernels by oneDNN, the rest by torch."""

    name = "fused"
    needs_torch = True
    recompiles = True  # oneDNN makes its kernels per shape: 2 to 5 ms on MiniLM

    def unavailable(self) -> str | None:
        return onednn.unavailable()

    def version(self) -> str:
        return f"{torch.__version__}-r{_RECIPE}"

    def precisions(self, isa: str) -> tuple[str, ...]:
        # Without hardware for it, bf16 is emulated and slower than float.
        return ("fp32", "mixed") if any(name in isa for name in _BF16) else ("fp32",)

    def supports(self, signature: Signature) -> str | None:
        if signature.device != "cpu":
            return f"it runs on the CPU, and the model is on {signature.device}"
        for spec in (*signature.inputs, *signature.outputs):
            if "float" in spec.dtype and spec.dtype != "float32":
                return f"it fuses float32 only, and {spec.name} is {spec.dtype}"
        return None

    def build(self, source: Source, spec: PlanSpec, out: Path) -> None:
        torch.set_num_threads(spec.threads)
        program = functional(source.program())
        rows = _TYPICAL.rows if source.signature.has_rows else 1
        length = _TYPICAL.length if source.signature.has_length else 1
        shape = Shape(rows, max(length, source.signature.min_length))
        graph = OpGraph.of(program, source.signature, shape)
        found = apply_fusion_rules(graph, FusionChoice(tuple(spec.fusion.split("+"))))
        regions = [list(region.ops) for region in found.regions]
        rounded = _rounded(program, regions, source, spec)
        kernels = lower(program, regions, rounded).kernels
        if not kernels:
            raise BuildFailed("nothing to fuse: no product or convolution with fixed weights")
        saved = sum(found.bytes_saved(Region("kernel", ops)) for ops in kernels)
        about = (
            f"{len(graph.ops())} ops in {len(regions)} regions ({spec.fusion}), "
            f"{len(kernels)} of them oneDNN kernels, {len(rounded)} in bf16; "
            f"{saved / 2**20:.1f} MiB less written per batch of {shape.rows} × {shape.length}"
        )
        save_program(program, out / _PROGRAM)
        (out / _REGIONS).write_text(json.dumps({"regions": regions, "bf16": list(rounded)}))
        (out / ABOUT).write_text(about, encoding="utf-8")

    def load(self, artifact: Path, spec: PlanSpec) -> FusedPlan:
        how = json.loads((artifact / _REGIONS).read_text(encoding="utf-8"))
        return FusedPlan(load_program(artifact / _PROGRAM), how["regions"], how["bf16"])


class FusedPlan:
    """The lowered program with its packed weights."""

    arrays: Literal["torch"] = "torch"

    def __init__(
        self, program: ExportedProgram, regions: Sequence[Sequence[str]], bf16: Collection[str]
    ) -> None:
        module = lower(program, regions, bf16).module
        self._wanted = sum(node.op == "placeholder" for node in module.graph.nodes)
        self._module: torch.fx.GraphModule | None = module

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        check_run(inputs, self._wanted, is_open=self._module is not None)
        assert self._module is not None  # for the type checker: just checked
        with torch.no_grad():
            return [output.contiguous() for output in self._module.forward(*inputs)]

    def close(self) -> None:
        self._module = None


def _rounded(
    program: ExportedProgram, regions: Sequence[Sequence[str]], source: Source, spec: PlanSpec
) -> tuple[str, ...]:
    """The matrix products to compute in bf16; none where the plan is float throughout."""
    if spec.precision != "mixed":
        return ()
    limit = Limit.parse(spec.limit)
    references = source.references()

    def error(names: Collection[str], some: slice = slice(None)) -> float:
        plan = FusedPlan(program, regions, names)
        pairs = [(plan.run(inputs), answers) for inputs, answers in references[some]]
        return judge(limit.metric, pairs).worst

    few = slice(None, None, max(1, len(references) // _RANKED_BY))
    ranking = rank(products(program), lambda names: error(names, few))
    chosen = longest_prefix(ranking, error, _MARGIN * limit.most)
    if not chosen:
        raise BuildFailed(f"no product can be rounded within {spec.limit}")
    return chosen
