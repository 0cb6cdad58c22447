"""Integers that an engine may narrow, wrap or round: 64-bit ids, times, remainders, bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.trust.cases import Call, Case, Family
from benchmarks.trust.draw import Draw
from benchmarks.trust.nets import Net, Single

__all__ = ["FAMILIES"]

Function = Callable[[Net, Tensor], Any]

_DAY_MS = 86_400_000
_NOW_MS = 1_760_000_000_000


def _looked_up(index: Callable[[Tensor], Tensor]) -> Function:
    """The embedding of an index made of the ids, summed."""
    return lambda net, x: net.table(index(x)).sum(1)


# Of int64 `[B, 4]`; the examples are below a thousand, requests anything.
LONG: Mapping[str, Function] = {
    "hashed ids": _looked_up(lambda x: x % 97),
    "multiplied hash": _looked_up(lambda x: (x * 2654435761) % 97),
    "xor hash": _looked_up(lambda x: ((x ^ (x >> 13)) * 1274126177) % 97),
    "low bits": _looked_up(lambda x: x & 63),
    "high bits": _looked_up(lambda x: (x >> 20) & 63),
    "absolute remainder": _looked_up(lambda x: x.abs() % 97),
    "C remainder": _looked_up(lambda x: torch.fmod(x, 97).abs()),
    "floor division": lambda net, x: x // 7,
    "truncated division": lambda net, x: torch.div(x, 7, rounding_mode="trunc"),
    "remainder": lambda net, x: x % 7,
    "remainder by a negative": lambda net, x: x % -7,
    "C remainder of ids": lambda net, x: torch.fmod(x, 7),
    "one more": lambda net, x: x + 1,
    "times three": lambda net, x: (x * 3, net.table(x % 97).sum(1)),
    "difference": lambda net, x: x[:, 1:] - x[:, :-1],
    "negated": lambda net, x: -x,
    "shifted left": lambda net, x: x << 3,
    "shifted right": lambda net, x: x >> 2,
    "bits": lambda net, x: (x & 12, x | 5, x ^ 9, ~x),
    "summed ids": lambda net, x: x.sum(1),
    "cumulated ids": lambda net, x: x.cumsum(1),
    "multiplied ids": lambda net, x: x.prod(1),
    "largest id": lambda net, x: (x.max(1).values, x.argmax(1)),
    "sorted ids": lambda net, x: x.sort(dim=1).values,
    "same id": lambda net, x: (x.unsqueeze(2) == x.unsqueeze(1)).sum(2),
    "clamped id": lambda net, x: net.table(x.clamp(0, 96)),
    "above a limit": lambda net, x: (x > 2**40).long() + (x >= 1000),
    "as float": lambda net, x: x.float() / 1000,
    "as double": lambda net, x: x.double() / 1000,
    "true division": lambda net, x: x / 7,
    "mean of floats": lambda net, x: net.body(x.float().clamp(-9, 9)),
    "root": lambda net, x: x.abs().float().sqrt(),
    "narrowed on purpose": lambda net, x: x.to(torch.int32).to(torch.int64),
    "bytes on purpose": lambda net, x: x.to(torch.uint8),
    "passed through": lambda net, x: (x, net.table(x % 97).mean(1)),
    "weekday": _looked_up(lambda x: (x // _DAY_MS) % 7),
    "hour of the day": _looked_up(lambda x: (x % _DAY_MS) // 3_600_000),
    "seconds since": lambda net, x: (x - _NOW_MS).float() / 1000,
    "bucket": lambda net, x: torch.bucketize(x, torch.tensor([0, 10, 1000, 2**33])),
    "parity": lambda net, x: (x % 2 == 0) & (x > 0),
    "one of twelve": lambda net, x: functional.one_hot(x % 12, 12).sum(1),
    "select": lambda net, x: torch.where(x < 0, x * 2, x - 1),
}


def _int64(draw: Draw, rows: int) -> tuple[Tensor, str]:
    name = draw.pick("small", "negative", "hashed", "epoch ms", "epoch ns", "beyond int32", "edges",
                     "zero", "equal")  # fmt: skip
    shape = (rows, 4)
    found = {
        "small": lambda: draw.integers(0, 1000, shape),
        "negative": lambda: draw.integers(-1000, 0, shape),
        "hashed": lambda: draw.integers(-(2**62), 2**62, shape),
        "epoch ms": lambda: draw.integers(_NOW_MS, 2 * _NOW_MS, shape),
        "epoch ns": lambda: draw.integers(_NOW_MS, 2 * _NOW_MS, shape) * 1_000_000,
        "beyond int32": lambda: draw.integers(2**31 - 2, 2**31 + 3, shape),
        "edges": lambda: torch.tensor([2**63 - 1, -(2**63), 2**53 + 1, 2**24 + 1]).repeat(rows, 1),
        "zero": lambda: torch.zeros(shape, dtype=torch.int64),
        "equal": lambda: torch.full(shape, draw.number(-5, 5)),
    }[name]()
    return found, f"{name} ids"


def _long(function: Function, draw: Draw, requests: int) -> Case:
    net = Single(function, table=nn.Embedding(97, 5), body=nn.Linear(4, 3)).eval()
    examples = tuple(Call((draw.integers(1, 1000, (rows, 4)),)) for rows in (1, 2))

    def call() -> Call:
        x, note = _int64(draw, draw.rows())
        return Call((x,), note=f"{tuple(x.shape)} {note}")

    return Case(net, examples, tuple(call() for _ in range(requests)))


# Of `[B, 6]` in a narrow type; torch wraps around, and so must every plan.
NARROW: Mapping[str, Function] = {
    "wraps around": lambda net, x: x + 100,
    "product wraps": lambda net, x: x * 3,
    "narrow sum": lambda net, x: x.sum(1),
    "narrow difference": lambda net, x: x - 7,
    "narrow remainder": lambda net, x: x % 7,
    "narrow division": lambda net, x: x // 3,
    "narrow negation": lambda net, x: -x,
    "narrow shift": lambda net, x: x << 2,
    "image of bytes": lambda net, x: net.body(x.float() / 255),
    "average of narrow": lambda net, x: x.float().mean(1),
    "narrow largest": lambda net, x: (x.max(1).values, x.argmax(1)),
    "narrow comparison": lambda net, x: (x > 100).sum(1),
}


def _narrow(function: Function, draw: Draw, requests: int) -> Case:
    dtype = draw.pick(torch.uint8, torch.int8, torch.int16, torch.int32)
    limits = torch.iinfo(dtype)
    net = Single(function, body=nn.Linear(6, 3)).eval()
    small = tuple(Call((draw.integers(1, 9, (rows, 6)).to(dtype),)) for rows in (1, 2))

    def call() -> Call:
        shape, name = (draw.rows(), 6), draw.pick("any", "largest", "least", "small")
        x = {
            "any": lambda: draw.integers(limits.min, limits.max + 1, shape),
            "largest": lambda: torch.full(shape, limits.max),
            "least": lambda: torch.full(shape, limits.min),
            "small": lambda: draw.integers(0, 9, shape),
        }[name]().to(dtype)
        return Call((x,), note=f"{tuple(x.shape)} {name} {dtype}")

    return Case(net, small, tuple(call() for _ in range(requests)))


# Of float64 `[B, 6]`.
DOUBLE: Mapping[str, Function] = {
    "double sums": lambda net, x: (x + 1e9) - 1e9,
    "double layer": lambda net, x: net.body(x),
    "double cumulated": lambda net, x: x.cumsum(1),
    "double times": lambda net, x: (x * 1e200).abs() * 1e-200,
    "double to float": lambda net, x: net.body(x).float(),
    "double seconds": lambda net, x: (x + 1.76e9) % 60.0,
    "double beside float": lambda net, x: (net.body(x).float(), x.sum(1)),
}


def _double(function: Function, draw: Draw, requests: int) -> Case:
    net = Single(function, body=nn.Linear(6, 3)).eval().double()
    examples = tuple(Call((draw.normal(rows, 6).double(),)) for rows in (1, 2))

    def call() -> Call:
        rows, scale = draw.rows(), draw.pick(1.0, 1.0, 1e-9, 1e9, 1e60)
        x = torch.from_numpy(draw.rng.standard_normal((rows, 6))) * scale
        return Call((x,), note=f"{tuple(x.shape)} float64 times {scale:g}")

    return Case(net, examples, tuple(call() for _ in range(requests)))


# Of bool `[B, 6]`, and of scores `[B, 6]` full of ties.
BOOLEAN: Mapping[str, Function] = {
    "boolean and": lambda net, x: x & x.roll(1, 1),
    "boolean or, not": lambda net, x: (x | ~x.roll(1, 1), x ^ x.flip(1)),
    "boolean sum": lambda net, x: x.sum(1),
    "boolean any, all": lambda net, x: (x.any(1), x.all(1)),
    "boolean times": lambda net, x: net.body(x.float()) * x[:, :1],
    "boolean select": lambda net, x: torch.where(x, 3, -1),
    "boolean plus": lambda net, x: x + x,
    "boolean cumulated": lambda net, x: x.cumsum(1),
}
TIES: Mapping[str, Function] = {
    "first of equals": lambda net, x: x.argmax(1),
    "least of equals": lambda net, x: x.argmin(1),
    "classes": lambda net, x: net.body(x).argmax(1),
    "rounded": lambda net, x: (x * 0.5).round(),
    "floored": lambda net, x: (x.floor(), x.ceil(), x.trunc(), x.frac()),
    "float to integer": lambda net, x: (x * 0.7).long(),
    "signs": lambda net, x: (x.sign().long(), x.signbit()),
    "float remainder": lambda net, x: (x % 3.0, torch.fmod(x, 3.0)),
    "float floor division": lambda net, x: x // 2.0,
    "digits": lambda net, x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])),
}


def _boolean(function: Function, draw: Draw, requests: int) -> Case:
    net = Single(function, body=nn.Linear(6, 3)).eval()

    def call(rows: int) -> Call:
        x = draw.integers(0, 2, (rows, 6)).bool()
        kind = draw.pick("any", "any", "all True", "all False")
        x = {"any": x, "all True": x | True, "all False": x & False}[kind]
        return Call((x,), note=f"{tuple(x.shape)} {kind}")

    return Case(net, (call(1), call(2)), tuple(call(draw.rows()) for _ in range(requests)))


def _ties(function: Function, draw: Draw, requests: int) -> Case:
    net = Single(function, body=nn.Linear(6, 3)).eval()

    def call() -> Call:
        x = draw.integers(-3, 4, (draw.rows(), 6)).float() * draw.pick(1.0, 0.5, 7.0, -1.0, 1e5)
        return Call((x,), note=f"{tuple(x.shape)} few values")

    examples = (Call((draw.normal(1, 6),)), Call((draw.normal(3, 6),)))
    return Case(net, examples, tuple(call() for _ in range(requests)))


FAMILIES = tuple(
    Family(name, "integer", partial(build, function))
    for build, table in (
        (_long, LONG), (_narrow, NARROW), (_double, DOUBLE), (_boolean, BOOLEAN), (_ties, TIES)
    )
    for name, function in table.items()
)  # fmt: skip
