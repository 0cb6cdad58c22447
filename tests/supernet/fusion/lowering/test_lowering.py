"""A lowered program answers as the original, and fuses what its regions allow and nothing else."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from supernet.backends.base import backend
from supernet.capture.subject import Capture, capture
from supernet.errors import BuildFailed
from supernet.fidelity import error
from supernet.fusion.kernels import onednn
from supernet.fusion.lowering.lowering import functional, lower
from supernet.fusion.rules.rules import RULES
from tests.supernet.contract import MemorySource, make_spec
from tests.supernet.lowered import answers, check, regions, targets
from tests.supernet.models import Wrapped, noise, seeded

if (why := onednn.unavailable()) is not None:
    pytest.skip(why, allow_module_level=True)


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
    # The one with 64 outputs is ours.
    assert targets(lowered.module).count("mkldnn._linear_pointwise.default") == 3
    assert [pack.kind for pack in lowered.packs.values()].count("product") == 1


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


def test_a_model_with_nothing_to_fuse_is_said(tmp_path: Path) -> None:
    learned = capture(seeded(lambda: nn.LayerNorm(8)), (noise(2, 8),))
    with pytest.raises(BuildFailed, match="nothing to fuse"):
        backend("fused").build(
            MemorySource(learned, tmp_path), make_spec(learned, "fused"), tmp_path
        )
