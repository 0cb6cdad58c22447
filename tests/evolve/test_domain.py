"""Inputs that an engine would answer otherwise than the model never reach it, in a real service."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import evolve
from supernet.backends.base import backend
from tests.evolve.conftest import encoder_call


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_service_with_plans_raises_and_answers_what_the_model_does(
    engine: str, encoder: torch.nn.Module, tmp_path: Path
) -> None:
    if (why := backend(engine).unavailable()) is not None:
        pytest.skip(why)
    config = evolve.Config().replace(
        plans={"backends": (engine,), "precisions": ("fp32",), "cache_dir": tmp_path}
    )
    examples = [encoder_call(3), encoder_call(19)]
    with evolve.wrap(encoder, examples, slo=evolve.SLO(60_000.0), config=config) as runtime:
        assert runtime.wait_for_plans(300)
        assert [plan.state.may_serve for plan in runtime.plans()] == [True]
        for wrong in (-1, 50, 2**40):
            call = encoder_call(5)
            call["ids"][0, 2] = wrong
            with pytest.raises(IndexError):
                encoder(**call)
            with pytest.raises(IndexError):
                runtime(**call)
            with pytest.raises(IndexError):
                runtime.submit(**call).result(timeout=60)
        wide = encoder_call(5)
        wide["mask"][0, 1] = 2**32 + 1
        assert torch.allclose(runtime(**wide)["mean"], encoder(**wide)["mean"])
        said = [d.reason for d in runtime.decisions(1000) if "outside the capture" in d.reason]
    assert len(said) == 2, "once for each kind of reason, whatever the values"


def test_engines_that_are_left_out_are_told_with_their_reason(
    tmp_path: Path,
) -> None:
    class Hashed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(6, 3)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = self.table(ids % 6)
            return states

    config = evolve.Config().replace(
        plans={"backends": ("openvino",), "cache_dir": tmp_path / "cache"}
    )
    example = (torch.arange(4)[None],)
    with evolve.wrap(Hashed().eval(), example, slo=evolve.SLO(60_000.0), config=config) as runtime:
        assert runtime.wait_for_plans(300)
        assert not runtime.plans()
        left = [d for d in runtime.decisions(1000) if d.after == {"state": "left out"}]
        told = {d.subject: d.reason for d in left}
        assert torch.equal(
            runtime(torch.tensor([[2**40 + 3]])), runtime(torch.tensor([[(2**40 + 3) % 6]]))
        )
    assert "integers of" in told["openvino"]
