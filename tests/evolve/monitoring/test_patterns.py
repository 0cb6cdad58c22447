"""The memory pattern in the living system: in the signals, in the twin, and never in the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evolve
from supernet.errors import BuildFailed
from tests.evolve.conftest import WAITED_FOR, encoder_call

NAMES = ("balance", "memory_share", "moved_mib", "fused")


def onnx(cache: Path) -> evolve.Config:
    return evolve.Config(capture=WAITED_FOR).replace(
        plans={"cache_dir": cache, "backends": ("onnxruntime",), "precisions": ("fp32",)}
    )


def pattern(runtime: Any) -> dict[str, float]:
    """What the window of the batches so far tells of their memory pattern."""
    controller = runtime.parts.controller
    controller.refresh()
    signals = controller._see()
    return {name: getattr(signals, name) for name in NAMES}


def said(runtime: Any) -> list[str]:
    return [d.reason for d in runtime.decisions(1000) if d.subject == "memory pattern"]


def test_it_is_in_the_signals_and_in_the_twin_once_a_plan_serves(
    encoder: torch.nn.Module, tmp_path: Path
) -> None:
    calls = [encoder_call(4), encoder_call(30)]
    with evolve.wrap(
        encoder, calls, slo=evolve.SLO(1000.0), config=onnx(tmp_path / "cache")
    ) as runtime:
        assert runtime.wait_for_plans(120)
        runtime.parts.controller.refresh()
        runtime(**calls[1])
        small = pattern(runtime)
        assert small["moved_mib"] > 0
        assert 0 <= small["memory_share"] <= 1
        assert small["fused"] == 0.0  # ONNX Runtime fuses by itself
        for _ in range(20):
            runtime(**encoder_call(30, rows=16))
        assert pattern(runtime)["moved_mib"] > 4 * small["moved_mib"]
        assert said(runtime) == []
        twin = runtime.parts.retraining._twin()
        table = runtime.parts.serving.stats.window.pattern
        np.testing.assert_array_equal(twin.service.pattern, table.values)
        assert table.values.shape == (16, len(runtime.grid.lengths), 4)


def test_where_it_can_not_be_found_that_is_said_once_and_it_serves(
    mlp: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(*args: object, **options: object) -> None:
        raise BuildFailed("an operator nobody knows")

    monkeypatch.setattr("supernet.building.memory_demand.find_demand", failed)
    with evolve.wrap(mlp, (torch.randn(1, 8),), config=onnx(tmp_path / "cache")) as runtime:
        assert runtime.wait_for_plans(120)
        runtime(torch.randn(2, 8))
        assert set(pattern(runtime).values()) == {0.0}
        assert said(runtime) == ["BuildFailed: an operator nobody knows"]
        assert runtime.parts.retraining._twin().service.pattern is None


def test_a_model_that_can_not_be_captured_shows_zeros(tmp_path: Path) -> None:
    class Shy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if float(x.sum()) > 0 else x

    with evolve.wrap(Shy().eval(), (torch.randn(1, 8),), config=onnx(tmp_path)) as runtime:
        assert runtime.wait_for_plans(60)
        runtime(torch.ones(1, 8))
        assert set(pattern(runtime).values()) == {0.0}
