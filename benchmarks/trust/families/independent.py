"""Rows that know nothing of each other, in code that looks as if they did.

Right answers are asked for, as everywhere; the table also tells how many are still batched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.trust.cases import Family
from benchmarks.trust.nets import Net, masked_case, rows_case, sequence_case

__all__ = ["FAMILIES"]

Function = Callable[..., Any]


def _folded_attention(net: Net, x: Tensor) -> Tensor:
    """Rows folded into the heads of a batched product."""
    h = net.body(x)
    rows, length, width = h.shape
    heads = h.reshape(rows, length, 1, width).transpose(1, 2).reshape(rows, length, width)
    weights = torch.bmm(heads, heads.transpose(1, 2)).clamp(-9, 9).softmax(-1)
    return net.head(torch.bmm(weights, heads))


def _experts(net: Net, x: Tensor) -> Tensor:
    """All experts on all rows, each row keeping its own two."""
    h = torch.stack([net.body(x), net.body(-x), net.body(x * 0.5)], 1)
    weight, chosen = h.mean(-1).topk(2, dim=1)
    kept = h.gather(1, chosen.unsqueeze(-1).expand(-1, -1, h.shape[-1]))
    return net.head((kept * weight.softmax(-1).unsqueeze(-1)).sum(1))


def _last_token(net: Net, x: Tensor, mask: Tensor) -> Tensor:
    h = net.mix(net.embed(x))
    return net.head(h[torch.arange(x.shape[0]), (mask.sum(1) - 1).clamp(min=0)])


ROWS: Mapping[str, Function] = {
    "plain": lambda net, x: net.head(net.act(net.body(x))),
    "two answers": lambda net, x: {"y": net.head(net.body(x)), "best": net.body(x).argmax(1)},
    "there and back": lambda net, x: net.head(net.body(x.t().contiguous().t())),
    "in two parts": lambda net, x: torch.cat([net.body(x[:1]), net.body(x[1:])]),
    "added and taken": lambda net, x: net.body(x).flip(0).flip(0),
    "norm of each row": lambda net, x: net.head(functional.normalize(net.body(x), dim=1)),
    "einsum": lambda net, x: torch.einsum("bf,hf->bh", x, net.body.weight),
    "outer product": lambda net, x: torch.einsum("bi,bj->bij", x, net.body(x)),
    "experts for each row": _experts,
    "a constant beside": lambda net, x: (net.head(net.body(x)), net.body.bias * 2),
    "a row of one's own": lambda net, x: net.head(net.body(x + net.body.weight[:1])),
    "standardised by itself": lambda net, x: functional.layer_norm(x, x.shape[1:]),
    "sorted within": lambda net, x: x.sort(dim=1).values.cumsum(1),
    "best entry": lambda net, x: (x.argmax(1), x.max(1).values),
}
SEQUENCES: Mapping[str, Function] = {
    "steps as rows": lambda net, x: net.head(
        net.act(net.body(x.reshape(-1, x.shape[-1])))).reshape(x.shape[0], x.shape[1], -1),
    "steps first": lambda net, x: net.head(net.body(x.transpose(0, 1))).transpose(0, 1),
    "steps flattened and permuted": lambda net, x: net.body(
        x.permute(1, 0, 2).flatten(0, 1)).unflatten(0, (x.shape[1], x.shape[0])).permute(1, 0, 2),
    "heads folded into rows": _folded_attention,
    "products of steps": lambda net, x: torch.einsum("btf,bsf->bts", x, x),
    "channels last": lambda net, x: net.body(x).transpose(1, 2).contiguous().transpose(1, 2),
}  # fmt: skip
FAMILIES = (
    *(Family(name, "independent", partial(rows_case, f)) for name, f in ROWS.items()),
    *(Family(name, "independent", partial(sequence_case, f)) for name, f in SEQUENCES.items()),
    Family("last token by index", "independent", partial(masked_case, _last_token)),
)
