"""Rows that know of each other: always, only sometimes, or only beside a larger output.

Most are a change of states `[B, H]`, put at a place drawn at random: at the input, between the
layers, at the output, or as an output of its own beside the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.trust.cases import Case, Family
from benchmarks.trust.draw import Draw
from benchmarks.trust.nets import Net, rows_case, sequence_case

__all__ = ["FAMILIES"]

Change = Callable[[Net, Tensor], Any]


def _best(net: Net, h: Tensor, k: int) -> Tensor:
    """Only the ``k`` rows of the highest sum stay."""
    total = h.sum(1)
    least = total.topk(min(k, h.shape[0])).values[-1]
    return h * (total >= least).unsqueeze(1)


def _nearest(net: Net, h: Tensor) -> Tensor:
    """Each row's nearest other row (itself where it is alone)."""
    apart = (h.unsqueeze(1) - h.unsqueeze(0)).square().sum(-1)
    return h[(apart + 1e9 * torch.eye(h.shape[0])).argmin(1)]


def _capacity(net: Net, h: Tensor, capacity: int) -> Tensor:
    """Three experts by the row's largest entry; what comes after its capacity is dropped."""
    chosen = functional.one_hot(h.argmax(1) % 3, 3)
    place = (chosen.cumsum(0) * chosen).sum(1)
    return h * (place <= capacity).unsqueeze(1)


def _no_duplicates(net: Net, h: Tensor) -> Tensor:
    """A row equal to one before it is set to zero."""
    equal = (h.unsqueeze(1) == h.unsqueeze(0)).all(-1)
    return h * ~equal.tril(-1).any(1, keepdim=True)


def _alarm(net: Net, h: Tensor) -> Tensor:
    return torch.where((h.abs() > net.limit).any(), torch.zeros_like(h), h)


def _no_nan(net: Net, h: Tensor) -> Tensor:
    return torch.where(h.isnan().any(), torch.zeros_like(h), h)


def _all_equal(net: Net, h: Tensor) -> Tensor:
    return torch.where((h == h[:1]).all() & (h.shape[0] > 1), h + 1.0, h)


def _many_rows(net: Net, h: Tensor) -> Tensor:
    return h * 2 if h.shape[0] > 5 else h


def _first_rows(net: Net, h: Tensor) -> Tensor:
    return h * (torch.arange(h.shape[0]) < 5).unsqueeze(1)


def _counts_equal(net: Net, h: Tensor) -> Tensor:
    same = (h.unsqueeze(1) == h.unsqueeze(0)).all(-1)
    return h * same.sum(1, keepdim=True)


def _mixed_up(net: Net, h: Tensor) -> Tensor:
    """Reshaped the wrong way round: `[B, H]` read as `[H, B]`."""
    return h.reshape(h.shape[1], h.shape[0]).t()


ALWAYS: Mapping[str, Change] = {
    "centred": lambda net, h: h - h.mean(0, keepdim=True),
    "standardised over the batch": lambda net, h: (h - h.mean(0)) / (h.std(0, False) + 1.0),
    "norm of everything": lambda net, h: h / (h.norm() + 1e-6),
    "sum over numel": lambda net, h: h - h.sum() / h.numel(),
    "softmax over rows": lambda net, h: h.softmax(0),
    "cumulative sum over rows": lambda net, h: h.cumsum(0),
    "rolled": lambda net, h: h + h.roll(1, 0),
    "flipped": lambda net, h: h + h.flip(0),
    "sorted rows": lambda net, h: h.sort(dim=0).values,
    "best row": partial(_best, k=1),
    "best rows": partial(_best, k=3),
    "nearest neighbour": _nearest,
    "attention among rows": lambda net, h: (h @ h.t()).clamp(-9, 9).softmax(1) @ h,
    "gram matrix": lambda net, h: (h @ h.t()).tanh() @ h,
    "place in the batch": lambda net, h: h * torch.arange(h.shape[0]).unsqueeze(1),
    "number of rows": lambda net, h: h / h.shape[0],
    "rows read wrong": _mixed_up,
    "rank among rows": lambda net, h: h + h.argsort(dim=0).argsort(dim=0),
    "batch norm in training": lambda net, h: functional.batch_norm(
        h, None, None, training=True, eps=1.0) if h.shape[0] > 1 else h * 0,
    "counts of equals": _counts_equal,
}  # fmt: skip
SOMETIMES: Mapping[str, Change] = {
    "alarm": _alarm,
    "clipped by the norm of all": lambda net, h: h * (net.limit / (h.norm() + 1e-6)).clamp(max=1),
    "largest clipped": lambda net, h: h / (h.abs().max() / net.limit).clamp(min=1),
    "excess of the largest": lambda net, h: h - (h.max() - net.limit).clamp(min=0),
    "deep negative": lambda net, h: h + (h.min() + net.limit).clamp(max=0),
    "capacity of experts": partial(_capacity, capacity=4),
    "small capacity": partial(_capacity, capacity=2),
    "no duplicates": _no_duplicates,
    "no NaN": _no_nan,
    "all rows equal": _all_equal,
    "more than five rows": _many_rows,
    "the first five rows": _first_rows,
    "first row, if large": lambda net, h: h - h[:1] * (h[:1].abs() > net.limit),
    "last row, if large": lambda net, h: h - h[-1:] * (h[-1:].abs() > net.limit),
    "mean of all, if large": lambda net, h: h - functional.hardshrink(h.mean(), net.limit / 8),
    "many above": lambda net, h: torch.where((h > net.limit).sum() > 2, -h, h),
    "spread of rows": lambda net, h: h / (h.amax(0) - h.amin(0)).clamp(min=net.limit),
    "overflow of the sum": lambda net, h: torch.where(h.sum() > 40 * net.limit, h * 0.5, h),
}


def _placed(change: Change, draw: Draw, requests: int) -> Case:
    """The change at one of the places, and now and then on the steps of a sequence."""
    place = draw.pick("input", "hidden", "output", "beside", "joined")

    def forward(net: Net, x: Tensor) -> Any:
        if place == "input":
            return net.head(net.act(net.body(change(net, x))))
        hidden = net.body(x)
        if place == "hidden":
            return net.head(change(net, hidden))
        if place == "output":
            return change(net, net.head(net.act(hidden)))
        small = change(net, x) * 1e-3
        if place == "beside":
            return net.head(net.act(hidden)) * 1e3, small
        return torch.cat([net.head(net.act(hidden)) * 1e2, small], 1)

    return rows_case(forward, draw, requests)


def _over_time(change: Change, draw: Draw, requests: int) -> Case:
    """The change on the mean over time of a sequence's states, whose batch it then couples."""

    def forward(net: Net, x: Tensor) -> Any:
        return net.head(net.act(net.body(x)) + change(net, net.body(x.mean(1))).unsqueeze(1))

    return sequence_case(forward, draw, requests)


# Functions of rows `[B, F]` whose result is not simply rows.
WHOLE: Mapping[str, Change] = {
    "flag beside": lambda net, x: (net.head(net.act(net.body(x))), (x.abs() > 100).any()),
    "flag in a dict": lambda net, x: {"y": net.head(net.body(x)), "alarm": (x > 40).any()},
    "count beside": lambda net, x: (net.head(net.body(x)), (x > 40).sum()),
    "mean beside": lambda net, x: (net.head(net.body(x)) * 1e3, net.body(x).mean() * 1e-3),
    "largest beside": lambda net, x: (net.body(x), x.abs().max()),
    "row count beside": lambda net, x: (net.head(net.body(x)), torch.tensor(x.shape[0])),
    "detections": lambda net, x: (x[..., 0], x[x[..., 0] > 2.5]),
    "detections alone": lambda net, x: net.body(x)[x[..., 0] > 0.9],
    "where": lambda net, x: (net.body(x), torch.nonzero(x[..., 0] > 2.5)),
    "masked select": lambda net, x: (net.head(net.body(x)), x.masked_select(x > 2.5)),
    "unique rows": lambda net, x: (net.body(x), torch.unique(x.round(), dim=0)),
    "transposed": lambda net, x: net.body(x).t(),
    "summed over rows": lambda net, x: net.head(net.body(x)).sum(0),
    "mean row": lambda net, x: net.head(net.body(x).mean(0, keepdim=True)),
    "first row": lambda net, x: net.head(net.body(x[:1])),
    "pairs": lambda net, x: net.body(x) @ net.body(x).t(),
    "pairs on a triangle": lambda net, x: torch.pdist(x),
    "flattened": lambda net, x: net.body(x).reshape(-1),
    "float of all": lambda net, x: (net.body(x), float(x.sum())),
    "large rows only": lambda net, x: [net.body(x), (x.norm(dim=1) > 30).nonzero().squeeze(1)],
}


def _recurrent(draw: Draw, requests: int) -> Case:
    """Dim 0 is time: `[T, B, F]` through a GRU that is not batch_first."""
    width = draw.width()
    gru = nn.GRU(width, 4)

    def forward(net: Net, x: Tensor) -> Any:
        return net.gru(x)[0].sum(-1)

    return sequence_case(forward, draw, requests, width=width, parts={"gru": gru})


def _image(draw: Draw, requests: int) -> Case:
    """Dim 0 is the height of an image, whose lines are convolved together."""

    def forward(net: Net, x: Tensor) -> Any:
        return net.conv(x.unsqueeze(0).unsqueeze(0)).squeeze(0).squeeze(0)

    return rows_case(forward, draw, requests, parts={"conv": nn.Conv2d(1, 1, 3, padding=1)})


FAMILIES = (
    *(Family(f"{name}, always", "coupled", partial(_placed, c)) for name, c in ALWAYS.items()),
    *(Family(f"{name}, sometimes", "coupled", partial(_placed, c))
      for name, c in SOMETIMES.items()),
    *(Family(f"{name}, in a sequence", "coupled", partial(_over_time, c))
      for name, c in SOMETIMES.items() if name in ("alarm", "no duplicates", "largest clipped")),
    *(Family(name, "coupled", partial(rows_case, function)) for name, function in WHOLE.items()),
    Family("time first", "coupled", _recurrent),
    Family("image without a batch", "coupled", _image),
)  # fmt: skip
