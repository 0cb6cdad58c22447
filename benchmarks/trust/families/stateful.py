"""Models that keep something between calls, write into what they are given, or draw numbers.

The judge is a fresh twin that gets the same requests one after another.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.trust import hostile
from benchmarks.trust.cases import Call, Case, Family
from benchmarks.trust.draw import Draw
from benchmarks.trust.nets import Net, rows_case

__all__ = ["FAMILIES"]

Function = Callable[[Net, Tensor], Any]


def _plain(net: Net, x: Tensor) -> Tensor:
    y: Tensor = net.head(net.act(net.body(x)))
    return y


def _counter(net: Net, x: Tensor) -> Any:
    net.calls += 1
    return _plain(net, x) + net.calls


def _counter_beside(net: Net, x: Tensor) -> Any:
    net.calls += x.shape[0]
    return _plain(net, x), net.calls.clone()


def _counted_in_python(net: Net, x: Tensor) -> Any:
    net.count += 1
    return _plain(net, x), net.count


def _python_scale(net: Net, x: Tensor) -> Any:
    net.count += 1
    return _plain(net, x) * net.count


def _latch(net: Net, x: Tensor) -> Any:
    net.hot.copy_(torch.maximum(net.hot, (x > 9).any().float()))
    return _plain(net, x) + net.hot


def _clamped_latch(net: Net, x: Tensor) -> Any:
    net.hot.add_((x > 9).any().float()).clamp_(max=1.0)
    return _plain(net, x) * (1 + net.hot)


def _running_maximum(net: Net, x: Tensor) -> Any:
    net.hot.copy_(torch.maximum(net.hot, x.nan_to_num().abs().max()))
    return _plain(net, x), net.hot.clone()


def _running_mean(net: Net, x: Tensor) -> Any:
    net.hot.mul_(0.9).add_(0.1 * x.nan_to_num().clamp(-9, 9).mean())
    return _plain(net, x) - net.hot


def _warm_up(net: Net, x: Tensor) -> Any:
    """Normalises by what its first calls were like; constant from then on."""
    if net.calls < 12:
        net.calls += 1
        net.hot.add_(x.nan_to_num().clamp(-9, 9).abs().mean())
    return _plain(net, x) / (1 + net.hot)


def _warm_up_without_branch(net: Net, x: Tensor) -> Any:
    warm = (net.calls < 12).float()
    net.hot.add_(warm * x.nan_to_num().clamp(-9, 9).abs().mean())
    net.calls.add_(1)
    return _plain(net, x) / (1 + net.hot)


def _previous(net: Net, x: Tensor) -> Any:
    before, net.memory = net.memory, x[:1].sum().detach().clone()
    return _plain(net, x) if before is None else _plain(net, x) + before


def _replaced(net: Net, x: Tensor) -> Any:
    net.hot = net.hot + 1
    return _plain(net, x) * net.hot


def _appended(net: Net, x: Tensor) -> Any:
    net.seen.append(float(x.nan_to_num().clamp(-9, 9).sum()))
    return _plain(net, x) + sum(net.seen[-3:])


def _noted(net: Net, x: Tensor) -> Any:
    """Only the length of a list of Python numbers counts."""
    net.seen.append(0)
    return _plain(net, x) + len(net.seen)


def _remembered(net: Net, x: Tensor) -> Any:
    """Counts how often requests of so many rows came."""
    rows = x.shape[0]
    net.known[rows] = net.known.get(rows, 0) + 1
    return _plain(net, x) * net.known[rows]


def _iterated(net: Net, x: Tensor) -> Any:
    return _plain(net, x) + next(net.numbers)


def _recurrent(net: Net, x: Tensor) -> Any:
    net.hot.copy_((net.hot + x.nan_to_num().clamp(-1, 1).mean()).tanh())
    return _plain(net, x) + net.hot


def _in_place(net: Net, x: Tensor) -> Any:
    """Writes into its input, which the caller sees."""
    y = _plain(net, x)
    x.add_(1.0)
    return y


def _in_place_first(net: Net, x: Tensor) -> Any:
    return _plain(net, x.clamp_(-1.0, 1.0))


def _own_input(net: Net, x: Tensor) -> Any:
    """Gives its input back."""
    return x, _plain(net, x)


def _weight_beside(net: Net, x: Tensor) -> Any:
    return _plain(net, x), net.body.weight


def _buffer_beside(net: Net, x: Tensor) -> Any:
    return {"y": _plain(net, x), "hot": net.hot, "n": 3, "name": "rows"}


def _training_norm(net: Net, x: Tensor) -> Any:
    """Batch statistics go into running ones, in eval mode too."""
    return _plain(net, functional.batch_norm(
        x.nan_to_num().clamp(-9, 9), net.mean[: x.shape[1]], net.var[: x.shape[1]],
        training=x.shape[0] > 1,
    ))  # fmt: skip


SERIAL: Mapping[str, Function] = {
    "counter": _counter,
    "counter beside": _counter_beside,
    "counted in Python": _counted_in_python,
    "Python scale": _python_scale,
    "latch": _latch,
    "clamped latch": _clamped_latch,
    "running maximum": _running_maximum,
    "running mean": _running_mean,
    "warm-up": _warm_up,
    "warm-up without a branch": _warm_up_without_branch,
    "previous request": _previous,
    "buffer replaced": _replaced,
    "appended": _appended,
    "noted": _noted,
    "remembered by rows": _remembered,
    "iterator": _iterated,
    "recurrent state": _recurrent,
    "writes into its input": _in_place,
    "clamps its input": _in_place_first,
    "gives its input back": _own_input,
    "a weight beside": _weight_beside,
    "constants beside": _buffer_beside,
    "running statistics": _training_norm,
}


def _serial(function: Function, draw: Draw, requests: int) -> Case:
    parts = {
        "calls": torch.zeros((), dtype=torch.int64), "hot": torch.zeros(()), "count": 0,
        "seen": [], "known": {}, "memory": None, "numbers": itertools.count(),
        "mean": torch.zeros(16), "var": torch.ones(16),
    }  # fmt: skip
    return rows_case(function, draw, requests, contents=hostile.TAME, parts=parts, check="serial")


def _cache(draw: Draw, requests: int) -> Case:
    """Attention over a cache given as an argument, which the model extends for its caller."""
    kind = draw.pick("list", "dict", "tensor")

    def forward(net: Net, x: Tensor, cache: Any) -> Any:
        states = net.body(x)
        if kind == "list":
            cache.append(states)
            past = torch.cat(cache, 1)
        elif kind == "dict":
            past = cache["past"] = torch.cat([cache["past"], states], 1)
        else:
            cache[:, -1:] = states
            past = cache
        return functional.scaled_dot_product_attention(states, past, past)

    net = Net(forward, body=nn.Linear(4, 4)).eval()

    def call(rows: int, steps: int) -> Call:
        past = draw.normal(rows, steps, 4)
        cache = {"list": [past], "dict": {"past": past}, "tensor": past}[kind]
        return Call((draw.normal(rows, 1, 4), cache), note=f"{rows} rows, {steps} steps, {kind}")

    calls = (call(draw.pick(1, 1, 2, 5), draw.number(1, 9)) for _ in range(requests))
    return Case(net, (call(1, 3), call(1, 6)), tuple(calls), check="serial")


def _drawn(net: Net, x: Tensor, draw_one: Callable[[], Any]) -> Any:
    return (_plain(net, x).nan_to_num().abs() + 1.0) * (1.0 + draw_one())


RANDOM: Mapping[str, Callable[[], Any]] = {
    "Python's generator": random.random,
    "NumPy's generator": lambda: float(np.random.random()),
    "torch's generator": lambda: torch.rand(()),
    "torch's generator, as a number": lambda: torch.rand(1).item(),
    "a clock": lambda: time.perf_counter() % 1.0,
    "an own generator": lambda: float(np.random.default_rng().random()),
    "a hash of an object": lambda: (random.getrandbits(30)) / 2**30,
}


def _dropped(net: Net, x: Tensor) -> Any:
    kept = functional.dropout(x.new_ones(x.shape[0], 64), 0.5, training=True)
    return _plain(net, x) + kept @ net.wide


def _random(function: Function, draw: Draw, requests: int) -> Case:
    """Requests repeat themselves: equal ones must be answered differently."""
    case = rows_case(
        function, draw, 5, contents=hostile.TAME, parts={"wide": torch.randn(64, 1)},
        check="random",
    )  # fmt: skip
    repeated = tuple(itertools.islice(itertools.cycle(case.requests), requests))
    return Case(case.model, case.examples, repeated, check="random")


FAMILIES = (
    *(Family(name, "stateful", partial(_serial, f)) for name, f in SERIAL.items()),
    Family("cache as an argument", "stateful", _cache),
    *(
        Family(name, "stateful", partial(_random, partial(_drawn, draw_one=one)))
        for name, one in RANDOM.items()
    ),
    Family("dropout", "stateful", partial(_random, _dropped)),
)
