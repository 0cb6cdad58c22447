"""Sequences of any length: an encoder drawn at random, and one way to come to an answer.

Padding is neutral for some of them with some masks only. Every pooling is tried with every
sort of encoder as seeds go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.trust.cases import Case, Family
from benchmarks.trust.draw import Draw
from benchmarks.trust.nets import Net, masked_case, sequence_case, token_case

__all__ = ["FAMILIES"]

Pool = Callable[..., Any]

_LOWEST = torch.finfo(torch.float32).min


def _encoder(draw: Draw) -> Callable[[Net, Tensor], Tensor]:
    """From ids to states `[B, T, H]` which depend on no other position, or only near ones."""
    return draw.pick(
        lambda net, x: net.embed(x),
        lambda net, x: net.mix(net.embed(x)),
        lambda net, x: net.act(net.mix(net.embed(x))),
        lambda net, x: net.mix(net.embed(x) + net.position[: x.shape[1]]),
        lambda net, x: functional.layer_norm(net.mix(net.embed(x)), (net.hidden,)),
        lambda net, x: net.act(net.mix(net.embed(x))) + 1.0,
        lambda net, x: net.act(net.mix(net.embed(x))) - 1.0,
    )


def _count(h: Tensor) -> int:
    return h.shape[1]


def _attended(net: Net, h: Tensor, **keywords: Any) -> Tensor:
    """Self-attention with `keywords` of `scaled_dot_product_attention`."""
    states = h.unsqueeze(1)
    return functional.scaled_dot_product_attention(states, states, states, **keywords).squeeze(1)


def _rotary(net: Net, h: Tensor) -> Tensor:
    """Attention weighted by how far apart positions are."""
    places = torch.arange(_count(h))
    apart = (places.unsqueeze(0) - places.unsqueeze(1)).abs()
    return (h @ h.transpose(1, 2) / math.sqrt(net.hidden) - apart).softmax(-1) @ h


def _nonzero_mean(net: Net, h: Tensor) -> Tensor:
    """Mean over the steps that are not all zero: a mask made of the states themselves."""
    kept = (h != 0).any(-1, keepdim=True)
    return (h * kept).sum(1) / kept.sum(1).clamp(min=1)


# From states `[B, T, H]` to an answer, without a mask.
BARE: Mapping[str, Pool] = {
    "max": lambda net, h: h.max(dim=1).values,
    "amax": lambda net, h: net.head(h.amax(1)),
    "min": lambda net, h: h.amin(1),
    "mean": lambda net, h: net.head(h.mean(1)),
    "sum": lambda net, h: net.head(h.sum(1)),
    "sum over length": lambda net, h: net.head(h.sum(1) / _count(h)),
    "over the root of length": lambda net, h: h.sum(1) / math.sqrt(_count(h)),
    "length as a number": lambda net, h: (h.sum(1), torch.full((h.shape[0],), _count(h))),
    "standard deviation": lambda net, h: h.std(1, False),
    "softmax pooling": lambda net, h: (net.score(h).softmax(1) * h).sum(1),
    "log of summed exponentials": lambda net, h: h.logsumexp(1),
    "last": lambda net, h: net.head(h[:, -1]),
    "first": lambda net, h: net.head(h[:, 0]),
    "first and last": lambda net, h: torch.cat([h[:, 0], h[:, -1]], 1),
    "best position": lambda net, h: net.score(h).squeeze(-1).argmax(1),
    "best positions": lambda net, h: h.amax(-1).topk(min(2, _count(h)), dim=1).values.sum(1),
    "median": lambda net, h: h.median(dim=1).values,
    "product": lambda net, h: h.tanh().prod(1),
    "norm over time": lambda net, h: h / (h.norm(dim=1, keepdim=True) + 1e-6),
    "standardised over time": lambda net, h: (h - h.mean(1, True)) / (h.std(1, False, True) + 1),
    "norm of time and width": lambda net, h: functional.layer_norm(h, h.shape[1:]),
    "softmax over time": lambda net, h: h.softmax(1),
    "each position": lambda net, h: net.head(h),
    "cumulative sum": lambda net, h: net.head(h.cumsum(1)),
    "cumulative maximum": lambda net, h: h.cummax(1).values,
    "cumulative sum backwards": lambda net, h: h.flip(1).cumsum(1).flip(1),
    "flip": lambda net, h: net.head(h.flip(1)),
    "rolled over time": lambda net, h: h + h.roll(1, 1),
    "differences": lambda net, h: h - torch.cat([h[:, 1:], h[:, -1:]], 1),
    "sort over time": lambda net, h: h.sort(dim=1).values,
    "position from the end": lambda net, h: h + net.position[: _count(h)].flip(0),
    "relative positions": _rotary,
    "share of the way": lambda net, h: h * torch.linspace(0, 1, _count(h)).view(1, -1, 1),
    "attention": lambda net, h: net.head(_attended(net, h)),
    "causal attention": lambda net, h: net.head(_attended(net, h, is_causal=True)),
    "causal attention, last": lambda net, h: net.head(_attended(net, h, is_causal=True)[:, -1]),
    "mean of steps that are not zero": _nonzero_mean,
    "cls token": lambda net, h: _attended(net, torch.cat([net.position[:1].expand(
        h.shape[0], 1, net.hidden), h], 1))[:, 0],
    "cls token, max": lambda net, h: torch.cat([net.position[:1].expand(
        h.shape[0], 1, net.hidden), h], 1).amax(1),
    "steps that are positive": lambda net, h: (h.sum(-1) > 0).sum(1),
    "any step": lambda net, h: (h > 0.5).any(1),
    "all steps": lambda net, h: (h > -0.5).all(1),
    "first positive step": lambda net, h: (h.sum(-1) > 0).long().argmax(1),
    "average pooling": lambda net, h: functional.adaptive_avg_pool1d(h.transpose(1, 2), 1),
    "max pooling by threes": lambda net, h: functional.max_pool1d(
        h.transpose(1, 2), 3, 1, 1).transpose(1, 2),
    "average by threes": lambda net, h: functional.avg_pool1d(
        h.transpose(1, 2), 3, 1, 1).transpose(1, 2),
    "interpolated": lambda net, h: functional.interpolate(
        h.transpose(1, 2), size=4, mode="linear"),
}  # fmt: skip


def _mean(h: Tensor, m: Tensor, least: float) -> Tensor:
    m = m.unsqueeze(-1).to(h.dtype)
    total = (h * m).sum(1)
    return total / (m.sum(1).clamp(min=least) if least else m.sum(1))


def _last_kept(net: Net, h: Tensor, m: Tensor) -> Tensor:
    places = torch.arange(m.shape[1])
    last = torch.where(m.bool(), places, -1).amax(1).clamp(min=0)
    return h[torch.arange(h.shape[0]), last]


def _positions(net: Net, h: Tensor, m: Tensor) -> Tensor:
    """Positions counted over what is kept, as decoders do for left-padded texts."""
    places = (m.cumsum(1) - 1).clamp(min=0)
    return ((h + net.position[places]) * m.unsqueeze(-1)).sum(1)


def _filled(value: float, change: Pool) -> Pool:
    """What is masked gets a value that should never win, then ``change``."""
    return lambda net, h, m: change(net, h.masked_fill(m.unsqueeze(-1) == 0, value))


def _weighted(value: float) -> Pool:
    """Softmax pooling whose masked scores are `value`."""

    def pool(net: Net, h: Tensor, m: Tensor) -> Tensor:
        weights = net.score(h).squeeze(-1).masked_fill(m == 0, value).softmax(1)
        return net.head((weights.unsqueeze(-1) * h).sum(1))

    return pool


def _boolean(net: Net, h: Tensor, m: Tensor) -> Tensor:
    return _attended(net, h, attn_mask=(m != 0)[:, None, None, :])


def _additive(net: Net, h: Tensor, m: Tensor) -> Tensor:
    return _attended(net, h, attn_mask=((1.0 - m.float()) * -1e4)[:, None, None, :])


def _lowest(net: Net, h: Tensor, m: Tensor) -> Tensor:
    return _attended(net, h, attn_mask=((1.0 - m.float()) * _LOWEST)[:, None, None, :])


def _decoder(net: Net, h: Tensor, m: Tensor) -> Tensor:
    """A causal decoder: a position sees what is kept and not after it."""
    places = torch.arange(m.shape[1])
    seen = (places.unsqueeze(0) <= places.unsqueeze(1)) & (m != 0).unsqueeze(1)
    return net.head(_attended(net, h, attn_mask=seen.unsqueeze(1)))


def _decoder_additive(net: Net, h: Tensor, m: Tensor) -> Tensor:
    places = torch.arange(m.shape[1])
    seen = (places.unsqueeze(0) <= places.unsqueeze(1)) & (m != 0).unsqueeze(1)
    bias = torch.zeros(seen.shape).masked_fill(~seen, _LOWEST)
    return net.head(_attended(net, h, attn_mask=bias.unsqueeze(1)))


# From states `[B, T, H]` and a mask `[B, T]` of int64 to an answer.
KEPT: Mapping[str, Pool] = {
    "multiplied, max": lambda net, h, m: (h * m.unsqueeze(-1)).max(dim=1).values,
    "multiplied, min": lambda net, h, m: (h * m.unsqueeze(-1)).amin(1),
    "multiplied, sum": lambda net, h, m: net.head((h * m.unsqueeze(-1)).sum(1)),
    "multiplied, mean of all": lambda net, h, m: (h * m.unsqueeze(-1)).mean(1),
    "multiplied, softmax": lambda net, h, m: ((net.score(h) * m.unsqueeze(-1)).softmax(1) * h).sum(
        1),
    "multiplied, logsumexp": lambda net, h, m: (h * m.unsqueeze(-1)).logsumexp(1),
    "mean of kept": lambda net, h, m: net.head(_mean(h, m, 1.0)),
    "mean of kept, unguarded": lambda net, h, m: _mean(h, m, 0.0),
    "mean of kept, small guard": lambda net, h, m: net.head(_mean(h, m, 1e-9)),
    "max with -inf": _filled(-math.inf, lambda net, h: h.amax(1)),
    "max with -1e4": _filled(-1e4, lambda net, h: h.amax(1)),
    "max with -1": _filled(-1.0, lambda net, h: h.amax(1)),
    "max with the lowest": _filled(_LOWEST, lambda net, h: net.head(h.amax(1).clamp(min=-9))),
    "min with inf": _filled(math.inf, lambda net, h: h.amin(1)),
    "softmax with -inf": _weighted(-math.inf),
    "softmax with -1e4": _weighted(-1e4),
    "softmax with -5": _weighted(-5.0),
    "softmax with the lowest": _weighted(_LOWEST),
    "last kept by count": lambda net, h, m: h[
        torch.arange(h.shape[0]), (m.sum(1) - 1).clamp(min=0)],
    "last kept by place": _last_kept,
    "last kept by count, unguarded": lambda net, h, m: h[torch.arange(h.shape[0]), m.sum(1) - 1],
    "positions of what is kept": _positions,
    "count of kept": lambda net, h, m: (net.head(h.sum(1)), m.sum(1)),
    "share of kept": lambda net, h, m: m.float().mean(1),
    "mask ignored, max": lambda net, h, m: h.amax(1),
    "mask ignored, each position": lambda net, h, m: net.head(h),
    "masked positions zero": lambda net, h, m: net.head(h) * m.unsqueeze(-1),
    "boolean attention": _boolean,
    "additive attention": _additive,
    "lowest attention": _lowest,
    "boolean attention, mean": lambda net, h, m: _mean(_boolean(net, h, m), m, 1.0),
    "additive attention, first": lambda net, h, m: net.head(_additive(net, h, m)[:, 0]),
    "lowest attention, mean": lambda net, h, m: net.head(_mean(_lowest(net, h, m), m, 1e-9)),
    "boolean decoder": _decoder,
    "additive decoder": _decoder_additive,
    "decoder, last kept": lambda net, h, m: _last_kept(net, _decoder(net, h, m), m),
    "cumulative sum of kept": lambda net, h, m: (h * m.unsqueeze(-1)).cumsum(1),
    "sorted kept": lambda net, h, m: (h * m.unsqueeze(-1)).sort(dim=1).values,
}  # fmt: skip


def _bare(pool: Pool, draw: Draw, requests: int) -> Case:
    encode = _encoder(draw)
    return token_case(lambda net, x: pool(net, encode(net, x)), draw, requests)


def _kept(pool: Pool, draw: Draw, requests: int) -> Case:
    encode = _encoder(draw)
    return masked_case(lambda net, x, mask: pool(net, encode(net, x), mask), draw, requests)


def _of_ids(draw: Draw, requests: int) -> Case:
    """The mask comes from the ids themselves, 0 being the padding."""
    encode, pool = _encoder(draw), draw.pick(*KEPT.values())
    return token_case(lambda net, x: pool(net, encode(net, x), (x != 0).long()), draw, requests)


def _states(draw: Draw, requests: int) -> Case:
    """Float sequences instead of ids, where a zero is a value like any other."""
    pool = draw.pick(
        lambda net, h: h.amax(1), lambda net, h: h.mean(1), lambda net, h: h.sum(1),
        lambda net, h: net.head(h), lambda net, h: h.softmax(1), lambda net, h: h.cumsum(1),
        lambda net, h: (h @ h.transpose(1, 2)).clamp(-9, 9).softmax(-1) @ h, _nonzero_mean,
    )  # fmt: skip
    return sequence_case(lambda net, x: pool(net, net.act(net.body(x))), draw, requests)


def _text_cnn(draw: Draw, requests: int) -> Case:
    """Convolutions over time, same or valid, then a maximum, a mean or each position."""
    padding, kernel = draw.pick("same", "valid", "causal"), draw.pick(2, 3)
    pool = draw.pick(lambda c: c.amax(2), lambda c: c.mean(2), lambda c: c, lambda c: c.relu())

    def forward(net: Net, x: Tensor) -> Any:
        h = net.embed(x).transpose(1, 2)
        room = {"same": (kernel // 2, kernel // 2), "valid": (0, 0), "causal": (kernel - 1, 0)}
        convolved = functional.conv1d(functional.pad(h, room[padding]), net.filters, net.offset)
        return pool(convolved)

    return token_case(forward, draw, requests, parts=_embedded(draw, {
        "filters": lambda hidden: nn.Parameter(torch.randn(6, hidden, kernel) / hidden),
        "offset": lambda hidden: nn.Parameter(torch.randn(6) - draw.pick(0.0, 2.0)),
    }))  # fmt: skip


def _recurrent(draw: Draw, requests: int) -> Case:
    """A GRU, an LSTM or a plain RNN, one way or both, then one way to come to an answer."""
    sort, both = draw.pick(nn.GRU, nn.LSTM, nn.RNN), draw.chance(0.5)
    pool = draw.pick(
        lambda h, m: h.amax(1), lambda h, m: h.mean(1), lambda h, m: h[:, -1], lambda h, m: h,
        lambda h, m: (h * m.unsqueeze(-1)).amax(1), lambda h, m: _mean(h, m, 1.0),
        lambda h, m: h.masked_fill(m.unsqueeze(-1) == 0, -1e4).amax(1),
    )  # fmt: skip

    def forward(net: Net, x: Tensor, mask: Tensor) -> Any:
        return pool(net.memory(net.embed(x))[0], mask)

    return masked_case(forward, draw, requests, parts=_embedded(draw, {
        "memory": lambda hidden: sort(hidden, 4, batch_first=True, bidirectional=both),
    }))  # fmt: skip


def _final_state(draw: Draw, requests: int) -> Case:
    """The last state of a recurrent layer, which has seen every step."""
    sort = draw.pick(nn.GRU, nn.RNN)

    def forward(net: Net, x: Tensor) -> Any:
        return net.memory(net.embed(x))[1].squeeze(0)

    return token_case(forward, draw, requests, parts=_embedded(draw, {
        "memory": lambda hidden: sort(hidden, 4, batch_first=True),
    }))  # fmt: skip


def _masked_cnn(draw: Draw, requests: int) -> Case:
    """Two convolutions; the mask is applied before, between, after or nowhere."""
    where = draw.pick("before", "between", "after", "nowhere")
    pool = draw.pick(lambda c, m: c.amax(2), lambda c, m: c.sum(2), lambda c, m: c,
                     lambda c, m: c.masked_fill(m == 0, -1e4).amax(2))  # fmt: skip

    def forward(net: Net, x: Tensor, mask: Tensor) -> Any:
        m = mask.unsqueeze(1)
        h = net.embed(x).transpose(1, 2)
        h = net.first(h * m if where == "before" else h).relu()
        h = net.second(h * m if where == "between" else h)
        return pool(h * m if where == "after" else h, m)

    return masked_case(forward, draw, requests, parts=_embedded(draw, {
        "first": lambda hidden: nn.Conv1d(hidden, 6, 3, padding=1),
        "second": lambda hidden: nn.Conv1d(6, 6, 3, padding=1),
    }))  # fmt: skip


def _transformer(draw: Draw, requests: int) -> Case:
    """A layer of `nn.TransformerEncoderLayer` under a padding mask, pooled."""
    pool = draw.pick(lambda h, m: h[:, 0], lambda h, m: _mean(h, m, 1.0), lambda h, m: h.amax(1))

    def forward(net: Net, x: Tensor, mask: Tensor) -> Any:
        return pool(net.layer(net.embed(x), src_key_padding_mask=mask == 0), mask)

    return masked_case(forward, draw, requests, parts=_embedded(draw, {
        "layer": lambda hidden: nn.TransformerEncoderLayer(
            hidden, 2, 16, dropout=0.0, batch_first=True, norm_first=draw.chance(0.5)),
    }))  # fmt: skip


def _embedded(draw: Draw, parts: Mapping[str, Callable[[int], Any]]) -> dict[str, Any]:
    """An embedding, and layers of its width."""
    hidden = draw.pick(4, 8)
    embed = nn.Embedding(101, hidden, padding_idx=draw.pick(None, 0))
    return {"embed": embed} | {name: make(hidden) for name, make in parts.items()}


FAMILIES = (
    *(Family(name, "padded", partial(_bare, pool)) for name, pool in BARE.items()),
    *(Family(name, "padded", partial(_kept, pool)) for name, pool in KEPT.items()),
    Family("mask of the ids", "padded", _of_ids),
    Family("float states", "padded", _states),
    Family("text CNN", "padded", _text_cnn),
    Family("masked CNN", "padded", _masked_cnn),
    Family("recurrent", "padded", _recurrent),
    Family("final state", "padded", _final_state),
    Family("transformer layer", "padded", _transformer),
)
