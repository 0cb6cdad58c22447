"""Small models and runtimes that the tests of the living system share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import evolve
from evolve.config import CaptureConfig

WAITED_FOR = CaptureConfig(wait_s=300.0, limit_s=600.0)
"""For tests that look at what was captured: `wrap` returns only then, however busy the machine."""


class Encoder(torch.nn.Module):
    """Embedding, masked mean, two heads: rows and length vary, padding is harmless."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(50, 16)
        self.mix = torch.nn.Linear(16, 16)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        states = torch.relu(self.mix(self.embed(ids)))
        weights = mask.unsqueeze(-1).to(states.dtype)
        mean = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        return {"states": states * weights, "mean": mean}


def encoder_call(length: int, rows: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed * 1000 + length)
    return {
        "ids": torch.randint(1, 50, (rows, length), generator=rng),
        "mask": torch.ones(rows, length, dtype=torch.int64),
    }


@pytest.fixture
def encoder() -> torch.nn.Module:
    torch.manual_seed(0)
    return Encoder().eval()


@pytest.fixture
def mlp() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)
    ).eval()


@pytest.fixture
def config(tmp_path: Path) -> evolve.Config:
    """No plans are built; the original model serves. The capture is waited for."""
    return evolve.Config().replace(
        plans={"build": False, "cache_dir": tmp_path / "cache"}, capture=WAITED_FOR
    )


@pytest.fixture
def runtime(mlp: torch.nn.Module, config: evolve.Config) -> Iterator[evolve.Runtime]:
    with evolve.wrap(mlp, (torch.randn(2, 8),), slo=evolve.SLO(1000.0), config=config) as made:
        yield made
