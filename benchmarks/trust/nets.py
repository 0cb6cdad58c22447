"""Models as a function of some layers, and the three ways in which most of them are called."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.trust import hostile
from benchmarks.trust.cases import Call, Case
from benchmarks.trust.draw import Draw

__all__ = ["Masked", "Net", "Single", "masked_case", "rows_case", "sequence_case", "token_case"]

# Models this small are faster than any plan would be, and no plan would get to serve. So they
# dawdle, in Python: a plan does not, and wins wherever it is allowed to answer.
DAWDLE_S = 0.0005

Function = Callable[..., Any]


class Net(nn.Module):
    """``function(net, *inputs)``, with the layers and constants as attributes of ``net``."""

    def __init__(self, function: Function, /, **parts: Any) -> None:
        super().__init__()
        self.function = function
        self.dawdle_s = DAWDLE_S
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)  # parts are of any type

    def dawdle(self) -> None:
        """Lose some time, which a traced program does not."""
        if self.dawdle_s:
            time.sleep(self.dawdle_s)

    def forward(self, *inputs: Any) -> Any:
        self.dawdle()
        return self.function(self, *inputs)


class Single(Net):
    """A model of one tensor."""

    def forward(self, x: Tensor) -> Any:
        self.dawdle()
        return self.function(self, x)


class Masked(Net):
    """A model of ids (or states) and a mask, called by name."""

    def forward(self, x: Tensor, mask: Tensor) -> Any:
        self.dawdle()
        return self.function(self, x, mask)


def rows_case(
    function: Function,
    draw: Draw,
    requests: int,
    *,
    contents: Mapping[str, hostile.Content] = hostile.FLOATS,
    width: int | None = None,
    parts: Mapping[str, Any] | None = None,
    **rest: Any,
) -> Case:
    """A model of rows `[B, F]`. Its layers: ``body`` F → H, ``head`` H → C, ``act``."""
    net, width = _float_net(function, draw, width, parts)
    sizes = draw.pick((2,), (1, 2), (1, 3, 4), (2, 4))
    examples = tuple(Call((draw.normal(rows, width),)) for rows in sizes)
    return Case(net, examples, tuple(_rows(draw, width, contents) for _ in range(requests)), **rest)


def _float_net(
    function: Function, draw: Draw, width: int | None, parts: Mapping[str, Any] | None
) -> tuple[Net, int]:
    """The model and the width of its input."""
    width = draw.width() if width is None else width
    hidden, out = draw.width(), draw.pick(1, 2, 5)
    usual = {
        "body": nn.Linear(width, hidden),
        "head": nn.Linear(hidden, out),
        "act": draw.activation(),
        "limit": float(draw.pick(20, 50, 100)),
    }
    return Single(function, **(usual | dict(parts or {}))).eval(), width


def _rows(draw: Draw, width: int, contents: Mapping[str, hostile.Content]) -> Call:
    x, note = hostile.floats(draw, contents, draw.rows(), width)
    if draw.chance(0.02):
        return Call((x.double(),), note=f"{note}, float64")
    return Call((x,), note=f"{tuple(x.shape)} {note}")


def sequence_case(
    function: Function,
    draw: Draw,
    requests: int,
    *,
    contents: Mapping[str, hostile.Content] = hostile.FLOATS,
    width: int | None = None,
    parts: Mapping[str, Any] | None = None,
    least: int = 1,
    **rest: Any,
) -> Case:
    """A model of sequences `[B, T, F]`. Its layers: ``body`` F → H, ``head`` H → C, ``act``;
    ``least`` is the shortest length that is asked for."""
    net, width = _float_net(function, draw, width, parts)
    lengths = draw.pick((5, 9), (6, 8, 12), (4, 7, 11), (8, 12))
    examples = tuple(Call((draw.normal(1, length, width),)) for length in lengths)

    def call() -> Call:
        length = max(least, draw.length(lengths[-1]))
        x, note = hostile.floats(draw, contents, draw.rows(), length, width)
        return Call((x,), note=f"{tuple(x.shape)} {note}")

    return Case(net, examples, tuple(call() for _ in range(requests)), **rest)


def token_case(
    function: Function,
    draw: Draw,
    requests: int,
    *,
    out: float = 0.05,
    parts: Mapping[str, Any] | None = None,
    **rest: Any,
) -> Case:
    """A model of ids `[B, T]`, called as ``model(x)``. Layers: see `_text`."""
    net, lengths, vocabulary = _text(function, Single, draw, parts)
    examples = tuple(Call((_ordinary(draw, vocabulary, length),)) for length in lengths)

    def call() -> Call:
        rows, length = draw.rows(), draw.length(lengths[-1])
        x, note = hostile.ids(draw, vocabulary, rows, length, out=out)
        return Call((x,), note=f"{tuple(x.shape)} {note}")

    return Case(net, examples, tuple(call() for _ in range(requests)), **rest)


def masked_case(
    function: Function,
    draw: Draw,
    requests: int,
    *,
    out: float = 0.03,
    parts: Mapping[str, Any] | None = None,
    **rest: Any,
) -> Case:
    """A model of ids and a mask, both `[B, T]`, called by name. Layers: see `_text`."""
    net, lengths, vocabulary = _text(function, Masked, draw, parts)
    examples = tuple(
        Call(kwargs={
            "x": _ordinary(draw, vocabulary, length),
            "mask": torch.ones(1, length, dtype=torch.int64),
        })
        for length in lengths
    )  # fmt: skip

    def call() -> Call:
        rows, length = draw.rows(), draw.length(lengths[-1])
        x, note = hostile.ids(draw, vocabulary, rows, length, out=out)
        kept, shape = hostile.mask(draw, rows, length)
        return Call(kwargs={"x": x, "mask": kept}, note=f"{tuple(x.shape)} {note}, {shape}")

    return Case(net, examples, tuple(call() for _ in range(requests)), **rest)


def _ordinary(draw: Draw, vocabulary: int, length: int) -> Tensor:
    return draw.integers(1, vocabulary, (1, length))


def _text(
    function: Function, kind: type[Net], draw: Draw, parts: Mapping[str, Any] | None
) -> tuple[Net, tuple[int, ...], int]:
    """The model, its examples' lengths and its vocabulary.

    Layers: ``embed`` V → H (with a padding id every second time), ``mix`` H → H, ``head``
    H → C, ``act``, ``score`` H → 1, ``position`` `[512, H]`.
    """
    vocabulary, hidden, out = draw.pick(17, 50, 101), draw.pick(4, 8, 16), draw.pick(1, 2, 5)
    padding = draw.pick(None, 0)
    usual = {
        "embed": nn.Embedding(vocabulary, hidden, padding_idx=padding),
        "mix": nn.Linear(hidden, hidden),
        "head": nn.Linear(hidden, out),
        "score": nn.Linear(hidden, 1),
        "position": nn.Parameter(torch.randn(512, hidden)),
        "act": draw.activation(),
        "limit": float(draw.pick(20, 50, 100)),
        "hidden": hidden,
    }
    net = kind(function, **(usual | dict(parts or {}))).eval()
    return net, draw.pick((5, 9), (6, 8, 12), (4, 7, 11), (8, 12)), vocabulary
