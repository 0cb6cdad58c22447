"""The captured program in regions, each on oneDNN's fused kernels where there is one.

Which ops run as one is the plan's own choice (``PlanSpec.fusion``), not the engine's; so is the
precision of each matrix product. Nothing is compiled ahead: weights are packed when the plan is
loaded, in a fraction of a second.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch.export import ExportedProgram

from profiler.shapes import Shape
from supernet.backends.base import ABOUT, Source, check_run
from supernet.backends.eager import load_program, save_program
from supernet.errors import BuildFailed
from supernet.fidelity import Limit
from supernet.fusion import onednn
from supernet.fusion.graph import OpGraph
from supernet.fusion.lowering import functional, lower
from supernet.fusion.mixing import Mixing
from supernet.fusion.regions import Region
from supernet.fusion.rounding import Rounding, kinds
from supernet.fusion.rules import FusionChoice, apply_fusion_rules
from supernet.plans import PlanSpec
from supernet.signature import Signature

__all__ = ["FusedBackend", "FusedPlan", "captured", "roundings"]

_PROGRAM = "program.pt2"
_REGIONS = "regions.json"
_RECIPE = 4  # raise it when the same spec would be lowered or rounded otherwise
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
        return ("fp32", "mixed") if _kinds(isa) else ("fp32",)

    def supports(self, signature: Signature) -> str | None:
        if signature.device != "cpu":
            return f"it runs on the CPU, and the model is on {signature.device}"
        for spec in (*signature.inputs, *signature.outputs):
            if "float" in spec.dtype and spec.dtype != "float32":
                return f"it fuses float32 only, and {spec.name} is {spec.dtype}"
        return None

    def build(self, source: Source, spec: PlanSpec, out: Path) -> None:
        torch.set_num_threads(spec.threads)
        program, graph = captured(source)
        found = apply_fusion_rules(graph, FusionChoice(tuple(spec.fusion.split("+"))))
        regions = [list(region.ops) for region in found.regions]
        rounded = roundings(program, regions, source, spec)
        kernels = lower(program, regions, rounded).kernels
        if not kernels:
            raise BuildFailed("nothing to fuse: no product or convolution with fixed weights")
        saved = sum(found.bytes_saved(Region("kernel", ops)) for ops in kernels)
        counts = Counter(rounding.kind for rounding in rounded.values())
        told = "".join(f", {n} products in {kind}" for kind, n in sorted(counts.items()))
        about = (
            f"{len(graph.ops())} ops in {len(regions)} regions ({spec.fusion}), "
            f"{len(kernels)} of them oneDNN kernels{told}; {saved / 2**20:.1f} MiB less written "
            f"per batch of {graph.shape.rows} × {graph.shape.length}"
        )
        how = {"regions": regions, "rounded": {n: r.to_json() for n, r in rounded.items()}}
        save_program(program, out / _PROGRAM)
        (out / _REGIONS).write_text(json.dumps(how))
        (out / ABOUT).write_text(about, encoding="utf-8")

    def load(self, artifact: Path, spec: PlanSpec) -> FusedPlan:
        how = json.loads((artifact / _REGIONS).read_text(encoding="utf-8"))
        rounded = {name: Rounding.from_json(data) for name, data in how["rounded"].items()}
        return FusedPlan(load_program(artifact / _PROGRAM), how["regions"], rounded)


class FusedPlan:
    """The lowered program with its packed weights."""

    arrays: Literal["torch"] = "torch"

    def __init__(
        self,
        program: ExportedProgram,
        regions: Sequence[Sequence[str]],
        rounded: Mapping[str, Rounding],
    ) -> None:
        module = lower(program, regions, rounded).module
        self._wanted = sum(node.op == "placeholder" for node in module.graph.nodes)
        self._module: torch.fx.GraphModule | None = module

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


def captured(source: Source) -> tuple[ExportedProgram, OpGraph]:
    """The program as regions are made of it, and its graph at a typical shape."""
    program = functional(source.program())
    rows = _TYPICAL.rows if source.signature.has_rows else 1
    length = _TYPICAL.length if source.signature.has_length else 1
    shape = Shape(rows, max(length, source.signature.min_length))
    return program, OpGraph.of(program, source.signature, shape)


def _kinds(isa: str) -> tuple[str, ...]:
    able = kinds(isa)
    return able if onednn.without_int8() is None else tuple(k for k in able if k != "int8")


def roundings(
    program: ExportedProgram, regions: Sequence[Sequence[str]], source: Source, spec: PlanSpec
) -> Mapping[str, Rounding]:
    """The matrix products to compute in bf16 or int8; none where the plan is float throughout."""
    if spec.precision != "mixed":
        return {}
    offered, limit = _kinds(spec.isa), Limit.parse(spec.limit)
    mixing = Mixing(program, source.references(), offered)
    name = f"ranking-r{_RECIPE}-{'-'.join(offered)}-{limit.metric}-{limit.most:g}"
    ranking = source.remembered(name, lambda: mixing.ranking(limit))
    chosen = mixing.choose(
        [(product, kind) for product, kind in ranking],
        lambda rounded: FusedPlan(program, regions, rounded).run,
        limit,
    )
    if not chosen:
        raise BuildFailed(f"no product can be rounded within {spec.limit}")
    return chosen
