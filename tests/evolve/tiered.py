"""A model of two layers, of which the second hardly counts, and runtimes that may leave it out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import evolve
from profiler.shapes import Shape
from supernet.capture.subject import capture
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.supernet import Supernet
from tests.evolve.conftest import WAITED_FOR
from tests.waiting import eventually

RARE = 8.0
"""Of an input's first number, from where on the second layer decides the answer."""
EXAMPLES = (torch.randn(4, 8, generator=torch.Generator().manual_seed(1)).clamp(-2, 2),)
SLO = evolve.SLO(p99_ms=1_000.0, min_quality=0.95)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 64), nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class TwoLayers(nn.Module):
    """Its second layer adds little, but much to inputs whose first number is beyond `RARE`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 16), nn.Linear(16, 6)
        self.blocks = nn.Sequential(Block(), Block())
        with torch.no_grad():
            self.stem.weight[15] = torch.eye(8)[0]
            self.stem.bias[15] = 0.0
            self.blocks[0].down.weight[15] = 0.0
            self.blocks[0].down.bias[15] = 0.0
            self.blocks[1].down.weight.mul_(0.02)
            self.blocks[1].down.bias.zero_()
            self.blocks[1].up.weight[0] = 10.0 * torch.eye(16)[15]
            self.blocks[1].up.bias[0] = -10.0 * RARE
            self.blocks[1].down.weight[:, 0] = torch.linspace(-9.0, 9.0, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return TwoLayers().eval()


@functools.cache
def net() -> Supernet:
    return Supernet.of(capture(two_layers(), EXAMPLES))


def without(layer: int) -> SubnetSpec:
    """One layer alone; without the second it is nearly the model, without the first it is not."""
    full = net().full
    return full.replace(full.layers[layer].name, skipped=True)


@functools.cache
def module(spec: SubnetSpec) -> nn.Module:
    return net().module(spec)


def answers(spec: SubnetSpec, x: Tensor, weights: dict[str, Tensor] | None = None) -> Tensor:
    """Of the sub-network itself."""
    own = module(spec) if weights is None else net().with_weights(weights).module(spec)
    with torch.no_grad():
        found: Tensor = own(x)[0]
    return found


def usual(rows: int, seed: int = 0) -> Tensor:
    """Inputs on which the two agree."""
    return torch.randn(rows, 8, generator=torch.Generator().manual_seed(100 + seed)).clamp(-2, 2)


def rare(rows: int, seed: int = 0) -> Tensor:
    """Inputs on which they do not."""
    return usual(rows, seed).index_fill(1, torch.tensor([0]), RARE + 4.0)


def config_for(cache: Path, **workers: Any) -> evolve.Config:
    """Plans by torch's own kernels alone, which are built fastest."""
    return evolve.Config(capture=WAITED_FOR).replace(
        plans={"cache_dir": cache, "backends": ("eager",), "max_rows": 4}, workers=workers,
        rollout={"samples": 8, "canary_share": 0.5},
    )  # fmt: skip


def all_resident(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every admitted plan is held, whatever its timings come to on a busy machine."""
    monkeypatch.setattr(
        "evolve.control_plane.plan_loading.worth_keeping",
        lambda cost_ms, tier, *, slo_ms, limit: tuple(range(len(tier))),
    )


def price(runtime: evolve.Runtime, monkeypatch: pytest.MonkeyPatch, *, exact_ms: float) -> None:
    """From now on a row costs so much on the model, nearly nothing on a sub-network, for good."""
    parts = runtime.parts
    costs = parts.serving.stats.costs
    for key in costs.plans():
        plan = parts.library.get(key)
        row_ms = exact_ms if plan is None or not plan.subnet else 1e-3
        costs.seed(key, {Shape(1, 1): row_ms, Shape(4, 1): 4 * row_ms})
    monkeypatch.setattr(type(costs), "record", lambda *_: None)
    parts.controller.refresh()


def flood(runtime: evolve.Runtime, make: Callable[..., Tensor], seed: int = 0) -> list[Tensor]:
    """The answers to forty requests at once, in order."""
    sent = [runtime.submit(make(2, 40 * seed + index)) for index in range(40)]
    return [future.result(60) for future in sent]


def until(
    runtime: evolve.Runtime, state: str, make: Callable[..., Tensor] = usual, name: str = "half"
) -> None:
    """Sends requests, more at once than the model carries, until a tier is in this state."""
    for seed in range(200):
        if states(runtime)[name] == state:
            return
        flood(runtime, make, seed)
        watch = runtime.parts.serving.watch
        assert eventually(lambda: watch.status()["waiting"] == 0)  # noqa: B023
        ticks = runtime.parts.controller.ticks
        assert eventually(lambda: runtime.parts.controller.ticks > ticks + 1)  # noqa: B023
    raise AssertionError(f"it never came to be {state}: {runtime.tiers()}")


def rows_by(runtime: evolve.Runtime, subnet: str) -> int:
    """Rows that plans of a sub-network answered ("": those of the model)."""
    library = runtime.parts.library
    return sum(
        rows
        for key, rows in runtime.status()["rows_by_plan"].items()
        if (plan.subnet if (plan := library.get(key)) else "") == subnet
    )


def states(runtime: evolve.Runtime) -> dict[str, str]:
    return {tier.name: tier.state for tier in runtime.tiers()}


Make = Callable[..., evolve.Runtime]
