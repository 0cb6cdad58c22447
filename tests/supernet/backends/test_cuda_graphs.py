"""Plans on a GPU: graphs per shape, complete answers, memory counted. Skipped without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from supernet.backends.aoti import AotiPlan
from supernet.backends.base import load_plan
from supernet.building.build import BuildLimits, build_plan
from supernet.cache import ArtifactCache
from supernet.capture.stored import store
from supernet.capture.subject import capture
from supernet.plans import PlanState
from tests.supernet.contract import make_spec

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA or sees no GPU")


def test_a_graph_answers_as_the_call_for_every_shape() -> None:
    from supernet.backends.cuda_graphs import MOST, CudaGraphs

    weight = torch.randn(16, 16, device="cuda")
    calls = []

    def call(inputs: list[Tensor]) -> list[Tensor]:
        calls.append(len(inputs[0]))
        return [(inputs[0] @ weight).relu(), inputs[0].sum(0)]

    graphs = CudaGraphs(call, "cuda:0")
    kept: list[tuple[Tensor, Tensor]] = []
    for turn in range(4):
        for rows in (1, 3, 8):
            x = torch.randn(rows, 16, device="cuda")
            answers = graphs([x])
            for got, wanted in zip(answers, call([x]), strict=True):
                torch.testing.assert_close(got, wanted)
                kept.append((got, wanted.clone()))
        if turn == 2:
            calls.clear()
    assert len(calls) == 3, "only the test itself calls it once every shape is captured"
    assert graphs.why_not is None
    for got, wanted in kept:
        torch.testing.assert_close(got, wanted)  # no replay wrote over an answer given away
    for rows in range(1, MOST + 10):
        graphs([torch.randn(rows, 16, device="cuda")])
    assert len(graphs._seen) == MOST


def test_what_cannot_be_captured_is_called() -> None:
    from supernet.backends.cuda_graphs import CudaGraphs

    def call(inputs: list[Tensor]) -> list[Tensor]:
        return [inputs[0][: int(inputs[0][0].item())] * 2]

    graphs = CudaGraphs(call, "cuda:0")
    for size in (2, 3, 4):
        (answer,) = graphs([torch.full((8,), float(size), device="cuda")])
        assert answer.tolist() == [2.0 * size] * size
    assert graphs.why_not


def test_a_plan_is_built_timed_and_counted_on_the_gpu(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 1024)).eval().cuda()
    learned = capture(model, (torch.randn(4, 1024, device="cuda"),), max_rows=8)
    cache = ArtifactCache(tmp_path / "cache")
    spec = make_spec(learned, "aoti")
    plan = build_plan(cache, store(cache, learned), spec, BuildLimits(measure_s=2.0))
    assert plan.state is PlanState.VERIFIED, plan.reason
    assert "a CUDA graph per shape" in plan.reason
    assert plan.memory_mib >= 30  # two matrices of 16 MiB
    assert plan.artifact is not None
    loaded = load_plan(plan.artifact, spec, plan.microbatches)
    x = torch.randn(8, 1024, device="cuda")
    for _ in range(3):
        (answer,) = loaded.run([x])
        torch.testing.assert_close(answer, model(x), atol=1e-3, rtol=1e-3)
    assert isinstance(loaded, AotiPlan) or plan.microbatches is not None
