"""Outputs that the model hands on: its own weights, its inputs, views of them. The answer is what
the model returns, by every plan, and what its caller then does to it harms nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import evolve
from evolve.data_plane.lane import Lane


class HandsOn(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.weight = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
        self.inner = torch.nn.ModuleList([torch.nn.Linear(4, 4)])
        self.register_buffer("table", torch.arange(20.0).reshape(5, 4))

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        y = self.linear(x)
        return {
            "weight": self.weight, "inner": self.inner[0].bias, "table": self.table, "x": x,
            "y": y, "same": [y, y[..., :2]], "computed": y * 2,
            "turned": self.weight.t(), "part": self.table[1:3], "x view": x.view(-1, 2, 2),
        }  # fmt: skip


ITSELF = ("weight", "inner", "table", "x")


@pytest.fixture(scope="module")
def model() -> HandsOn:
    torch.manual_seed(0)
    return HandsOn().eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both kinds of worker find the plans, which are built once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", params=["thread", "process"])
def runtime(
    request: pytest.FixtureRequest, model: HandsOn, folder: Path
) -> Iterator[evolve.Runtime]:
    config = evolve.Config().replace(
        workers={"kind": request.param, "count": 1},
        plans={
            "cache_dir": folder, "backends": ("eager", "onnxruntime"), "precisions": ("fp32",),
            "max_rows": 4,
        },
    )  # fmt: skip
    examples = [(torch.ones(1, 4),), (torch.ones(3, 4),)]
    with evolve.wrap(model, examples, slo=evolve.SLO(600_000.0), config=config) as made:
        assert made.wait_for_plans(240)
        yield made


def flat(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value
    return [leaf for part in values for leaf in flat(part)]


def is_what_the_model_returns(answer: Any, model: HandsOn, x: torch.Tensor) -> None:
    with torch.no_grad():
        want = model(x)
    assert answer.keys() == want.keys()
    for name in ITSELF:
        assert answer[name] is want[name], name
    for got, due in zip(flat(answer), flat(want), strict=True):
        assert (type(got), got.dtype) == (type(due), due.dtype)
        assert torch.allclose(got, due, atol=1e-5)


def serve_by(runtime: evolve.Runtime, monkeypatch: pytest.MonkeyPatch, plan: str) -> None:
    """Every batch runs on `plan`, whatever would be cheaper."""
    chosen = next((p.key for p in runtime.plans() if p.key.startswith(plan)), plan)
    compute = Lane.compute
    monkeypatch.setattr(Lane, "compute", lambda lane, _, inputs: compute(lane, chosen, inputs))
    if plan != "original":
        lane = runtime.parts.pool.lanes[0]
        held = next(p for p in runtime.plans() if p.key == chosen)
        if chosen not in lane.resident():
            assert lane.worker is not None
            lane.worker.load(held)


@pytest.mark.parametrize("plan", ["original", "eager", "onnxruntime"])
def test_an_answer_is_what_the_model_returns(
    runtime: evolve.Runtime, model: HandsOn, monkeypatch: pytest.MonkeyPatch, plan: str
) -> None:
    serve_by(runtime, monkeypatch, plan)
    inputs = [torch.randn(1 + n % 3, 4) for n in range(12)]
    futures = [runtime.submit(x) for x in inputs]
    for x, future in zip(inputs, futures, strict=True):
        is_what_the_model_returns(future.result(60), model, x)
    is_what_the_model_returns(runtime(inputs[0]), model, inputs[0])


@pytest.mark.parametrize("plan", ["original", "eager", "onnxruntime"])
def test_what_a_caller_does_to_an_answer_harms_nobody_else(
    runtime: evolve.Runtime, model: HandsOn, monkeypatch: pytest.MonkeyPatch, plan: str
) -> None:
    serve_by(runtime, monkeypatch, plan)
    inputs = [torch.randn(1 + n % 3, 4) for n in range(12)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    futures = [runtime.submit(x.clone()) for x in inputs]
    futures += [runtime.submit(x.clone()) for x in inputs]
    for future in futures[: len(inputs)]:
        for name, value in future.result(60).items():
            for leaf in flat(value) if name not in ITSELF else ():
                leaf.fill_(99.0)
    first = runtime(inputs[0].clone())
    for name, value in first.items():
        for leaf in flat(value) if name not in ITSELF else ():
            leaf.fill_(99.0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for x, future in zip(inputs, futures[len(inputs) :], strict=True):
        answer = future.result(60)
        want = model(x)
        assert torch.allclose(answer["y"], want["y"], atol=1e-5)
        assert torch.equal(answer["turned"], want["turned"])
        assert torch.equal(answer["part"], want["part"])
    is_what_the_model_returns(runtime(inputs[0]), model, inputs[0])


class MakesGradients(torch.nn.Module):
    """Its answer has a history of its own, whoever asks."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            return self.linear(x)


def test_answers_of_a_batch_carry_no_gradient(config: evolve.Config) -> None:
    model = MakesGradients().eval()
    with evolve.wrap(
        model, (torch.ones(1, 4),), slo=evolve.SLO(600_000.0), config=config
    ) as runtime:
        assert runtime.wait_for_plans(60)
        inputs = [torch.randn(1, 4) for _ in range(6)]
        for x, future in zip(inputs, [runtime.submit(x) for x in inputs], strict=True):
            answer = future.result(60)
            assert torch.allclose(answer, model(x), atol=1e-6)
            assert not answer.requires_grad
