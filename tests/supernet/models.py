"""Small models of every kind the wrapper must cope with, none known to it by name."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class Wrapped(nn.Module):
    """``function(self, *args)`` as a module, with submodules as attributes."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self._function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(self, *args, **kwargs)


class Attention(nn.Module):
    """A masked encoder: padding is harmless because the mask says what is padding."""

    def __init__(self, vocabulary: int = 50, width: int = 16, longest: int = 40) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(longest, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, ids: Tensor, mask: Tensor, scale: float | None = None) -> dict[str, Any]:
        x = self.embed(ids) + self.position(torch.arange(ids.shape[1]))
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        scores = (q @ k.transpose(1, 2)) / x.shape[-1] ** 0.5
        scores = scores.masked_fill(mask[:, None, :] == 0, float("-inf"))
        x = self.out(scores.softmax(-1) @ v) + x
        pooled = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return {"hidden": x, "pooled": pooled, "name": "attention", "extra": None}


class Causal(nn.Module):
    """A decoder with tied weights; right padding cannot be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.mix = nn.Linear(16, 16)
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        steps = torch.arange(1, ids.shape[1] + 1)[None, :, None]
        return self.head(x + self.mix(x.cumsum(1) / steps))


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * 2


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x * 2


Pair = namedtuple("Pair", "left right")


@dataclass
class Scores:
    """A result class that nobody registered anywhere."""

    logits: Tensor
    label: Tensor
    source: str = "model"


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


def ids(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(2, 30, (rows, length), generator=torch.Generator().manual_seed(seed))


def text(rows: int, length: int) -> tuple[Tensor, Tensor]:
    return ids(rows, length), torch.ones(rows, length, dtype=torch.long)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))
