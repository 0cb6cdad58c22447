"""Contents that are not like the examples: what callers send sooner or later."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmarks.trust.draw import Draw

__all__ = ["FLOATS", "NON_FINITE", "TAME", "floats", "ids", "mask"]

Content = Callable[[Draw, Tensor], Tensor]


def _equal_rows(draw: Draw, x: Tensor) -> Tensor:
    return x[:1].expand_as(x).clone()


def _one_row(draw: Draw, x: Tensor, value: float) -> Tensor:
    """One entry of one row becomes ``value``."""
    x = x.clone()
    x.view(-1)[draw.number(0, x.numel() - 1)] = value
    return x


def _repeated(draw: Draw, x: Tensor) -> Tensor:
    return x.view(-1)[:1].expand_as(x).clone()


TAME: Mapping[str, Content] = {
    "ordinary": lambda draw, x: x,
    "all negative": lambda draw, x: -x.abs() - 0.1,
    "all positive": lambda draw, x: x.abs() + 0.1,
    "all zero": lambda draw, x: torch.zeros_like(x),
    "equal rows": _equal_rows,
    "one value": _repeated,
    "whole numbers": lambda draw, x: x.round(),
    "far from zero": lambda draw, x: x + draw.pick(-50.0, 50.0),
    "one entry 200": lambda draw, x: _one_row(draw, x, draw.pick(-200.0, 200.0)),
}
FLOATS: Mapping[str, Content] = {
    **TAME,
    "times 1e4": lambda draw, x: x * 1e4,
    "times 1e-4": lambda draw, x: x * 1e-4,
    "times 1e12": lambda draw, x: x * 1e12,
    "one NaN": lambda draw, x: _one_row(draw, x, float("nan")),
    "one infinity": lambda draw, x: _one_row(draw, x, draw.pick(float("inf"), float("-inf"))),
}
NON_FINITE: Mapping[str, Content] = {
    **FLOATS,
    "all NaN": lambda draw, x: torch.full_like(x, float("nan")),
    "all inf": lambda draw, x: torch.full_like(x, float("inf")),
    "all -inf": lambda draw, x: torch.full_like(x, float("-inf")),
    "NaN and inf": lambda draw, x: _one_row(
        draw, _one_row(draw, x, float("inf")), float("nan")
    ),
    "both infinities": lambda draw, x: _one_row(
        draw, _one_row(draw, x, float("inf")), float("-inf")
    ),
    "denormal": lambda draw, x: x * 1e-39,
    "near the largest": lambda draw, x: x * 1e37,
    "negative zeros": lambda draw, x: -torch.zeros_like(x),
}  # fmt: skip


def floats(draw: Draw, contents: Mapping[str, Content], *shape: int) -> tuple[Tensor, str]:
    """A float tensor of some content, and what it is called. Every third is ordinary."""
    name = "ordinary" if draw.chance(0.3) else draw.pick(*contents)
    return contents[name](draw, draw.normal(*shape)), name


def ids(draw: Draw, vocabulary: int, rows: int, length: int, *, out: float) -> tuple[Tensor, str]:
    """Token ids; with probability ``out`` one of them outside the vocabulary."""
    last = vocabulary - 1
    shape = (rows, length)
    name = draw.pick("any", "any", "any", "zeros", "last", "one id", "few ids", "first and last")
    found = {
        "any": lambda: draw.integers(0, vocabulary, shape),
        "zeros": lambda: torch.zeros(shape, dtype=torch.int64),
        "last": lambda: torch.full(shape, last),
        "one id": lambda: torch.full(shape, draw.number(0, last)),
        "few ids": lambda: draw.integers(0, 3, shape),
        "first and last": lambda: draw.integers(0, 2, shape) * last,
    }[name]()
    if draw.chance(out):
        outside = draw.pick(vocabulary, vocabulary + 7, -1, -vocabulary, -vocabulary - 1, 2**31 + 5,
                            2**40, -(2**33))  # fmt: skip
        found.view(-1)[draw.number(0, found.numel() - 1)] = outside
        name = f"id {outside} of {vocabulary}"
    return found, f"{name} ids"


def mask(draw: Draw, rows: int, length: int) -> tuple[Tensor, str]:
    """A mask of ones and zeros, `[rows, length]`, int64."""
    name = draw.pick("full", "full", "prefix", "prefix", "left-padded", "holed", "empty",
                     "one row empty")  # fmt: skip
    places = torch.arange(length).expand(rows, length)
    kept = draw.integers(1, length + 1, (rows, 1))
    full = torch.ones(rows, length, dtype=torch.int64)
    if name == "prefix":
        return (places < kept).long(), f"{name} mask"
    if name == "left-padded":
        return (places >= length - kept).long(), f"{name} mask"
    if name == "holed":
        return draw.integers(0, 2, (rows, length)), f"{name} mask"
    if name == "empty":
        return full * 0, f"{name} mask"
    if name == "one row empty":
        full[draw.number(0, rows - 1)] = 0
    return full, f"{name} mask"
