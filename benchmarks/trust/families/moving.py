"""Weights that move while the model is served, and whatever else changes what it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.trust import hostile
from benchmarks.trust.cases import Case, Family
from benchmarks.trust.draw import Draw
from benchmarks.trust.nets import Net, rows_case, sequence_case, token_case

__all__ = ["FAMILIES"]

Move = Callable[[Any], None]


def _loaded(net: Net) -> None:
    state = net.state_dict()
    net.load_state_dict({
        name: value * -2 + 0.3 if value.is_floating_point() else value
        for name, value in state.items()
    })  # fmt: skip


def _added(net: Net) -> None:
    with torch.no_grad():
        net.head.bias.add_(5.0)


def _one_entry(net: Net) -> None:
    with torch.no_grad():
        net.head.weight[0, 0] = 9.0


def _data_replaced(net: Net) -> None:
    net.head.weight.data = net.head.weight.data.flip(0) * 3.0 + 1.0


def _data_written(net: Net) -> None:
    """`.data` shares memory but not the version counter."""
    net.head.bias.data.add_(5.0)


def _through_numpy(net: Net) -> None:
    net.head.bias.detach().numpy()[:] += 5.0


def _layer_replaced(net: Net) -> None:
    net.head = nn.Linear(net.head.in_features, net.head.out_features)
    nn.init.constant_(net.head.bias, 4.0)


def _parameter_replaced(net: Net) -> None:
    net.head.bias = nn.Parameter(torch.full_like(net.head.bias, -3.0))


def _hooked(net: Net) -> None:
    net.head.register_forward_hook(lambda module, args, output: output * 2 + 1)


def _hooked_before(net: Net) -> None:
    net.register_forward_pre_hook(lambda module, args: tuple(_halved(arg) for arg in args))


def _halved(x: Any) -> Any:
    return x * 0.5 + 1 if isinstance(x, Tensor) and x.is_floating_point() else x


def _scale_changed(net: Net) -> None:
    """A plain number that ``forward`` reads."""
    net.scale = 7.0


def _buffer_changed(net: Net) -> None:
    net.shift.fill_(11.0)


def _function_changed(net: Net) -> None:
    before = net.function
    net.function = lambda net, x: before(net, x) * -1.0


def _forward_changed(net: Net) -> None:
    before = net.forward
    net.forward = lambda x: before(x) + 2.0


def _trained(net: Net) -> None:
    """Batch statistics from now on: rows depend on each other, and buffers change."""
    net.train()


NOTICED: Mapping[str, Move] = {
    "state loaded": _loaded,
    "bias added to": _added,
    "one weight set": _one_entry,
    "layer replaced": _layer_replaced,
    "parameter replaced": _parameter_replaced,
    "hook added": _hooked,
    "hook before added": _hooked_before,
    "buffer changed": _buffer_changed,
}
# What leaves no trace where one could look at every tick.
ANNOUNCED: Mapping[str, Move] = {
    "data replaced": _data_replaced,
    "data written into": _data_written,
    "written through NumPy": _through_numpy,
    "scale changed": _scale_changed,
    "function changed": _function_changed,
    "forward changed": _forward_changed,
}


def _moved(move: Move, always: bool, draw: Draw, requests: int) -> Case:
    """``always``: it is announced every time, not only every second."""
    parts = {"scale": 1.5, "shift": torch.tensor(0.25)}
    make: Callable[..., Case] = draw.pick(rows_case, sequence_case)

    def forward(net: Net, x: Tensor) -> Tensor:
        y: Tensor = net.head(net.act(net.body(x))) * net.scale + net.shift
        return y

    return make(
        forward, draw, requests, contents=hostile.TAME, parts=parts, move=move,
        announced=always or draw.chance(0.5),
    )  # fmt: skip


def _text_moved(draw: Draw, requests: int) -> Case:
    """Another embedding table is loaded."""

    def move(net: Any) -> None:
        with torch.no_grad():
            net.embed.weight.copy_(net.embed.weight.flip(0) + 1.0)

    def forward(net: Net, x: Tensor) -> Any:
        return net.head(net.act(net.mix(net.embed(x))))

    return token_case(forward, draw, requests, move=move)


def _norm_trained(draw: Draw, requests: int) -> Case:
    def forward(net: Net, x: Tensor) -> Any:
        return net.head(net.norm(net.body(x)))

    width = draw.width()
    parts = {"body": nn.Linear(width, 6), "norm": nn.BatchNorm1d(6), "head": nn.Linear(6, 2)}
    return rows_case(
        forward, draw, requests, contents=hostile.TAME, width=width, parts=parts, move=_trained,
        check="serial",
    )  # fmt: skip


FAMILIES = (
    *(Family(name, "moving", partial(_moved, move, False)) for name, move in NOTICED.items()),
    *(Family(name, "moving", partial(_moved, move, True)) for name, move in ANNOUNCED.items()),
    Family("embedding loaded", "moving", _text_moved),
    Family("training switched on", "moving", _norm_trained),
)
