"""Files that plans are loaded from vanish or change while the service runs: it gets over that."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import evolve
from evolve.errors import PlanFault
from evolve.workers.process import ProcessWorker
from tests.evolve.conftest import WAITED_FOR
from tests.waiting import eventually

BUILT_S = 100.0


@pytest.fixture
def mlp() -> torch.nn.Module:
    """Many small layers: a plan wins by far, however busy the machine is while they are timed."""
    torch.manual_seed(0)
    layers = [torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh()) for _ in range(16)]
    return torch.nn.Sequential(*layers, torch.nn.Linear(8, 4)).eval()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "plans"


@pytest.fixture
def runtime(mlp: torch.nn.Module, cache: Path) -> Iterator[evolve.Runtime]:
    config = evolve.Config().replace(
        plans={"cache_dir": cache, "backends": ("onnxruntime",), "precisions": ("fp32",)},
        workers={"kind": "process", "count": 1},
        capture=WAITED_FOR,
    )
    slo = evolve.SLO(60_000.0)
    with evolve.wrap(mlp, (torch.randn(2, 8),), slo=slo, config=config) as made:
        assert made.wait_for_plans(BUILT_S)
        assert held(made), made.plans()
        yield made


def held(runtime: evolve.Runtime) -> frozenset[str]:
    """What the only worker can run now."""
    worker = runtime.parts.pool.lanes[0].worker
    return frozenset() if worker is None else worker.resident


def delete(cache: Path) -> None:
    shutil.rmtree(cache)


def change_a_byte(cache: Path) -> None:
    path = next((cache / "plans").glob("*/*.onnx"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [delete, change_a_byte])
def test_plans_whose_files_are_gone_are_built_again(
    runtime: evolve.Runtime, mlp: torch.nn.Module, cache: Path, harm: Callable[[Path], None]
) -> None:
    before, worker = held(runtime), runtime.parts.pool.lanes[0].worker
    assert worker is not None
    first = runtime.parts
    harm(cache)
    os.kill(worker.pid, signal.SIGKILL)
    x = torch.randn(1, 8)
    assert torch.allclose(runtime(x), mlp(x), atol=1e-6), "answered meanwhile"
    assert eventually(lambda: runtime.parts is not first)
    assert runtime.wait_for_plans(BUILT_S)
    assert eventually(lambda: held(runtime) == before), runtime.plans()
    assert all(plan.state.may_serve for plan in runtime.plans())
    assert torch.allclose(runtime(x), mlp(x), atol=1e-5)
    assert runtime.status()["rows_by_plan"].keys() & before
    told = [d.reason for d in runtime.decisions(1000) if "gone from the cache" in d.reason]
    assert len(told) == 1, told


def test_a_plan_that_cannot_be_loaded_at_once_is_loaded_later(
    runtime: evolve.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, tries = ProcessWorker.load, []

    def fails_twice(worker: ProcessWorker, plan: object, warm: object) -> None:
        tries.append(worker.pid)
        if len(tries) < 3:
            raise PlanFault("Cannot allocate memory")
        load(worker, plan, warm)  # type: ignore[arg-type]

    monkeypatch.setattr(ProcessWorker, "load", fails_twice)
    before, worker = held(runtime), runtime.parts.pool.lanes[0].worker
    assert worker is not None
    os.kill(worker.pid, signal.SIGKILL)
    assert eventually(lambda: held(runtime) == before and len(tries) == 3)
    assert len(set(tries)) == 1, "by one worker, which stays"
    told = [d.reason for d in runtime.decisions(1000) if "Cannot allocate" in d.reason]
    assert len(told) == 1, told
