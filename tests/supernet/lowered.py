"""What tests of lowering ask: which regions, which kernels, the same answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from profiler.shapes import Shape
from supernet.capture import Capture, capture
from supernet.fidelity import error
from supernet.fusion.graph import OpGraph
from supernet.fusion.lowering import functional, lower
from supernet.fusion.rules import FusionChoice, apply_fusion_rules


def regions(learned: Capture, program: ExportedProgram, *rules: str) -> list[tuple[str, ...]]:
    graph = OpGraph.of(program, learned.signature, Shape(2, 1))
    return [r.ops for r in apply_fusion_rules(graph, FusionChoice(rules)).regions]


def targets(module: torch.fx.GraphModule) -> list[str]:
    return [str(node.target) for node in module.graph.nodes if node.op == "call_function"]


def check(
    model: nn.Module, x: Tensor, kernels: set[tuple[str, ...]] | None, *rules: str
) -> torch.fx.GraphModule:
    """`model` on `x` gives the same, with these fused kernels (None: any); the lowered program."""
    learned = capture(model, (x,))
    program = functional(learned.program)
    lowered = lower(program, regions(learned, program, *rules))
    assert kernels is None or set(lowered.kernels) == kernels
    with torch.no_grad():
        assert error("relative_l2", lowered.module(x), [model(x)]) < 1e-5
    return lowered.module
