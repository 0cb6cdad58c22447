"""Loading a compiled plan leaves nothing in the temporary directory, however its worker ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from evolve.errors import WorkerCrashed
from evolve.workers.process import ProcessWorker
from supernet.backends.base import backend
from supernet.building.build import BuildLimits, build_plan
from supernet.cache import ArtifactCache
from supernet.capture.stored import store
from supernet.capture.subject import capture
from supernet.plans import Plan, PlanState
from tests.supernet.contract import make_spec
from tests.supernet.models import noise


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    if (why := backend("aoti").unavailable()) is not None:
        pytest.skip(why)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).eval()
    learned = capture(model, (noise(1, 8),), max_rows=2)
    cache = ArtifactCache(tmp_path_factory.mktemp("leftovers") / "cache")
    limits = BuildLimits(measure_s=0.2)
    built = build_plan(cache, store(cache, learned), make_spec(learned, "aoti"), limits)
    assert built.state is PlanState.VERIFIED, built.reason
    assert not list(cache.root.glob(".tmp-*"))
    return built


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder := tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_worker_leaves_nothing_behind(plan: Plan, temporary: Path, is_killed: bool) -> None:
    worker = ProcessWorker("w0", threads=1, hang_timeout_s=60.0)
    try:
        worker.load(plan)
        worker.unload(plan.key)
        worker.load(plan)
        assert worker.run(plan.key, [torch.ones(1, 8)]).leaves[0].shape == (1, 4)
        assert list(temporary.iterdir()) == [], "it is loaded where it lies"
        if is_killed:
            os.kill(worker.pid, signal.SIGKILL)
            with pytest.raises(WorkerCrashed):
                worker.run(plan.key, [torch.ones(1, 8)])
    finally:
        worker.close()
    assert list(temporary.iterdir()) == []


def test_plans_of_one_process_answer_side_by_side(plan: Plan, temporary: Path) -> None:
    assert plan.artifact is not None
    one, other = (backend("aoti").load(plan.artifact, plan.spec) for _ in range(2))
    inputs = [torch.ones(2, 8)]
    (want,) = one.run(inputs)
    (got,) = other.run(inputs)
    assert torch.equal(got, want)
    one.close()
    assert torch.equal(other.run(inputs)[0], want)
    assert list(temporary.iterdir()) == []
