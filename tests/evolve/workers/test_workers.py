"""What every worker must do, for both kinds, with a plan that was really built."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evolve.errors import PlanFault, WorkerCrashed, WorkerHung
from evolve.workers.base import Worker
from evolve.workers.process import SLICE_S, ProcessWorker, _answers
from evolve.workers.thread import ThreadWorker
from profiler.fingerprint import fingerprint
from profiler.shapes import Shape
from supernet.building.build import BuildLimits, build_plan
from supernet.cache import ArtifactCache
from supernet.capture.stored import store
from supernet.capture.subject import capture
from supernet.microbatches import Microbatches
from supernet.plans import Plan, PlanState
from supernet.proposals import propose
from supernet.signature import Signature, TensorSpec


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)
    ).eval()


@pytest.fixture(scope="module")
def plans(model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plan]:
    """The model as an ONNX Runtime plan (numpy) and an eager plan (torch)."""
    captured = capture(model, (torch.randn(2, 8),))
    cache = ArtifactCache(tmp_path_factory.mktemp("cache") / "cache")
    folder = store(cache, captured)
    specs = propose(
        captured, fingerprint("cpu", measure=False), ("onnxruntime", "eager"), ("fp32",)
    )
    limits = BuildLimits(measure_s=0.2)
    built = {spec.backend: build_plan(cache, folder, spec, limits) for spec in specs}
    assert {plan.state for plan in built.values()} == {PlanState.VERIFIED}, built
    return built


class WorkerContract:
    """Subclass with a fixture `worker`; a new kind of worker must pass all of it."""

    @pytest.fixture
    def worker(self) -> Iterator[Worker]:
        raise NotImplementedError

    @pytest.mark.parametrize("backend", ["onnxruntime", "eager"])
    def test_a_loaded_plan_answers_as_the_model(
        self, worker: Worker, plans: dict[str, Plan], model: torch.nn.Module, backend: str
    ) -> None:
        plan = plans[backend]
        assert plan.key not in worker.resident
        worker.load(plan, [[("float32", (2, 8))], [("float32", (4, 8))]])
        assert worker.resident == {plan.key}
        for rows in (1, 3, 16):
            x = torch.randn(rows, 8)
            answer = worker.run(plan.key, [x])
            with torch.no_grad():
                assert torch.allclose(answer.leaves[0], model(x), atol=1e-5)
            assert answer.elapsed_ms > 0

    @pytest.mark.parametrize("backend", ["onnxruntime", "eager"])
    def test_a_plan_may_run_its_batches_in_parts(
        self, worker: Worker, plans: dict[str, Plan], model: torch.nn.Module, backend: str
    ) -> None:
        plan = plans[backend]
        x, y = (TensorSpec(name, "float32", ("rows", n)) for name, n in (("x", 8), ("y", 4)))
        signature = Signature((x,), (y,), batchable=True, paddable=False)
        worker.load(replace(plan, microbatches=Microbatches({Shape(4): 2}, signature)))
        seven = torch.randn(7, 8)
        with torch.no_grad():
            assert torch.allclose(worker.run(plan.key, [seven]).leaves[0], model(seven), atol=1e-5)

    def test_an_unloaded_plan_is_gone_and_unloading_again_does_nothing(
        self, worker: Worker, plans: dict[str, Plan]
    ) -> None:
        plan = plans["onnxruntime"]
        worker.load(plan)
        worker.unload(plan.key)
        worker.unload(plan.key)
        assert worker.resident == frozenset()
        with pytest.raises(PlanFault):
            worker.run(plan.key, [torch.ones(1, 8)])

    def test_inputs_the_plan_cannot_take_are_a_plan_fault_and_the_worker_lives(
        self, worker: Worker, plans: dict[str, Plan]
    ) -> None:
        plan = plans["onnxruntime"]
        worker.load(plan)
        with pytest.raises(PlanFault, match=plan.key):
            worker.run(plan.key, [torch.ones(1, 9)])
        assert worker.run(plan.key, [torch.ones(1, 8)]).leaves[0].shape == (1, 4)

    def test_a_plan_whose_files_are_gone_cannot_be_loaded(
        self, worker: Worker, plans: dict[str, Plan], tmp_path: Path
    ) -> None:
        gone = replace(plans["onnxruntime"], artifact=tmp_path / "nowhere")
        with pytest.raises(PlanFault, match="can't be loaded"):
            worker.load(gone)
        assert worker.resident == frozenset()

    @pytest.mark.parametrize("backend", ["onnxruntime", "eager"])
    def test_a_plan_whose_files_changed_since_is_not_loaded(
        self, worker: Worker, plans: dict[str, Plan], tmp_path: Path, backend: str
    ) -> None:
        plan = plans[backend]
        assert plan.artifact is not None
        copy = shutil.copytree(plan.artifact, tmp_path / plan.artifact.name)
        worker.load(replace(plan, artifact=copy))
        worker.unload(plan.key)
        victim = max((file for file in copy.iterdir() if file.name != "manifest.json"),
                     key=lambda file: file.stat().st_size)  # fmt: skip
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
        with pytest.raises(PlanFault, match="hash differs"):
            worker.load(replace(plan, artifact=copy))
        assert worker.resident == frozenset()

    def test_answers_that_are_not_lent_outlive_the_next_batch(
        self, worker: Worker, plans: dict[str, Plan]
    ) -> None:
        plan = plans["onnxruntime"]
        worker.load(plan)
        answer = worker.run(plan.key, [torch.ones(1, 8)])
        (first,) = answer.leaves
        kept = first.clone()
        worker.run(plan.key, [torch.full((1, 8), 5.0)])
        assert torch.equal(first, kept) or answer.lent
        first += 1  # and may be written to


class TestThreadWorker(WorkerContract):
    @pytest.fixture
    def worker(self) -> Iterator[Worker]:
        made = ThreadWorker("w")
        yield made
        made.close()


class TestProcessWorker(WorkerContract):
    @pytest.fixture
    def worker(self) -> Iterator[Worker]:
        made = ProcessWorker("w", threads=1, hang_timeout_s=60.0)
        yield made
        made.close()


@pytest.fixture
def start() -> Iterator[Callable[..., ProcessWorker]]:
    made: list[ProcessWorker] = []

    def hire(hang_timeout_s: float = 60.0) -> ProcessWorker:
        made.append(ProcessWorker("w", threads=1, hang_timeout_s=hang_timeout_s))
        return made[-1]

    yield hire
    for worker in made:
        worker.close()


def test_a_killed_worker_says_so(
    start: Callable[..., ProcessWorker], plans: dict[str, Plan]
) -> None:
    worker = start()
    worker.load(plans["onnxruntime"])
    assert worker.alive
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerCrashed) as caught:
        worker.run(plans["onnxruntime"].key, [torch.ones(1, 8)])
    assert caught.value.returncode == -signal.SIGKILL
    assert not worker.alive


def test_a_stopped_worker_is_killed_after_the_hang_timeout(
    start: Callable[..., ProcessWorker], plans: dict[str, Plan]
) -> None:
    worker = start(hang_timeout_s=0.2)
    worker.load(plans["onnxruntime"])
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(WorkerHung, match=r"no answer within 0\.2 s; it had been stopped") as caught:
        worker.run(plans["onnxruntime"].key, [torch.ones(1, 8)])
    assert caught.value.from_outside
    worker.close()
    assert not worker.alive


def test_time_in_which_nobody_ran_is_no_hang() -> None:
    """A container that is paused for an hour: the clock jumps within one short wait."""
    waited: list[float] = []

    class Frozen:
        def poll(self, timeout_s: float) -> bool:
            waited.append(3600.0 if len(waited) == 1 else timeout_s)
            return len(waited) == 6

    assert _answers(Frozen(), 8 * SLICE_S)  # type: ignore[arg-type]
    assert sum(waited) > 3600
    waited.clear()
    assert not _answers(Frozen(), 4 * SLICE_S)  # type: ignore[arg-type]
    assert len(waited) == 4


def test_a_worker_for_an_onnx_plan_never_imports_torch(
    start: Callable[..., ProcessWorker], plans: dict[str, Plan]
) -> None:
    worker = start()
    worker.load(plans["onnxruntime"])
    worker.run(plans["onnxruntime"].key, [torch.ones(1, 8)])
    mapped = Path(f"/proc/{worker.pid}/maps")
    if not mapped.exists():
        pytest.skip("the libraries of another process can be listed on Linux only")
    assert "libtorch" not in mapped.read_text()
