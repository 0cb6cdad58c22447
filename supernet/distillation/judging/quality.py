"""Quality of a sub-network beside the original: agreement by rows, or what the user measures.

========== =====================================================================================
cosine     of the vectors along the last dim, for outputs with a length of their means over it
top1       share of positions whose largest entry along the last dim is the original's
next_token how often a token drawn by the one would do for drawn by the other: ``Σ min(p, q)`` over
           all positions that another follows
========== =====================================================================================

Leviathan et al. 2023, arXiv:2211.17192, section 3.2, for the last.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from supernet.distillation.batches import real
from supernet.distillation.learning.losses import Kind, mean_over
from supernet.distillation.learning.teacher import Teacher
from supernet.signature import Signature, TensorSpec

__all__ = [
    "ConfidenceInterval",
    "Measure",
    "Outcome",
    "Quality",
    "agreement",
    "ask",
    "labelled",
    "measure_for",
    "paired_bootstrap",
]

Measure: TypeAlias = Literal["cosine", "top1", "next_token"]
Quality: TypeAlias = Callable[[nn.Module], float]
"""A user's own measure, higher is better, of a module of flat tensors."""
Floats: TypeAlias = npt.NDArray[np.float64]
Run: TypeAlias = Callable[..., Sequence[Tensor]]


def measure_for(kinds: Sequence[Kind], signature: Signature) -> Measure:
    """What suits the outputs: next_token for distributions along a length, top1 for others, cosine
    where there are none."""
    for kind, spec in zip(kinds, signature.outputs, strict=True):
        if kind == "logits":
            return "next_token" if "length" in spec.dims[:-1] else "top1"
    return "cosine"


def agreement(
    measure: Measure, teacher: Teacher, run: Run, kinds: Sequence[Kind], signature: Signature
) -> Floats:
    """The agreement with the original of each row of the teacher's batches, in their order.

    A row of several outputs has their mean: those that are distributions for top1 and next_token,
    for cosine all that are not ignored. NaN where an answer is not finite.
    """
    if measure not in get_args(Measure):
        raise ValueError(f"measure must be one of {', '.join(get_args(Measure))}, got {measure!r}")
    wanted = ("logits",) if measure != "cosine" else ("embedding", "logits", "features")
    chosen = [index for index, kind in enumerate(kinds) if kind in wanted]
    if not chosen:
        raise ValueError(f"measure must suit an output, got {measure!r} for {', '.join(kinds)}")
    rows: list[Floats] = []
    for index, batch in enumerate(teacher.batches):
        want = teacher.answers(index)
        with torch.no_grad():
            got = run(*batch.inputs)
        scores = [
            _rows(measure, got[i], want[i], signature.outputs[i], batch.lengths) for i in chosen
        ]
        rows.append(np.mean(scores, axis=0))
    return np.concatenate(rows)


def _rows(
    measure: Measure, got: Tensor, want: Tensor, spec: TensorSpec, lengths: Tensor | None
) -> Floats:
    got, want = got.detach().double(), want.detach().double()  # a bare bias may be an answer
    mask, along = real(lengths, spec.dims, want.shape), spec.axis("length")
    last = want.dim() - 1
    finite = bool(torch.isfinite(got).all())
    if along == last and mask is not None:
        fill = 0.0 if measure == "cosine" else -math.inf
        got, want = got.masked_fill(~mask, fill), want.masked_fill(~mask, fill)
        mask = None
    if measure == "cosine":
        if along is not None and along != last:
            got, want = mean_over(got, mask, along), mean_over(want, mask, along)
            mask = None
        scores = torch.cosine_similarity(got, want, dim=-1, eps=1e-12)
    elif measure == "top1":
        scores = (got.argmax(-1) == want.argmax(-1)).double()
    else:
        scores = torch.minimum(got.softmax(-1), want.softmax(-1)).sum(-1)
    if not finite:
        scores = torch.full_like(scores, math.nan)
    counts = torch.ones_like(scores) if mask is None else mask.squeeze(-1).expand_as(scores)
    if measure == "next_token" and along is not None and along != last:
        counts, scores = _followed(counts.double(), scores, along)
    axis = spec.axis("rows")
    if axis is None:
        return np.array([float((scores * counts).sum() / counts.sum().clamp_min(1))])
    flat = [t.double().movedim(axis, 0).reshape(t.shape[axis], -1) for t in (scores, counts)]
    found: Floats = ((flat[0] * flat[1]).sum(1) / flat[1].sum(1).clamp_min(1)).numpy()
    return found


def _followed(counts: Tensor, scores: Tensor, along: int) -> tuple[Tensor, Tensor]:
    """Only the positions after which a real one comes; where there is none, all count."""
    size = counts.shape[along]
    if size < 2:
        return counts, scores
    return counts.narrow(along, 1, size - 1), scores.narrow(along, 0, size - 1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of asking a user's quality. `value` is NaN unless it was measured."""

    value: float
    said: Literal["measured", "raised", "not a number", "too slow"]
    why: str = ""


def ask(quality: Quality, model: nn.Module, limit_s: float) -> Outcome:
    """Ask a user's quality of a model, whatever it does.

    One that takes longer than ``limit_s`` is left alone on a thread of its own: it cannot be ended.
    """
    found: list[Outcome] = []

    def run() -> None:
        try:
            with torch.no_grad():
                value: Any = float(quality(model))
        except Exception as error:
            found.append(Outcome(math.nan, "raised", f"{type(error).__name__}: {error}"))
        else:
            finite = math.isfinite(value)
            found.append(
                Outcome(value, "measured") if finite
                else Outcome(math.nan, "not a number", f"it gave {value}")
            )  # fmt: skip

    thread = threading.Thread(target=run, name="quality", daemon=True)
    thread.start()
    thread.join(limit_s)
    return found[0] if found else Outcome(math.nan, "too slow", f"it took over {limit_s:g} s")


def labelled(
    inputs: Sequence[Sequence[Tensor]], labels: Sequence[Tensor], output: int = 0
) -> Quality:
    """The share of labels that a classifier gives, as a quality for ``distill``.

    ``labels``: int64, for each batch of inputs those of its rows. It has an attribute ``chance``,
    the share of the commonest label: where the original itself is not above it, labels and original
    contradict each other, and distillation is judged by agreement instead.
    """
    every = torch.cat([label.reshape(-1) for label in labels])

    def quality(model: nn.Module) -> float:
        with torch.no_grad():
            got = torch.cat([model(*batch)[output].argmax(-1).reshape(-1) for batch in inputs])
        return float((got == every).double().mean())

    quality.chance = float(torch.bincount(every).max()) / len(every)  # type: ignore[attr-defined]
    return quality


@dataclass(frozen=True, slots=True)
class ConfidenceInterval:
    """A figure and the two ends of its confidence interval."""

    value: float
    lower: float
    upper: float


def paired_bootstrap(
    statistic: Callable[[npt.NDArray[np.int64]], float],
    rows: int,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> ConfidenceInterval:
    """The percentile interval of a statistic of rows, which are drawn with replacement.

    ``statistic`` gets the numbers of the rows drawn and compares both models on those: paired, what
    makes a row hard for both says nothing. Efron and Tibshirani 1993, chapter 13. One end is
    one-sided at ``(1 + level) / 2``.

    >>> better, worse = np.arange(50.0) + 1, np.arange(50.0)
    >>> paired_bootstrap(lambda rows: float((better[rows] - worse[rows]).mean()), 50).lower
    1.0
    """
    if rows < 1 or draws < 1 or not 0 < level < 1:
        raise ValueError(
            f"rows and draws must be at least 1 and level between 0 and 1, got {rows}, {draws}, "
            f"{level}"
        )
    rng = np.random.default_rng(seed)
    found = [statistic(rng.integers(0, rows, rows)) for _ in range(draws)]
    ends = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return ConfidenceInterval(statistic(np.arange(rows)), float(ends[0]), float(ends[1]))
