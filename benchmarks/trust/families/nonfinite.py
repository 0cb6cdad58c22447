"""NaNs, infinities and numbers at the edge, which engines treat differently, and by accident."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.trust import hostile
from benchmarks.trust.cases import Call, Case, Family
from benchmarks.trust.draw import CAP, Draw
from benchmarks.trust.nets import Net, Single, rows_case

__all__ = ["FAMILIES"]

Function = Callable[..., Any]

# Of rows `[B, F]`.
ROWS: Mapping[str, Function] = {
    "relu": lambda net, x: net.head(net.body(x).relu()),
    "relu6": lambda net, x: functional.relu6(net.body(x)),
    "leaky relu": lambda net, x: functional.leaky_relu(net.body(x)),
    "gelu": lambda net, x: functional.gelu(net.body(x)),
    "silu": lambda net, x: functional.silu(net.body(x)),
    "softplus": lambda net, x: functional.softplus(net.body(x)),
    "tanh and sigmoid": lambda net, x: net.body(x).tanh() * net.body(x).sigmoid(),
    "hard tanh": lambda net, x: functional.hardtanh(net.body(x)),
    "hard swish": lambda net, x: functional.hardswish(net.body(x)),
    "clamped": lambda net, x: net.body(x).clamp(-1, 1),
    "clamped below": lambda net, x: x.clamp(min=0),
    "smaller of two": lambda net, x: torch.minimum(x, x.flip(1)),
    "larger of two": lambda net, x: torch.maximum(x, x.flip(1)),
    "larger that is a number": lambda net, x: torch.fmax(x, x.flip(1)),
    "softmax": lambda net, x: net.body(x).softmax(1),
    "log softmax": lambda net, x: net.body(x).log_softmax(1),
    "logsumexp": lambda net, x: x.logsumexp(1),
    "layer norm": lambda net, x: functional.layer_norm(x, x.shape[1:]),
    "rms norm": lambda net, x: x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6),
    "normalised": lambda net, x: functional.normalize(net.body(x), dim=1),
    "select by a comparison": lambda net, x: torch.where(x > 0, x, -x),
    "select what is a number": lambda net, x: torch.where(x.isnan(), 0.0, x),
    "numbers for NaNs": lambda net, x: net.head(net.body(x.nan_to_num(0.0, 1.0, -1.0))),
    "is a number": lambda net, x: (x == x, x.isnan(), x.isinf(), x.isfinite()),
    "sorted": lambda net, x: x.sort(dim=1).values,
    "largest": lambda net, x: x.max(1),
    "largest alone": lambda net, x: x.amax(1),
    "best two": lambda net, x: x.topk(2, dim=1).values,
    "place of the largest": lambda net, x: x.argmax(1),
    "place of the least": lambda net, x: net.body(x).argmin(1),
    "cumulated": lambda net, x: x.cumsum(1),
    "mean": lambda net, x: x.mean(1),
    "spread": lambda net, x: x.std(1),
    "product": lambda net, x: x.prod(1),
    "square root": lambda net, x: x.sqrt(),
    "inverse square root": lambda net, x: x.rsqrt(),
    "logarithm": lambda net, x: x.log(),
    "logarithm of one more": lambda net, x: x.log1p(),
    "exponential": lambda net, x: x.exp(),
    "exponential less one": lambda net, x: x.expm1(),
    "quotient": lambda net, x: x / x.flip(1),
    "reciprocal": lambda net, x: x.reciprocal(),
    "power": lambda net, x: (x**2, x.abs() ** 0.5, x**3),
    "power of itself": lambda net, x: x.pow(x.abs().clamp(max=3)),
    "float remainder by zero": lambda net, x: x % x.round(),
    "arc sine": lambda net, x: x.asin(),
    "hypotenuse": lambda net, x: torch.hypot(x, x.flip(1)),
    "angle": lambda net, x: torch.atan2(x, x.flip(1)),
    "signs of zero": lambda net, x: 1 / (x * 0),
    "sign": lambda net, x: x.sign(),
    "illegal moves": lambda net, x: net.body(x).masked_fill(net.body(x) > 0.5, -torch.inf),
    "illegal moves, softmax": lambda net, x: net.body(x).masked_fill(
        net.body(x) > 0.1, -torch.inf).softmax(1),
    "legal by input": lambda net, x: x.masked_fill(x < 0, -torch.inf).log_softmax(1),
    "times zero": lambda net, x: net.body(x) * 0,
    "less itself": lambda net, x: x - x,
    "scaled to one": lambda net, x: (x - x.amin(1, True)) / (x.amax(1, True) - x.amin(1, True)),
    "matrix product": lambda net, x: net.body(x),
    "batch norm": lambda net, x: functional.batch_norm(
        x, net.mean[: x.shape[1]], net.var[: x.shape[1]]),
    "erf": lambda net, x: x.erf(),
    "any NaN in the row": lambda net, x: x.isnan().any(1),
    "comparisons": lambda net, x: (x < 0, x >= 0, x != 0),
    "largest by two kinds": lambda net, x: (x.aminmax(dim=1), x.abs().amax(1)),
}  # fmt: skip


def _rows(function: Function, draw: Draw, requests: int) -> Case:
    parts = {"mean": torch.randn(16), "var": torch.rand(16) + 0.1}
    return rows_case(function, draw, requests, contents=hostile.NON_FINITE, parts=parts)


# Of images `[B, 2, 6, 6]`.
IMAGES: Mapping[str, Function] = {
    "convolution": lambda net, x: net.conv(x),
    "convolution and relu": lambda net, x: net.conv(x).relu(),
    "convolution and pooling": lambda net, x: functional.max_pool2d(net.conv(x).relu(), 2),
    "largest of windows": lambda net, x: functional.max_pool2d(x, 2),
    "average of windows": lambda net, x: functional.avg_pool2d(x, 3, 1, 1),
    "global average": lambda net, x: net.conv(x).mean((2, 3)),
    "global largest": lambda net, x: net.conv(x).amax((2, 3)),
    "group norm": lambda net, x: functional.group_norm(net.conv(x), 2),
    "instance norm": lambda net, x: functional.instance_norm(net.conv(x)),
    "enlarged": lambda net, x: functional.interpolate(x, scale_factor=2, mode="bilinear"),
    "strided": lambda net, x: functional.conv2d(x, net.conv.weight, stride=2).relu(),
    "small network": lambda net, x: net.last(functional.max_pool2d(
        functional.relu(net.conv(x)), 6).flatten(1)),
}  # fmt: skip


def _images(function: Function, draw: Draw, requests: int) -> Case:
    net = Single(function, conv=nn.Conv2d(2, 4, 3, padding=1), last=nn.Linear(4, 3)).eval()
    examples = tuple(Call((draw.normal(rows, 2, 6, 6),)) for rows in (1, 2))

    def call() -> Call:
        x, note = hostile.floats(draw, hostile.NON_FINITE, draw.rows(), 2, 6, 6)
        return Call((x,), note=f"{tuple(x.shape)} {note}")

    return Case(net, examples, tuple(call() for _ in range(requests)))


def _attention(net: Net, x: Tensor, mask: Tensor) -> Tensor:
    states = net.body(x).unsqueeze(1)
    return functional.scaled_dot_product_attention(
        states, states, states, attn_mask=mask.unsqueeze(1)
    ).squeeze(1)


def _attention_by_hand(net: Net, x: Tensor, mask: Tensor) -> Tensor:
    states = net.body(x)
    scores = (states @ states.transpose(1, 2)).masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ states


def _attention_zeroed(net: Net, x: Tensor, mask: Tensor) -> Tensor:
    return _attention_by_hand(net, x, mask).nan_to_num(0.0)


def _policy(net: Net, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of the legal moves, and the best of them."""
    scores = net.body(x).sum(-1).masked_fill(~mask.any(1), -torch.inf)
    return scores, scores.argmax(-1)


def _masked_largest(net: Net, x: Tensor, mask: Tensor) -> Tensor:
    return net.body(x).masked_fill(~mask.any(1).unsqueeze(-1), -torch.inf).amax(1)


def _masked(function: Function, draw: Draw, requests: int) -> Case:
    """States `[B, 5, F]` and a boolean mask `[B, 5, 5]`, some of whose rows see nothing."""
    width = draw.width()
    net = Net(function, body=nn.Linear(width, 4)).eval()

    def call(rows: int, content: str) -> Call:
        mask = torch.from_numpy(draw.rng.random((rows, 5, 5)) < 0.6)
        mask = mask | torch.eye(5, dtype=torch.bool)
        if content == "a row sees nothing":
            mask[draw.number(0, rows - 1), draw.number(0, 4)] = False
        elif content == "nothing is seen":
            mask[draw.number(0, rows - 1)] = False
        elif content == "all is seen":
            mask = mask | True
        return Call((draw.normal(rows, 5, width), mask), note=f"{rows} rows, {content}")

    options = ("ordinary", "a row sees nothing", "nothing is seen", "all is seen")
    calls = (call(min(draw.rows(), CAP), draw.pick(*options)) for _ in range(requests))
    return Case(net, (call(1, "ordinary"), call(2, "ordinary")), tuple(calls))


MASKED = {
    "boolean attention, rows that see nothing": _attention,
    "attention by hand": _attention_by_hand,
    "attention by hand, NaNs zeroed": _attention_zeroed,
    "masked policy": _policy,
    "masked largest": _masked_largest,
}

FAMILIES = (
    *(Family(name, "nonfinite", partial(_rows, f)) for name, f in ROWS.items()),
    *(Family(name, "nonfinite", partial(_images, f)) for name, f in IMAGES.items()),
    *(Family(name, "nonfinite", partial(_masked, f)) for name, f in MASKED.items()),
)
