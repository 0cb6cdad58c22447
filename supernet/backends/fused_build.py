"""Building a fused plan: the captured program, its regions, its precisions, its files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.export import ExportedProgram

from profiler.shapes import Shape
from supernet.backends.aoti import AotiBackend
from supernet.backends.base import ABOUT, Source
from supernet.backends.fused_plan import RECIPE, FusedPlan, offered
from supernet.errors import BuildFailed
from supernet.fidelity import Limit
from supernet.fusion.graph.op_graph import OpGraph
from supernet.fusion.graph.regions import Region
from supernet.fusion.kernels import attention, native
from supernet.fusion.kernels.quantization import Rounding
from supernet.fusion.lowering.lowering import functional, lower
from supernet.fusion.lowering.stored_graph import write_graph
from supernet.fusion.precision.mixed_precision import Mixing
from supernet.fusion.rules.rules import apply_fusion_rules, is_compiled, rules_of
from supernet.plans import PlanSpec

__all__ = ["REGIONS", "build", "captured", "plan_of", "roundings"]

REGIONS = "regions.json"
_TYPICAL = Shape(4, 32)


def build(source: Source, spec: PlanSpec, out: Path) -> None:
    """Write the lowered program, its regions and a line about them into ``out``."""
    program, graph = captured(source)
    why_not = native.prepare(source.kernels)
    found = apply_fusion_rules(graph, rules_of(spec.fusion))
    regions = [list(region.ops) for region in found.regions]
    rounded = roundings(program, regions, source, spec)
    lowered = lower(program, regions, rounded)
    attentions = attention.put_in(lowered.module)
    if not lowered.kernels:
        raise BuildFailed("nothing to fuse: no product or convolution with fixed weights")
    saved = sum(found.bytes_saved(Region("kernel", ops)) for ops in lowered.kernels)
    counts = Counter(rounding.kind for rounding in rounded.values())
    told = "".join(f", {n} products in {kind}" for kind, n in sorted(counts.items()))
    kinds = Counter(pack.kind for pack in lowered.packs.values() if why_not is None)
    products, convolutions = kinds["product"], kinds["winograd"]
    ours = {"products": products, "attentions": attentions, "convolutions": convolutions}
    if why_not is not None:
        told += f", no kernels of evolve's own ({why_not})"
    elif parts := ", ".join(f"{n} {what}" for what, n in ours.items() if n):
        told += f", {parts} by its own kernels"
    calls: Sequence[Sequence[str]] = ()
    if is_compiled(spec.fusion):
        from supernet.fusion.lowering.subgraphs import compile_stretches

        if (why := AotiBackend().unavailable()) is not None:
            raise BuildFailed(f"nothing can be compiled: {why}")
        calls, different = compile_stretches(lowered, out)
        told += f", {len(calls)} stretches compiled, {different} of them different"
    shape = graph.shape
    about = (
        f"{len(graph.ops())} ops in {len(regions)} regions ({spec.fusion}), "
        f"{len(lowered.kernels) - products - convolutions} of them oneDNN kernels{told}; "
        f"{saved / 2**20:.1f} MiB less written per batch of {shape.rows} × {shape.length}"
    )
    write_graph(lowered.module, lowered.packs, out)
    how = {
        "regions": regions,
        "rounded": {name: rounding.to_json() for name, rounding in rounded.items()},
        "compiled": calls,
        "own_kernels": why_not is None,
    }
    (out / REGIONS).write_text(json.dumps(how))
    (out / ABOUT).write_text(about, encoding="utf-8")


def captured(source: Source) -> tuple[ExportedProgram, OpGraph]:
    """The program as regions are made of it, and its graph at a typical shape."""
    program = functional(source.program())
    rows = _TYPICAL.rows if source.signature.has_rows else 1
    length = _TYPICAL.length if source.signature.has_length else 1
    shape = Shape(rows, max(length, source.signature.min_length))
    return program, OpGraph.of(program, source.signature, shape)


def plan_of(
    program: ExportedProgram, regions: Sequence[Sequence[str]], rounded: Mapping[str, Rounding]
) -> FusedPlan:
    """The plan that these regions make, ready to run."""
    module = lower(program, regions, rounded).module
    attention.put_in(module)
    return FusedPlan(module)


def roundings(
    program: ExportedProgram, regions: Sequence[Sequence[str]], source: Source, spec: PlanSpec
) -> Mapping[str, Rounding]:
    """The matrix products to compute in bf16, int8 or with weights in fp16; none where the plan is
    float throughout."""
    if spec.precision != "mixed":
        return {}
    kinds, limit = offered(spec.isa), Limit.parse(spec.limit)
    alike = is_compiled(spec.fusion)  # equal layers are compiled once
    mixing = Mixing(program, source.references(), kinds, alike=alike)
    of = "alike" if alike else "each"
    name = f"ranking-r{RECIPE}-{of}-{'-'.join(kinds)}-{limit.metric}-{limit.most:g}"
    ranking = source.remembered(name, lambda: mixing.ranking(limit))
    chosen = mixing.choose(
        [(product, kind) for product, kind in ranking],
        lambda rounded: plan_of(program, regions, rounded).run,
        limit,
        halves=native.kernels() is not None,
    )
    if not chosen:
        raise BuildFailed(f"no product can be rounded within {spec.limit}")
    return chosen
