"""Winograd's algorithm answers as a convolution does, whatever its sizes and what comes after."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import conv2d

from supernet.backends.fused_build import captured, plan_of
from supernet.capture.subject import capture
from supernet.fidelity import error
from supernet.fusion.kernels import winograd
from supernet.fusion.kernels.onednn import PostOp
from supernet.fusion.kernels.winograd import convolve, fits, pack
from supernet.fusion.lowering.lowering import lower
from supernet.fusion.lowering.subgraphs import pieces_of
from supernet.fusion.report.region_report import accounts
from supernet.fusion.rules.rules import apply_fusion_rules, rules_of
from tests.supernet.contract import MemorySource

pytestmark = pytest.mark.usefixtures("own_kernels")

EVERYTHING = "activation+residual+conv+norm"


def image(*sizes: int) -> Tensor:
    made = torch.randn(sizes, generator=torch.Generator().manual_seed(sum(sizes)))
    return made.contiguous(memory_format=torch.channels_last)


def weight(out: int, taken: int) -> Tensor:
    return torch.randn(out, taken, 3, 3, generator=torch.Generator().manual_seed(out)) / taken**0.5


def where(pad: int) -> winograd.Where:
    return [pad, pad], [1, 1], [1, 1], 1


def run(x: Tensor, w: Tensor, bias: Tensor | None = None, addend: Tensor | None = None,
        pad: int = 1, name: str = "none", scalars: tuple[float, ...] = ()) -> Tensor:  # fmt: skip
    packed = pack(w, *where(pad), list(x.shape))
    assert not packed.is_mkldnn
    return convolve(x, packed, bias, addend, *where(pad), name, list(scalars))


AFTER = {
    "none": ((), lambda y: y),
    "relu": ((), torch.relu),
    "hardtanh": ((0.0, 0.5), lambda y: y.clamp(0.0, 0.5)),
}


@settings(max_examples=80, deadline=None)
@given(
    images=st.integers(1, 3),
    height=st.integers(3, 30),
    width=st.integers(3, 30),
    channels=st.tuples(st.sampled_from((16, 32, 48, 80)), st.sampled_from((16, 32, 48, 64, 112))),
    pad=st.integers(0, 2),
    has_bias=st.booleans(),
    has_addend=st.booleans(),
    name=st.sampled_from(sorted(AFTER)),
)
def test_it_is_a_convolution(
    images: int, height: int, width: int, channels: tuple[int, int], pad: int, has_bias: bool,
    has_addend: bool, name: str,
) -> None:  # fmt: skip
    x, w = image(images, channels[0], height, width), weight(channels[1], channels[0])
    bias = torch.linspace(-1, 1, channels[1]) if has_bias else None
    wanted = conv2d(x.double(), w.double(), None if bias is None else bias.double(), padding=pad)
    addend = image(*wanted.shape) if has_addend else None
    if addend is not None:
        wanted = wanted + addend
    scalars, after = AFTER[name]
    got = run(x, w, bias, addend, pad, name, scalars)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert got.shape == wanted.shape
    assert error("relative_l2", [got.double()], [after(wanted)]) < 5e-6


def test_what_is_added_may_lie_in_any_order() -> None:
    x, w = image(2, 16, 9, 9), weight(16, 16)
    addend = torch.randn(2, 16, 9, 9)
    got = run(x, w, None, addend)
    torch.testing.assert_close(got, conv2d(x, w, padding=1) + addend, atol=1e-4, rtol=1e-4)


def test_no_image_no_answer() -> None:
    assert run(image(0, 16, 9, 9), weight(16, 16)).shape == (0, 16, 9, 9)


def test_what_is_not_a_number_stays_so_and_spoils_no_other_image() -> None:
    x, w = image(3, 16, 20, 20), weight(16, 16)
    x[1, 3, 7, 7] = torch.nan
    wanted, got = conv2d(x, w, padding=1).relu(), run(x, w, name="relu")
    assert got[wanted.isnan()].isnan().all()
    assert wanted[1].isnan().any()
    for other in (0, 2):
        torch.testing.assert_close(got[other], wanted[other], atol=1e-4, rtol=1e-4)


def test_several_threads_are_onednns() -> None:
    x, w = image(2, 16, 12, 12), weight(32, 16)
    addend = image(2, 32, 12, 12)
    torch.set_num_threads(2)
    try:
        packed = pack(w, *where(1), list(x.shape))
    finally:
        torch.set_num_threads(1)
    assert packed.is_mkldnn
    plain = conv2d(x, w, padding=1)
    for added, wanted in ((None, plain), (addend, plain + addend)):
        got = convolve(x, packed, None, added, *where(1), "relu", [])
        torch.testing.assert_close(got, wanted.relu(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("convolution", "size", "is_for_it"),
    [
        (nn.Conv2d(16, 32, 3, padding=1), 8, True),
        (nn.Conv2d(16, 32, 3), 7, True),
        (nn.Conv2d(16, 32, 3, padding=1), 4, False),
        (nn.Conv2d(16, 32, 3, padding=1, stride=2), 16, False),
        (nn.Conv2d(16, 32, 3, padding=2, dilation=2), 16, False),
        (nn.Conv2d(16, 32, 3, padding=(1, 0)), 16, False),
        (nn.Conv2d(32, 32, 3, groups=2), 16, False),
        (nn.Conv2d(16, 32, 5), 16, False),
        (nn.Conv2d(3, 32, 3), 16, False),
        (nn.Conv2d(16, 24, 3), 16, False),
    ],
    ids=["fits", "two by two tiles", "one tile", "stride", "dilation", "sides", "groups", "5 x 5",
         "in", "out"],
)  # fmt: skip
def test_only_what_pays_is_put_on_it(convolution: nn.Conv2d, size: int, is_for_it: bool) -> None:
    given: winograd.Where = (
        list(map(int, convolution.padding)), list(convolution.stride), list(convolution.dilation),
        convolution.groups,
    )  # fmt: skip
    shape = [1, convolution.in_channels, size, size]
    assert fits(convolution.weight, given, shape) == is_for_it
    assert not fits(convolution.weight, given, None)


@pytest.mark.parametrize(("name", "takes"), [("relu", True), ("gelu", False)])
def test_only_clipping_comes_after_it(name: str, takes: bool) -> None:
    assert winograd.takes(PostOp(name)) == takes


class Basic(nn.Module):
    """The block of a ResNet-18: two 3 x 3 convolutions, norms, a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(2))
        for norm in self.norms:
            nn.init.uniform_(norm.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(norm.running_var, 0.5, 2.0)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](self.first(x)).relu()
        y = self.norms[1](self.second(y)) + x
        return y.relu()


def test_a_program_runs_on_it(tmp_path: object) -> None:
    model = nn.Sequential(Basic(), Basic()).eval()
    x = torch.randn(3, 16, 12, 12)
    program, graph = captured(MemorySource(capture(model, (x,)), tmp_path))  # type: ignore[arg-type]
    found = apply_fusion_rules(graph, rules_of(EVERYTHING))
    regions = [region.ops for region in found.regions]
    plan = plan_of(program, regions, {})
    assert plan._module is not None
    calls = plan._module.graph.find_nodes(op="call_function", target=convolve)
    assert len(calls) == 4
    assert sum(call.args[3] is not None for call in calls) == 2
    (answer,) = plan.run([x])
    torch.testing.assert_close(answer, model(x), atol=1e-5, rtol=1e-5)
    lowered = lower(program, regions)
    told = accounts(found, lowered, {})
    assert sum("Winograd" in account.runs_on for account in told) == 4
    assert pieces_of(lowered) == ()  # and is left as it is by the compiler
