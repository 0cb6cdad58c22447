"""Our matrix product answers as torch's does, in float and with weights in fp16."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from supernet.backends.base import backend
from supernet.backends.fused_build import captured, roundings
from supernet.capture.subject import capture
from supernet.fidelity import Limit, error
from supernet.fusion.kernels.onednn import PostOp
from supernet.fusion.kernels.product import fits, multiply, pack, takes
from tests.supernet.contract import MemorySource, make_spec

pytestmark = pytest.mark.usefixtures("own_kernels")

ACTIVATIONS: Mapping[str, tuple[PostOp, Callable[[Tensor], Tensor]]] = {
    "none": (PostOp(), lambda y: y),
    "relu": (PostOp("relu"), torch.relu),
    "hardtanh": (PostOp("hardtanh", (-0.25, 0.5)), lambda y: y.clamp(-0.25, 0.5)),
    "swish": (PostOp("swish"), functional.silu),
    "gelu": (PostOp("gelu", algorithm="none"), functional.gelu),
    "gelu tanh": (
        PostOp("gelu", algorithm="tanh"),
        lambda y: functional.gelu(y, approximate="tanh"),
    ),
}


def randn(*sizes: int) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(sum(sizes)))


def run(x: Tensor, packed: Tensor, bias: Tensor | None = None,
        activation: PostOp | None = None) -> Tensor:  # fmt: skip
    assert not packed.is_mkldnn
    name, scalars, algorithm = (activation or PostOp()).arguments()
    return multiply(x, packed, bias, name, scalars, algorithm)


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.integers(0, 40), max_size=2),
    taken=st.integers(1, 200) | st.sampled_from((1600, 3100)),  # several parts of a panel
    panels=st.integers(1, 3),
    has_bias=st.booleans(),
    halves=st.booleans(),
    name=st.sampled_from(sorted(ACTIVATIONS)),
)
def test_it_is_a_product(
    rows: list[int], taken: int, panels: int, has_bias: bool, halves: bool, name: str
) -> None:
    x, weight = randn(*rows, taken), randn(64 * panels, taken) / taken**0.5
    weight = weight.half() if halves else weight
    bias = randn(64 * panels) if has_bias else None
    activation, after = ACTIVATIONS[name]
    wanted = functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    got = run(x, pack(weight), bias, activation)
    assert got.shape == wanted.shape
    if got.numel():
        assert error("relative_l2", [got.double()], [after(wanted)]) < 2e-6


@pytest.mark.parametrize("name", ["swish", "gelu", "gelu tanh"])
def test_activations_keep_far_ends(name: str) -> None:
    activation, after = ACTIVATIONS[name]
    x = torch.linspace(-120.0, 120.0, 2001)[:, None]
    weight = torch.ones(64, 1)
    got, wanted = run(x, pack(weight), None, activation)[:, 0], after(x[:, 0].double())
    assert (got - wanted).abs().max() < 1e-5
    assert torch.equal(got[-100:], x[-100:, 0])
    assert (got[:100].abs() < 1e-30).all()


def test_rows_that_do_not_lie_together_are_read_where_they_are() -> None:
    x, weight = randn(48, 5).T, randn(64, 48)
    assert not x.is_contiguous()
    torch.testing.assert_close(run(x, pack(weight)), x @ weight.T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_what_is_not_a_number_stays_so_and_spoils_no_other_row(name: str) -> None:
    activation, after = ACTIVATIONS[name]
    x, weight = randn(20, 32), randn(64, 32)
    x[7, 3] = torch.nan
    got = run(x, pack(weight), None, activation)
    assert got[7].isnan().all()
    rest = [row for row in range(20) if row != 7]
    torch.testing.assert_close(got[rest], after(x[rest] @ weight.T), atol=1e-4, rtol=1e-4)


def test_several_threads_are_onednns() -> None:
    x, weight = randn(9, 32), randn(64, 32)
    torch.set_num_threads(2)
    try:
        packed = [pack(weight), pack(weight.half())]
    finally:
        torch.set_num_threads(1)
    for one, near in zip(packed, (weight, weight.half().float()), strict=True):
        assert one.is_mkldnn
        got = multiply(x, one, None, "relu", [], "")
        torch.testing.assert_close(got, (x @ near.T).relu(), atol=1e-4, rtol=1e-4)


def test_only_whole_panels_and_known_activations() -> None:
    assert fits(torch.ones(128, 7))
    assert not fits(torch.ones(100, 64))
    assert not fits(torch.ones(64, 0))
    assert all(takes(activation) for activation, _ in ACTIVATIONS.values())
    assert not takes(PostOp("sigmoid"))


class Wide(nn.Module):
    """Two layers, the second of another number of outputs than the kernel takes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(16, 256), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(x)))  # type: ignore[no-any-return]


def test_a_float_plan_multiplies_with_it(tmp_path: Path) -> None:
    model = Wide().eval()
    learned = capture(model, (torch.randn(3, 16),))
    spec = make_spec(learned, "fused")
    backend("fused").build(MemorySource(learned, tmp_path), spec, tmp_path)
    about = (tmp_path / "about.txt").read_text()
    assert "1 of them oneDNN kernels, 1 products by its own kernels" in about
    plan = backend("fused").load(tmp_path, spec)
    for reference in learned.references:
        assert error("relative_l2", plan.run(list(reference.inputs)), reference.outputs) < 1e-5


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bfloat16 products"
)
def test_products_that_bear_no_rounding_bear_fp16_weights(tmp_path: Path) -> None:
    learned = capture(Wide().eval(), (torch.randn(3, 16),))
    source = MemorySource(learned, tmp_path)
    program, _ = captured(source)
    names = [n.name for n in program.graph.nodes if "linear" in str(n.target)]

    def chosen(most: float) -> dict[str, Any]:
        spec = replace(
            make_spec(learned, "fused", "mixed", isa="avx512_bf16 avx512_vnni"),
            limit=str(Limit("relative_l2", most)),
        )
        return {
            n: r.kind for n, r in roundings(program, [[n] for n in names], source, spec).items()
        }

    assert chosen(1e-3) == {names[0]: "fp16"}, "what the kernel can't take stays as it is"
    loose = chosen(0.5)
    assert set(loose) == set(names)
    assert not {"fp16"} & set(loose.values())
