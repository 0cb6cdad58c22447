"""What tests of lowering ask: which regions, which kernels, the same answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from profiler.shapes import Shape
from supernet.capture.subject import Capture, capture
from supernet.fidelity import error
from supernet.fusion.graph.op_graph import OpGraph
from supernet.fusion.kernels.quantization import Rounding
from supernet.fusion.lowering.lowering import functional, lower
from supernet.fusion.rules.rules import FusionChoice, apply_fusion_rules


class Block(nn.Module):
    """A transformer layer with separate q, k, v, whose activation and norm are the usual ones."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width, bias=i != 1) for i in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        parts = [
            layer(x).view(rows, length, self.heads, -1).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        ]
        seen = torch.nn.functional.scaled_dot_product_attention(*parts)
        seen = seen.transpose(1, 2).reshape(rows, length, width)
        x = self.first(x + self.dropout(self.out(seen)))
        return self.second(x + self.down(torch.nn.functional.gelu(self.up(x))))


def answers(
    program: ExportedProgram,
    parts: Sequence[Sequence[str]],
    *x: Tensor,
    rounded: Mapping[str, Rounding] | None = None,
) -> list[Tensor]:
    with torch.no_grad():
        return list(lower(program, parts, rounded or {}).module(*x))


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
