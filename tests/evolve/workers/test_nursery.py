"""Workers that begin as copies of one process: with its plans, apart from each other, replaced."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

import evolve
from evolve.control_plane.renewal import Renewal
from evolve.errors import PlanFault, WorkerCrashed
from evolve.workers.nursery import Nursery
from evolve.workers.process import ProcessWorker, environment, load_request
from profiler.fingerprint import fingerprint
from profiler.shapes import Shape
from supernet.building.build import BuildLimits, build_plan
from supernet.cache import ArtifactCache
from supernet.capture.stored import store
from supernet.capture.subject import capture
from supernet.plans import Plan
from supernet.proposals import propose
from tests.evolve.workers.test_workers import WorkerContract
from tests.evolve.workers.test_workers import model as model  # the contract's fixtures
from tests.evolve.workers.test_workers import plans as plans
from tests.waiting import eventually

SLO = evolve.SLO(60_000.0)
pytestmark = pytest.mark.skipif(not Nursery.possible(1), reason="needs process descriptors")


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    made = Nursery(environment(1))
    yield made
    made.close()


def copy(nursery: Nursery) -> ProcessWorker:
    return ProcessWorker("w", threads=1, hang_timeout_s=60.0, nursery=nursery)


class TestForkedWorker(WorkerContract):
    @pytest.fixture
    def worker(self, nursery: Nursery) -> Iterator[ProcessWorker]:
        made = copy(nursery)
        yield made
        made.close()


def test_copies_begin_with_its_plans_and_go_their_own_ways(
    nursery: Nursery, plans: dict[str, Plan], model: torch.nn.Module
) -> None:
    plan, x = plans["eager"], torch.randn(3, 8)
    nursery.load(plan.key, load_request(plan, [[("float32", (2, 8))]]))
    one, two = copy(nursery), copy(nursery)
    try:
        assert one.resident == two.resident == {plan.key}
        assert len({one.pid, two.pid, nursery.pid, os.getpid()}) == 4
        with torch.no_grad():
            assert torch.allclose(one.run(plan.key, [x]).leaves[0], model(x), atol=1e-5)
            one.unload(plan.key)
            two.load(plans["onnxruntime"])
            assert torch.allclose(two.run(plan.key, [x]).leaves[0], model(x), atol=1e-5)
        assert copy_of(nursery) == {plan.key}
    finally:
        one.close()
        two.close()


def copy_of(nursery: Nursery) -> frozenset[str]:
    third = copy(nursery)
    third.close()
    return third.resident


def test_how_a_copy_ended_is_known(nursery: Nursery, plans: dict[str, Plan]) -> None:
    worker = copy(nursery)
    worker.load(plans["onnxruntime"])
    assert worker.alive
    os.kill(worker.pid, signal.SIGSEGV)
    with pytest.raises(WorkerCrashed) as caught:
        worker.run(plans["onnxruntime"].key, [torch.ones(1, 8)])
    assert caught.value.returncode == -signal.SIGSEGV
    assert not worker.alive
    worker.close()
    assert not psutil.pid_exists(worker.pid)  # not even a zombie


def test_copies_outlive_it_and_end_with_their_runtime(
    nursery: Nursery, plans: dict[str, Plan]
) -> None:
    worker = copy(nursery)
    worker.load(plans["onnxruntime"])
    nursery.close()
    assert worker.run(plans["onnxruntime"].key, [torch.ones(1, 8)]).leaves[0].shape == (1, 4)
    with pytest.raises(PlanFault, match="the nursery has ended"):
        copy(nursery)
    worker.close()
    assert not worker.alive


def test_a_plan_it_cannot_load_is_said(
    nursery: Nursery, plans: dict[str, Plan], tmp_path: Path
) -> None:
    header = load_request(plans["eager"], ()) | {"artifact": str(tmp_path / "nowhere")}
    with pytest.raises(PlanFault, match="nowhere"):
        nursery.load("nowhere", header)
    assert nursery.plans == frozenset()
    assert copy_of(nursery) == frozenset()  # and it goes on


def test_what_two_copies_hold_is_in_memory_once(nursery: Nursery, tmp_path: Path) -> None:
    """48 MiB of weights: two copies that ran them add no more of their own than a part of that."""
    big = torch.nn.Sequential(torch.nn.Linear(1024, 12_288, bias=False)).eval()
    captured = capture(big, (torch.randn(1, 1024),))
    cache = ArtifactCache(tmp_path / "cache")
    spec = propose(captured, fingerprint("cpu", measure=False), ("eager",), ("fp32",))[0]
    plan = build_plan(cache, store(cache, captured), spec, BuildLimits(measure_s=0.1))
    nursery.load(plan.key, load_request(plan, ()))
    two = [copy(nursery) for _ in range(2)]
    try:
        for worker in two:
            worker.run(plan.key, [torch.randn(1, 1024)])
            own = psutil.Process(worker.pid).memory_full_info().uss
            assert own < 48 << 20, f"{own >> 20} MiB"
    finally:
        for worker in two:
            worker.close()


def test_a_runtime_renews_its_workers_and_replaces_them_from_the_same_nursery(
    model: torch.nn.Module, plans: dict[str, Plan], config: evolve.Config
) -> None:
    quick = replace(plans["eager"], costs_ms={Shape(1, 1): 1e-3, Shape(16, 1): 2e-3})
    said: list[str] = []
    x = torch.randn(4, 8)
    config = config.replace(workers={"kind": "process", "count": 2})
    with evolve.wrap(model, (torch.randn(2, 8),), slo=SLO, config=config) as runtime:
        pool, library = runtime.parts.pool, runtime.parts.library
        library.put(quick)
        runtime.parts.loading.admit(quick)
        before = [lane.worker for lane in pool.lanes]
        Renewal(
            pool, threads=1, hang_timeout_s=60.0, warm=lambda plan: (),
            on_event=lambda subject, what: said.append(what),
        ).run()  # fmt: skip
        nursery = int(said[0].split("process ")[1].split()[0])
        for lane, old in zip(pool.lanes, before, strict=True):
            assert old is not None
            assert lane.worker is not None
            assert not old.alive
            assert psutil.Process(lane.worker.pid).ppid() == nursery
            answer = lane.worker.run(quick.key, [x])
            assert torch.allclose(answer.leaves[0], model(x), atol=1e-5)
        lane = pool.lanes[0]
        killed = lane.worker
        assert killed is not None
        os.kill(killed.pid, signal.SIGKILL)
        eventually(lambda: lane.worker not in (None, killed) and bool(lane.worker.resident))
        assert lane.worker is not None
        assert psutil.Process(lane.worker.pid).ppid() == nursery
        assert torch.allclose(runtime(x), model(x), atol=1e-5)
        assert runtime.status()["counts"]["raised"] == 0
    assert not psutil.pid_exists(nursery)


def test_workers_stay_where_they_cannot_be_renewed(
    model: torch.nn.Module, plans: dict[str, Plan], config: evolve.Config, tmp_path: Path
) -> None:
    quick = replace(plans["eager"], costs_ms={Shape(1, 1): 1e-3, Shape(16, 1): 2e-3})
    config = config.replace(workers={"kind": "process", "count": 1})
    with evolve.wrap(model, (torch.randn(2, 8),), slo=SLO, config=config) as runtime:
        pool = runtime.parts.pool
        runtime.parts.library.put(quick)
        runtime.parts.loading.admit(quick)
        pool._plans = (replace(quick, artifact=tmp_path / "gone"),)
        (lane,) = pool.lanes
        before, said = lane.worker, []
        Renewal(
            pool, threads=1, hang_timeout_s=60.0, warm=lambda plan: (),
            on_event=lambda subject, what: said.append(what),
        ).run()  # fmt: skip
        assert lane.worker is before
        assert before is not None
        assert before.alive
        assert said[0].startswith("the workers stay as they are: ")
