"""Requests that the model itself refuses, which a plan may well answer, or die of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.trust.cases import Call, Case, Family
from benchmarks.trust.draw import Draw
from benchmarks.trust.nets import Net, Single, rows_case

__all__ = ["FAMILIES"]

_TABLE = 20

# Of ids `[B, 4]` into tables of twenty rows.
INDEXED: Mapping[str, Callable[[Net, Tensor], Any]] = {
    "embedding": lambda net, x: net.table(x).sum(1),
    "embedding, then a layer": lambda net, x: net.head(net.table(x)).relu(),
    "indexed parameter": lambda net, x: net.rows[x],
    "indexed parameter, masked": lambda net, x: net.rows[x] * (x > 0).unsqueeze(-1),
    "index select": lambda net, x: net.rows.index_select(0, x.reshape(-1)).reshape(
        x.shape[0], 4, -1),
    "gather": lambda net, x: net.rows[:, 0].expand(x.shape[0], -1).gather(1, x),
    "take along": lambda net, x: torch.take_along_dim(net.rows[:4].t()[:1].expand(
        x.shape[0], 4), x, 1),
    "scatter": lambda net, x: torch.zeros(x.shape[0], _TABLE).scatter(1, x, 1.0),
    "scatter add": lambda net, x: torch.zeros(x.shape[0], _TABLE).scatter_add(
        1, x, torch.ones(x.shape)),
    "one-hot": lambda net, x: functional.one_hot(x, _TABLE).float() @ net.rows,
    "position table": lambda net, x: net.table(x) + net.rows[x[:, :1] + x[:, 1:2]],
    "two tables": lambda net, x: net.table(x).sum(1) + net.small(x[:, 0]),
    "embedding bag": lambda net, x: functional.embedding_bag(x, net.rows, mode="mean"),
    "offset ids": lambda net, x: net.table(x - 1),
    "looked up twice": lambda net, x: net.table(net.next_id[x]),
    "loss": lambda net, x: functional.cross_entropy(
        net.rows[:4].t()[:3].expand(x.shape[0], 3, 4), x, reduction="none"),
}  # fmt: skip


def _indexed(function: Callable[[Net, Tensor], Any], draw: Draw, requests: int) -> Case:
    net = Single(
        function, table=nn.Embedding(_TABLE, 6), small=nn.Embedding(8, 6), head=nn.Linear(6, 3),
        rows=nn.Parameter(torch.randn(_TABLE, 6)), next_id=torch.arange(1, _TABLE + 1),
    ).eval()  # fmt: skip
    safe = 3 if function in (INDEXED["take along"], INDEXED["loss"]) else 8
    examples = tuple(Call((draw.integers(1, safe, (rows, 4)),)) for rows in (1, 2))

    def call() -> Call:
        x = draw.integers(0, _TABLE, (draw.rows(), 4))
        note = "in the table"
        if draw.chance(0.3):
            outside = draw.pick(-1, -_TABLE, -_TABLE - 1, _TABLE, _TABLE + 3, 10**6, 2**31, 2**32,
                                -(2**32), 2**62)  # fmt: skip
            x.view(-1)[draw.number(0, x.numel() - 1)] = outside
            note = f"one {outside}"
        elif draw.chance(0.4):
            x = x % safe
            note = "small"
        return Call((x,), note=f"{tuple(x.shape)} {note}")

    return Case(net, examples, tuple(call() for _ in range(requests)))


def _refused(net: Net, x: Tensor, error: type[BaseException]) -> Tensor:
    """The model's own check of the contents."""
    if bool((x.abs() > net.limit).any()):
        raise error("x must be small")
    return net.head(net.act(net.body(x)))


def _asserted(net: Net, x: Tensor) -> Tensor:
    torch._assert(x.shape[0] < 8, "at most seven rows")
    return net.head(net.body(x))


def _checked(net: Net, x: Tensor) -> Tensor:
    if x.shape[0] > 4:
        raise ValueError("at most four rows at a time")
    return net.head(net.act(net.body(x)))


def _checked_async(net: Net, x: Tensor) -> Tensor:
    torch._assert_async((x.abs() < net.limit).all(), "x must be small")
    return net.head(net.body(x))


def _wrong_shapes(draw: Draw, requests: int) -> Case:
    """Some requests are of another width, another number of dimensions, or empty."""
    case = rows_case(lambda net, x: net.head(net.act(net.body(x))), draw, requests)

    def call(own: Call) -> Call:
        (x,) = own.args
        others = {
            "as it was": x, "one column more": functional.pad(x, (0, 1)), "one less": x[:, 1:],
            "a vector": x[0], "three dimensions": x.unsqueeze(0), "no rows": x[:0],
            "int64": x.nan_to_num().clamp(-9, 9).long(), "half": x.half(), "a scalar": x[0, 0],
            "a transposed view": x.t().contiguous().t(), "a strided view": x.repeat(2, 1)[::2],
        }  # fmt: skip
        name = "as it was" if draw.chance(0.5) else draw.pick(*others)
        return Call((others[name],), note=f"{own.note}, {name}")

    return Case(case.model, case.examples, tuple(call(own) for own in case.requests))


def _wrong_calls(draw: Draw, requests: int) -> Case:
    """Some requests have an argument too many, too few, None, or of another type."""
    case = rows_case(lambda net, x: net.head(net.act(net.body(x))), draw, requests)

    def call(own: Call) -> Call:
        (x,) = own.args
        others: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
            "by name": ((), {"x": x}),
            "twice": ((x, x), {}),
            "none": ((), {}),
            "None": ((None,), {}),
            "a list": ((x.tolist(),), {}),
            "another name": ((), {"y": x}),
            "a number": ((3.0,), {}),
            "an array": ((x.numpy(),), {}),
        }
        if draw.chance(0.5):
            return own
        name = draw.pick(*others)
        return Call(*others[name], note=f"{own.note}, {name}")

    return Case(case.model, case.examples, tuple(call(own) for own in case.requests))


RAISED: tuple[type[BaseException], ...] = (
    ValueError, KeyError, RuntimeError, TimeoutError, StopIteration, MemoryError, SystemExit,
    KeyboardInterrupt, GeneratorExit, CancelledError,
)  # fmt: skip

FAMILIES = (
    *(Family(name, "errors", partial(_indexed, f)) for name, f in INDEXED.items()),
    *(
        Family(f"raises {e.__name__}", "errors", partial(rows_case, partial(_refused, error=e)))
        for e in RAISED
    ),
    Family("asserted rows", "errors", partial(rows_case, _asserted)),
    Family("checked rows", "errors", partial(rows_case, _checked)),
    Family("asserted contents", "errors", partial(rows_case, _checked_async)),
    Family("wrong shapes", "errors", _wrong_shapes),
    Family("wrong calls", "errors", _wrong_calls),
)
