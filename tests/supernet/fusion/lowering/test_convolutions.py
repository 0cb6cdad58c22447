"""Convolutions on oneDNN: padding before, norm, sum and activation after, in one kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from supernet.fusion.kernels import onednn
from tests.supernet.lowered import check, targets
from tests.supernet.models import Wrapped, noise, seeded

if (why := onednn.unavailable()) is not None:
    pytest.skip(why, allow_module_level=True)

SUM, SUM_INTO = "mkldnn._convolution_pointwise.binary", "mkldnn._convolution_pointwise_.binary"


def conv2d(**settings: object) -> nn.Module:
    return nn.Conv2d(6, 12, 3, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "convolution",
    [
        conv2d(), conv2d(stride=2, padding=1), conv2d(dilation=2, padding=2), conv2d(groups=3),
        conv2d(bias=False), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 8, 1),
    ],
)  # fmt: skip
def test_convolution_norm_and_activation_are_one_kernel(convolution: nn.Conv2d) -> None:
    norm = nn.BatchNorm2d(convolution.out_channels)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    nn.init.normal_(norm.weight)
    model = nn.Sequential(convolution, norm, nn.ReLU6()).eval()
    check(model, noise(2, 6, 9, 9), {("conv2d", "batch_norm", "hardtanh")}, "conv")


def test_convolution_with_a_norm_that_others_read_keeps_it() -> None:
    model = seeded(
        lambda: Wrapped(
            lambda m, x: (y := m.norm(m.conv(x))) + torch.relu(y),
            conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4),
        )
    )  # fmt: skip
    check(model, noise(2, 3, 8, 8), {("conv2d", "batch_norm")}, "conv")


def test_signals_along_one_axis_stay_with_torch() -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv1d(4, 8, 5, padding=2), nn.ReLU()))
    check(model, noise(2, 4, 16), set(), "conv")


def block(around: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    """Convolutions a, b, c of 4 channels and a pool, put together by `around`."""
    parts = {name: nn.Conv2d(4, 4, 3, padding=1) for name in "abc"}
    return seeded(lambda: Wrapped(around, pool=nn.AdaptiveAvgPool2d(1), **parts))


X = noise(2, 4, 8, 8)


def test_a_sum_and_its_relu_are_part_of_the_convolution() -> None:
    model = block(lambda m, x: torch.relu(m.b(m.a(x)) + x))
    module = check(model, X, {("conv2d",), ("conv2d_1", "add", "relu")}, "residual")
    assert SUM in targets(module)  # never over the caller's own tensor
    assert SUM_INTO not in targets(module)


def test_other_activations_of_a_sum_stay_apart() -> None:
    model = block(lambda m, x: torch.nn.functional.silu(m.b(m.a(x)) + x))
    module = check(model, X, {("conv2d",), ("conv2d_1", "add")}, "residual")
    assert "aten.silu.default" in targets(module)


def test_a_sum_is_written_over_what_nobody_needs_any_more() -> None:
    model = block(lambda m, x: (y := m.a(x)) + m.c(torch.relu(m.b(y))))
    module = check(
        model, X, {("conv2d",), ("conv2d_1", "relu"), ("conv2d_2", "add")}, "residual", "conv"
    )
    assert SUM_INTO in targets(module)


@pytest.mark.parametrize(
    "around",
    [
        lambda m, x: ((y := m.a(x)) + m.b(x)) * y,  # needed afterwards
        lambda m, x: ((y := m.a(x)) + m.b(x)) * y.permute(0, 1, 3, 2),  # through a view
        lambda m, x: ((y := m.a(x)) + m.b(x), y)[0] + m.c(y) * 2,  # by another convolution
        lambda m, x: (y := m.a(x)) + m.b(y),  # the convolution reads it itself
        lambda m, x: torch.cat([(y := m.a(x)) + m.b(x), y]),
    ],
)
def test_a_sum_is_not_written_over_what_is_still_needed(
    around: Callable[[Any, Tensor], Tensor],
) -> None:
    module = check(block(around), X, None, "residual", "conv")
    assert SUM in targets(module)
    assert SUM_INTO not in targets(module)


def test_of_two_sums_in_a_row_each_is_written_over_the_last() -> None:
    def stacked(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        for layer in (m.b, m.c):
            y = torch.relu(layer(torch.tanh(y)) + y)
        return y

    module = check(block(stacked), X, None, "residual", "conv")
    assert targets(module).count(SUM_INTO) == 2


def test_a_sum_with_something_of_another_shape_stays_apart() -> None:
    model = block(lambda m, x: m.a(x) + m.pool(m.b(x)))
    module = check(model, X, {("conv2d",), ("conv2d_1",)}, "residual", "conv")
    assert SUM not in targets(module)


def test_a_scaled_sum_stays_apart() -> None:
    model = block(lambda m, x: torch.add(x, m.a(x), alpha=2))
    check(model, X, {("conv2d",)}, "residual")


def test_zeros_around_are_part_of_the_convolution() -> None:
    model = seeded(
        lambda: nn.Sequential(nn.ZeroPad2d((2, 2, 1, 1)), nn.Conv2d(4, 4, 3, padding=(0, 1)))
    )
    check(model, X, {("pad", "conv2d")}, "conv")


@pytest.mark.parametrize(
    "padding",
    [
        nn.ZeroPad2d((0, 1, 0, 1)), nn.ConstantPad2d(1, 0.5), nn.ReflectionPad2d(1),
        nn.ZeroPad2d((-1, -1, -1, -1)),
    ],
)  # fmt: skip
def test_other_padding_stays_with_torch(padding: nn.Module) -> None:
    check(seeded(lambda: nn.Sequential(padding, nn.Conv2d(4, 4, 3))), X, {("conv2d",)}, "conv")


def test_padding_that_others_read_too_stays() -> None:
    model = block(lambda m, x: m.a(y := torch.nn.functional.pad(x, (1, 1, 1, 1))) + y)
    check(model, X, {("conv2d", "add")}, "residual")
