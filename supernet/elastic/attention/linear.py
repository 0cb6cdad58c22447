"""Attention whose cost grows with the length, not with its square: linear, and near keys only.

Plain functions of tensors, so that what is traced from them exports and compiles. Shapes: queries
``[B, H, L, D]``, keys ``[B, G, S, D]``, values ``[B, G, S, E]`` with ``G`` a divisor of ``H`` (each
key serves ``H // G`` neighbouring queries), ``valid`` booleans ``[B or 1, H or 1, S]``, False for
padded keys, or None; the answer is ``[B, H, L, E]``. Causal forms take ``S == L``.

Zhang et al. 2024, "The Hedgehog & the Porcupine", arXiv:2402.04347 (feature map, section 4.2);
Katharopoulos et al. 2020, arXiv:2006.16236 (linear attention, section 3.2); Xiao et al. 2024,
"Efficient Streaming Language Models with Attention Sinks", arXiv:2309.17453.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["causal_linear_attention", "feature_map", "linear_attention", "window_attention"]

_CHUNK = 64
# Weights of a row add up to at least this, so that one without any valid key gives zeros.
_LEAST = 1e-12


def feature_map(x: Tensor, weight: Tensor) -> Tensor:
    """Hedgehog features ``[softmax(xW) ⊕ softmax(-xW)]``: ``[B, H, L, D]`` to ``[B, H, L, 2D]``.

    `weight`: ``[H, D, D]``, the identity to begin with.
    """
    turned = x @ weight
    return torch.cat([turned.softmax(-1), (-turned).softmax(-1)], dim=-1)


def linear_attention(query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None) -> Tensor:
    """``φ(q) (φ(k)ᵀ v) / (φ(q) · Σ φ(k))``, all keys for every query.

    `query` and `key` are features, positive numbers; keys that are not valid count nothing.
    """
    key, value = _for_each_head(query, key), _for_each_head(query, value)
    key = _masked(key, valid)
    mixed = query @ (key.transpose(-2, -1) @ value)
    total = query.float() @ key.float().sum(-2).unsqueeze(-1)
    return _divided(mixed, total)


def causal_linear_attention(
    query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None
) -> Tensor:
    """The same, a query seeing its own key and those before it: in chunks of 64.

    Within a chunk the products are masked, what came before it is a running sum. There are always
    two chunks or more, so that a trace holds for every length.
    """
    key, value = _for_each_head(query, key), _for_each_head(query, value)
    length = query.shape[-2]
    key = _masked(key, valid)
    q, k, v = (_blocks(x, _CHUNK, length) for x in (query, key, value))
    seen = torch.ones(_CHUNK, _CHUNK, dtype=torch.bool, device=q.device).tril()
    near = (q @ k.transpose(-2, -1)) * seen.to(q.dtype)
    before = _running(k.transpose(-2, -1) @ v)
    summed = _running(k.float().sum(-2).unsqueeze(-1))
    mixed = near @ v + q @ before
    total = near.float().sum(-1, keepdim=True) + q.float() @ summed
    return _unblocked(_divided(mixed, total), length)


def window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    valid: Tensor | None,
    *,
    window: int,
    sinks: int,
    scale: float,
    causal: bool,
) -> Tensor:
    """Softmax attention to keys at most `window` away and to the first `sinks` keys.

    `sinks` is at most `window`. Computed block by block, each with its neighbours.
    """
    key, value = _for_each_head(query, key), _for_each_head(query, value)
    length, device = query.shape[-2], query.device
    q, k, v = (_blocks(x, window, length) for x in (query, key, value))
    if valid is None:
        valid = torch.ones((1, 1, length), dtype=torch.bool, device=device)
    is_key = _blocks(valid.unsqueeze(-1), window, length)
    sides = (1, 0) if causal else (1, 0, -1)
    near_k, near_v, near_valid = (
        torch.cat([_shifted(x, side) for side in sides], dim=3) for x in (k, v, is_key)
    )
    far = torch.arange(len(sides) * window, device=device) - window
    far = far - torch.arange(window, device=device).unsqueeze(-1)
    near_allowed = (far >= -window) & (far <= (0 if causal else window))
    near_allowed = near_allowed & near_valid.transpose(-2, -1)
    first_k, first_v, first_valid = (x[:, :, :1, :sinks] for x in (k, v, is_key))
    place = torch.arange(q.shape[2] * window, device=device).reshape(-1, window, 1)
    beyond = torch.arange(sinks, device=device) < place - window
    first_allowed = beyond & first_valid.transpose(-2, -1)
    scores = torch.cat([q @ near_k.transpose(-2, -1), q @ first_k.transpose(-2, -1)], dim=-1)
    allowed = torch.cat([near_allowed, first_allowed], dim=-1)
    scores = (scores.float() * scale).masked_fill(~allowed, torch.finfo(torch.float32).min)
    weights = (scores.softmax(-1) * allowed).to(v.dtype)
    cut = len(sides) * window
    mixed = weights[..., :cut] @ near_v + weights[..., cut:] @ first_v
    return _unblocked(mixed, length)


def _for_each_head(query: Tensor, x: Tensor) -> Tensor:
    """One key or value for every query head: each serves a group of neighbours."""
    heads, groups = query.shape[1], x.shape[1]
    if heads == groups:
        return x
    wide = x.unsqueeze(2).expand(-1, -1, heads // groups, -1, -1)
    return wide.reshape(x.shape[0], heads, x.shape[2], x.shape[3])


def _divided(mixed: Tensor, total: Tensor) -> Tensor:
    return (mixed.float() / total.clamp(min=_LEAST)).to(mixed.dtype)


def _masked(key: Tensor, valid: Tensor | None) -> Tensor:
    return key if valid is None else key * valid.unsqueeze(-1).to(key.dtype)


def _blocks(x: Tensor, size: int, length: int) -> Tensor:
    """``[B, H, L, D]`` as ``[B, H, N, size, D]``, zeros at the end."""
    count = length // size + 2
    filled = pad(x, (0, 0, 0, count * size - length))
    return filled.reshape(x.shape[0], x.shape[1], count, size, x.shape[3])


def _unblocked(x: Tensor, length: int) -> Tensor:
    joined = x.reshape(x.shape[0], x.shape[1], x.shape[2] * x.shape[3], x.shape[4])
    return joined[:, :, :length]


def _running(x: Tensor) -> Tensor:
    """Of every block the sum over the blocks before it."""
    return pad(x.cumsum(2)[:, :, :-1], (0, 0, 0, 0, 1, 0))


def _shifted(x: Tensor, by: int) -> Tensor:
    """The block before (1), the same (0), or the one after (-1)."""
    if by == 0:
        return x
    return pad(x[:, :, :-1], (0, 0, 0, 0, 1, 0)) if by > 0 else pad(x[:, :, 1:], (0, 0, 0, 0, 0, 1))
