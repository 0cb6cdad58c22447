"""A lowered program answers as the original, and fuses what its regions allow and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import ExportedProgram

from supernet.backends.base import backend, load_plan
from supernet.capture import Capture, capture
from supernet.errors import BuildFailed
from supernet.fidelity import Limit, error, judge
from supernet.fusion import onednn
from supernet.fusion.lowering import functional, lower, products
from supernet.fusion.rules import RULES
from supernet.fusion.sensitivity import longest_prefix, rank
from tests.supernet.contract import MemorySource, make_spec
from tests.supernet.lowered import check, regions, targets
from tests.supernet.models import Wrapped, noise, seeded

if (why := onednn.unavailable()) is not None:
    pytest.skip(why, allow_module_level=True)


rounds = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bfloat16 products"
)


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


@pytest.fixture(scope="module")
def block() -> Capture:
    return capture(seeded(Block), (noise(2, 6, 16),))


def answers(program: ExportedProgram, parts: Sequence[Sequence[str]], *x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return list(lower(program, parts).module(*x))


@given(st.sampled_from(list(permutations(RULES, 3))))
@settings(max_examples=25, deadline=None)
def test_whatever_is_fused_the_answers_stay(block: Capture, rules: tuple[str, ...]) -> None:
    program = functional(block.program)
    for reference in block.references:
        got = answers(program, regions(block, program, *rules), *reference.inputs)
        assert error("relative_l2", got, reference.outputs) < 1e-5


def test_a_region_of_one_op_fuses_nothing(block: Capture) -> None:
    lowered = lower(block.program, regions(block, block.program))
    assert sorted(len(kernel) for kernel in lowered.kernels) == [1] * 6
    assert "aten.gelu.default" in targets(lowered.module)


def test_qkv_are_one_product_and_gelu_moves_into_another(block: Capture) -> None:
    lowered = lower(block.program, regions(block, block.program, "qkv", "activation"))
    assert sorted(len(kernel) for kernel in lowered.kernels) == [1, 1, 2, 3]
    assert "aten.gelu.default" not in targets(lowered.module)
    assert targets(lowered.module).count("mkldnn._linear_pointwise.default") == 4


def test_the_program_is_left_as_it_was(block: Capture) -> None:
    before = str(block.program.graph)
    lower(block.program, regions(block, block.program, "qkv", "activation"))
    assert str(block.program.graph) == before


def test_packed_weights_take_the_place_of_the_originals(block: Capture) -> None:
    module = lower(block.program, regions(block, block.program, "qkv")).module
    held = [name for name, _ in [*module.named_buffers(), *module.named_parameters()]]
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    assert set(held) == used
    assert not [name for name in held if name.endswith("q_weight")]


@rounds
def test_only_named_products_are_rounded(block: Capture) -> None:
    names = list(products(block.program))
    assert len(names) == 6
    exact = answers(block.program, [[name] for name in names], *block.references[0].inputs)
    for name in names:
        with torch.no_grad():
            module = lower(block.program, [[n] for n in names], bf16=[name]).module
            rounded = list(module(*block.references[0].inputs))
        assert 1e-6 < error("relative_l2", rounded, exact) < 2e-2
        assert targets(module).count("aten.to.dtype") == 2


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (nn.ReLU(), "relu"), (nn.ReLU(inplace=True), "relu"), (nn.ReLU6(), "hardtanh"),
        (nn.Hardtanh(-0.5, 0.5), "hardtanh"), (nn.SiLU(), "silu"), (nn.Sigmoid(), "sigmoid"),
        (nn.Hardswish(), "hardswish"), (nn.GELU("tanh"), "gelu"), (nn.Tanh(), "tanh"),
    ],
)  # fmt: skip
def test_activations(activation: nn.Module, name: str) -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(8, 12), activation))
    check(model, 3 * noise(4, 8), {("linear", name)}, "activation")


def test_weights_computed_by_the_model_stay_with_torch() -> None:
    model = seeded(
        lambda: Wrapped(
            lambda m, x: torch.nn.functional.linear(x, torch.tanh(m.a.weight)), a=nn.Linear(8, 5)
        )
    )
    check(model, noise(2, 8), set(), "activation")


def test_products_are_ranked_by_error_per_weight() -> None:
    errors = {"small": 1e-3, "large": 2e-3, "bad": 1.0}
    order = rank({"small": 10, "large": 100, "bad": 10}, lambda names: errors[next(iter(names))])
    assert order == ["large", "small", "bad"]


@given(st.lists(st.floats(0.0, 1.0), max_size=12), st.floats(0.0, 3.0))
def test_the_prefix_taken_is_the_longest_within_the_limit(steps: list[float], most: float) -> None:
    ranking = [str(i) for i in range(len(steps))]
    judge = lambda names: sum(steps[: len(names)])  # noqa: E731
    taken = longest_prefix(ranking, judge, most)
    assert judge(taken) <= most
    assert len(taken) == len(steps) or judge(ranking[: len(taken) + 1]) > most


@rounds
def test_a_mixed_plan_rounds_what_its_limit_bears(block: Capture, tmp_path: Path) -> None:
    taken = []
    for most in (1e-3, 1e-1):
        spec = replace(make_spec(block, "fused", "mixed"), limit=str(Limit("relative_l2", most)))
        out = tmp_path / str(most)
        out.mkdir()
        backend("fused").build(MemorySource(block, tmp_path), spec, out)
        taken.append(json.loads((out / "regions.json").read_text())["bf16"])
        plan = load_plan(out, spec)
        pairs = [(plan.run(r.inputs), r.outputs) for r in block.references]
        assert 1e-5 < judge("relative_l2", pairs).worst <= 0.5 * most
        assert f"{len(taken[-1])} in bf16" in (out / "about.txt").read_text()
    assert 0 < len(taken[0]) < len(taken[1]) == 6


@rounds
def test_a_limit_that_no_product_bears_is_said(block: Capture, tmp_path: Path) -> None:
    spec = replace(make_spec(block, "fused", "mixed"), limit=str(Limit("relative_l2", 1e-6)))
    with pytest.raises(BuildFailed, match="no product can be rounded within relative_l2<=1e-06"):
        backend("fused").build(MemorySource(block, tmp_path), spec, tmp_path)


def test_a_model_with_nothing_to_fuse_is_said(tmp_path: Path) -> None:
    learned = capture(seeded(lambda: nn.LayerNorm(8)), (noise(2, 8),))
    with pytest.raises(BuildFailed, match="nothing to fuse"):
        backend("fused").build(
            MemorySource(learned, tmp_path), make_spec(learned, "fused"), tmp_path
        )
