"""Losses of a sub-network's outputs against the original's, padding left out.

============ ==================================================================================
embedding    ``cosine · (1 − cos) + variance · unexplained``, over all vectors along the last dim,
             and ``pooled`` times the same for their means over the length
logits       ``T² · KL(softmax(want / T) ‖ softmax(got / T))``, mean over all distributions along
             the last dim
features     ``‖got − want‖² / ‖want‖²``, of images and of what a layer gives
============ ==================================================================================

``unexplained`` is ``Σ (got − want)² / Σ (want − mean)²``: the error of each feature weighs as
that feature varies over the corpus. Cosine alone forgives errors where all answers of a model share
a large constant part, as they do behind a layer norm.

Hinton et al. 2015, arXiv:1503.02531, section 2, for T²; Bercovich et al. 2024, "Puzzle",
arXiv:2411.19146, section 3.1, for the normalised error of blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from supernet.elastic.axes.tracing import operator
from supernet.elastic.supernet import Supernet
from supernet.signature import TensorSpec

__all__ = [
    "Kind",
    "LossWeights",
    "Spread",
    "block_loss",
    "embedding_loss",
    "kinds_of",
    "logits_loss",
]

Kind: TypeAlias = Literal["embedding", "logits", "features", "ignored"]

_HEADS = frozenset({"head", "lm_head", "classifier", "cls", "score", "fc", "logits", "decoder"})
_PRODUCTS = frozenset({"linear", "addmm", "matmul", "mm"})
_PASSES = frozenset({"view", "reshape", "_unsafe_view", "to", "_to_copy", "contiguous", "clone",
                     "alias", "squeeze", "slice"})  # fmt: skip
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class LossWeights:
    """What each part of a loss counts.

    Cosine leads, as embeddings are compared by it; the variance part holds their length and what
    cosine forgives. `pooled` counts for outputs with a length only, most of whose users take a
    mean over it. `temperature`: of distributions, 1 where only the likeliest class matters.
    """

    cosine: float = 1.0
    variance: float = 0.2
    pooled: float = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        for name in ("cosine", "variance", "pooled"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not self.temperature > 0.0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """Of the original's vectors along an output's last dim: their mean distance from their mean,
    squared, for single vectors and for the means over the length."""

    single: float
    pooled: float


def kinds_of(net: Supernet) -> tuple[Kind, ...]:
    """Of each output what it most likely is.

    Distributions over classes, where a head's product is the last that is computed: one whose
    module is called so, or whose weight is the embedding's as well. Whole numbers are ignored, all
    others embeddings, or with more than three dims features.
    """
    outputs = net.anatomy.trace.program.graph.output_node().args[0]
    pairs = zip(net.signature.outputs, outputs, strict=True)
    return tuple(_kind(net, spec, node) for spec, node in pairs)


def _kind(net: Supernet, spec: TensorSpec, node: object) -> Kind:
    if not getattr(torch, spec.dtype).is_floating_point or not spec.dims:
        return "ignored"
    if len(spec.dims) > 3:
        return "features"
    trace = net.anatomy.trace
    while isinstance(node, torch.fx.Node) and node.op == "call_function":
        if operator(node) in _PRODUCTS:
            if spec.dims[-1] == 1:
                return "embedding"
            weights = [name for n in [node] for name in trace.weights_of(n)]
            parts = {part for name in weights for part in name.split(".")}
            return "logits" if parts & _HEADS or _looked_up(net, weights) else "embedding"
        if operator(node) not in _PASSES:
            return "embedding"
        node = node.all_input_nodes[0]
    return "embedding"


def _looked_up(net: Supernet, names: Sequence[str]) -> bool:
    return bool(set(names) & set(looked_up(net)))


def looked_up(net: Supernet) -> tuple[str, ...]:
    """The weights that are tables: embeddings of words and places."""
    trace = net.anatomy.trace
    found = [
        name
        for node in trace.program.graph.nodes
        if node.op == "call_function" and operator(node) in ("embedding", "embedding_bag")
        for name in trace.weights_of(node)
    ]
    tensors = trace.tensors
    places = {tensors[name].data_ptr() for name in found}
    return tuple(name for name, tensor in tensors.items() if tensor.data_ptr() in places)


def embedding_loss(
    got: Tensor,
    want: Tensor,
    spread: Spread,
    weights: LossWeights,
    *,
    mask: Tensor | None = None,
    length: int | None = None,
) -> Tensor:
    """The table's first row. ``mask`` broadcasts over ``want``; ``length`` is its length dim."""
    got, want = got.float(), want.float()
    last = want.dim() - 1
    if length == last:  # the features are what is padded
        if mask is not None:
            got, want = got * mask, want * mask
        return _vectors(got, want, spread.single, weights)
    loss = _vectors(_kept(got, mask), _kept(want, mask), spread.single, weights)
    if length is not None and weights.pooled:
        pooled = [mean_over(tensor, mask, length) for tensor in (got, want)]
        loss = loss + weights.pooled * _vectors(pooled[0], pooled[1], spread.pooled, weights)
    return loss


def _vectors(got: Tensor, want: Tensor, spread: float, weights: LossWeights) -> Tensor:
    cosine = 1.0 - torch.cosine_similarity(got, want, dim=-1, eps=_TINY).mean()
    error = (got - want).square().sum(-1).mean()
    return weights.cosine * cosine + weights.variance * error / max(spread, _TINY)


def logits_loss(
    got: Tensor,
    want: Tensor,
    weights: LossWeights,
    *,
    mask: Tensor | None = None,
    length: int | None = None,
) -> Tensor:
    """The table's second row."""
    got, want = got.float() / weights.temperature, want.float() / weights.temperature
    if mask is not None and length == want.dim() - 1:
        least = torch.finfo(torch.float32).min / 4
        got, want = got.masked_fill(~mask, least), want.masked_fill(~mask, least)
        mask = None
    logs = torch.log_softmax(_kept(got, mask), -1), torch.log_softmax(_kept(want, mask), -1)
    divergence = torch.nn.functional.kl_div(*logs, reduction="none", log_target=True).sum(-1)
    return divergence.mean() * weights.temperature**2


def block_loss(got: Tensor, want: Tensor, mask: Tensor | None = None) -> Tensor:
    """The table's third row."""
    got, want = got.float(), want.float()
    error, size = (got - want).square(), want.square()
    if mask is not None:
        error, size = error * mask, size * mask
    return error.sum() / size.sum().clamp_min(_TINY)


def _kept(tensor: Tensor, mask: Tensor | None) -> Tensor:
    """The vectors along the last dim that are no padding, `[count, features]`."""
    if mask is None:
        return tensor.reshape(-1, tensor.shape[-1])
    return tensor[mask.squeeze(-1).expand(tensor.shape[:-1])]


def mean_over(tensor: Tensor, mask: Tensor | None, dim: int) -> Tensor:
    """The mean over a dim of what is no padding."""
    if mask is None:
        return tensor.mean(dim)
    return (tensor * mask).sum(dim) / mask.sum(dim).clamp_min(1)


def spread_of(vectors: Sequence[Tensor]) -> float:
    """The mean squared distance of vectors `[count, features]` from their mean."""
    rows = torch.cat([v.reshape(-1, v.shape[-1]).double() for v in vectors])
    return float((rows - rows.mean(0)).square().sum(-1).mean())
