"""Whatever a plan or its worker does, every request gets the original's answer."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

import evolve
from evolve.control_plane.recovery import Recovery
from evolve.data_plane.faults import Ruling
from evolve.data_plane.lane_pool import LanePool
from evolve.errors import PlanDeclined, PlanFault, PlanLost, WorkerCrashed, WorkerHung
from evolve.workers.base import Answer, Worker
from profiler.shapes import Shape
from supernet.bounds import Bound, Bounds
from supernet.building.reports import report_name
from supernet.cache import ArtifactCache
from supernet.plans import Plan, PlanSpec, PlanState
from tests.waiting import eventually

Behaviour = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]


class StagedWorker:
    """Runs a Python function as its plan; `dies` makes it end like a process would."""

    def __init__(self, name: str, behaviour: Behaviour) -> None:
        self.name = name
        self.pid = 1
        self.alive = True
        self.resident: frozenset[str] = frozenset()
        self.runs = 0
        self._behaviour = behaviour

    def load(self, plan: Plan, warm: Sequence[Any] = ()) -> None:
        self.resident = self.resident | {plan.key}

    def unload(self, key: str) -> None:
        self.resident = self.resident - {key}

    def run(self, key: str, leaves: Sequence[torch.Tensor]) -> Answer:
        self.runs += 1
        return Answer(self._behaviour(leaves), 0.01)

    def close(self) -> None:
        self.alive = False


def staged_plan() -> Plan:
    spec = PlanSpec("graph", "staged", "fp32", 1, "weights", "torch", "1", "isa")
    costs = {Shape(1, 1): 1e-3, Shape(16, 1): 2e-3}  # ms: always the fastest
    return Plan(spec, PlanState.VERIFIED, error=0.0, costs_ms=costs)


@pytest.fixture
def serve(
    mlp: torch.nn.Module, config: evolve.Config, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[evolve.Runtime, list[StagedWorker], Plan]]]:
    """A runtime whose only plan does what the test says, on staged workers."""
    runtimes: list[evolve.Runtime] = []

    def make(
        behaviour: Behaviour,
        model: torch.nn.Module = mlp,
        example: tuple[torch.Tensor, ...] = (torch.zeros(2, 8),),
    ) -> tuple[evolve.Runtime, list[StagedWorker], Plan]:
        workers: list[StagedWorker] = []

        def hire(settings: object, hang_timeout_s: float, name: str) -> StagedWorker:
            workers.append(StagedWorker(name, behaviour))
            return workers[-1]

        monkeypatch.setattr("evolve.lifecycle.assembly._hire", hire)
        runtime = evolve.wrap(model, example, slo=evolve.SLO(60_000.0), config=config)
        runtimes.append(runtime)
        runtime.wait_for_plans(30)
        plan = staged_plan()
        runtime.parts.library.put(plan)
        runtime.parts.loading.admit(plan)
        return runtime, workers, plan

    yield make
    for runtime in runtimes:
        runtime.close()


def reasons(runtime: evolve.Runtime, words: str) -> list[str]:
    """What the journal says with these words, once it does."""

    def said() -> list[str]:
        return [d.reason for d in runtime.decisions(1000) if words in d.reason]

    assert eventually(lambda: bool(said()))
    return said()


def raises(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    raise PlanFault("staged")


def crashes(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    raise WorkerCrashed("worker-0", -signal.SIGSEGV)


def hangs(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    raise WorkerHung("worker-0 gave no answer")


def gives_nan(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.full((leaves[0].shape[0], 4), float("nan"))]


def gives_too_few_rows(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.zeros(0, 4)]


def gives_too_few_outputs(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return []


def test_a_plan_that_cannot_be_loaded_takes_no_other_plans_place(
    serve: Callable[..., tuple[evolve.Runtime, list[StagedWorker], Plan]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime, _, plan = serve(lambda leaves: [torch.zeros(len(leaves[0]), 4)])
    faster = replace(
        plan,
        spec=replace(plan.spec, backend="faster"),
        costs_ms={shape: ms / 2 for shape, ms in plan.costs_ms.items()},
    )

    def load(worker: StagedWorker, loading: Plan, warm: object) -> None:
        raise PlanFault("no such kernel here")

    monkeypatch.setattr(StagedWorker, "load", load)
    runtime.parts.library.put(faster)
    runtime.parts.loading.admit(faster)
    found = runtime.parts.library.get(faster.key)
    assert found is not None
    assert (found.state, found.reason) == (PlanState.QUARANTINED, "no such kernel here")
    assert runtime.parts.pool.held() == {plan.key}


def test_a_plan_whose_files_are_gone_is_not_to_blame(
    serve: Callable[..., tuple[evolve.Runtime, list[StagedWorker], Plan]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime, _, plan = serve(lambda leaves: [torch.zeros(len(leaves[0]), 4)])
    faster = replace(
        plan,
        spec=replace(plan.spec, backend="faster"),
        costs_ms={shape: ms / 2 for shape, ms in plan.costs_ms.items()},
    )
    told: list[str] = []
    pool, library = runtime.parts.pool, runtime.parts.library
    monkeypatch.setattr(pool, "_on_lost", lambda: told.append("rebuild"))

    def load(worker: StagedWorker, loading: Plan, warm: object) -> None:
        raise PlanLost("its files are gone")

    monkeypatch.setattr(StagedWorker, "load", load)
    library.put(faster)
    for _ in range(2):
        runtime.parts.loading.admit(faster)
    found = library.get(faster.key)
    assert found is not None
    assert found.state is PlanState.ADMITTED
    assert pool.held() == {plan.key}
    assert eventually(lambda: told == ["rebuild"])


def test_the_next_best_plan_takes_the_place_of_one_that_is_quarantined(
    serve: Callable[..., tuple[evolve.Runtime, list[StagedWorker], Plan]], mlp: torch.nn.Module
) -> None:
    failed = threading.Event()

    def fails_once(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if not failed.is_set():
            failed.set()
            raise PlanFault("staged")
        return [mlp(leaves[0]).detach()]

    runtime, _, plan = serve(fails_once)
    nearly = {shape: 1.01 * ms for shape, ms in plan.costs_ms.items()}
    other = replace(plan, spec=replace(plan.spec, backend="other"), costs_ms=nearly)
    runtime.parts.library.put(other)
    runtime.parts.loading.admit(other)
    assert runtime.parts.pool.held() == {plan.key}  # the other one adds nothing yet
    x = torch.randn(1, 8)
    assert torch.allclose(runtime(x), mlp(x))
    assert eventually(lambda: runtime.parts.pool.held() == {other.key})
    assert eventually(lambda: runtime.parts.pool.lanes[0].resident() == {other.key})
    runtime(x)
    assert eventually(lambda: other.key in runtime.status()["rows_by_plan"])


def test_a_worker_that_cannot_be_hired_at_once_is_hired_later(
    serve: Callable[..., tuple[evolve.Runtime, list[StagedWorker], Plan]], mlp: torch.nn.Module
) -> None:
    runtime, workers, plan = serve(lambda leaves: [mlp(leaves[0]).detach()])
    pool, first = runtime.parts.pool, workers[-1]
    hire, tries = pool._hire, []

    def hire_at_the_third_try(name: str) -> Worker:
        tries.append(name)
        if len(tries) < 3:
            raise OSError("Resource temporarily unavailable")
        return hire(name)

    pool._hire = hire_at_the_third_try
    first.alive = False
    assert eventually(lambda: workers[-1] is not first and workers[-1].resident == {plan.key})
    assert len(tries) == 3


def test_a_plan_that_declines_stays_at_the_price_of_both_runs(
    serve: Callable[..., tuple[evolve.Runtime, list[StagedWorker], Plan]], mlp: torch.nn.Module
) -> None:
    def declines_large_ones(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if leaves[0].abs().max() > 10:
            raise PlanDeclined("beyond its range")
        return [torch.zeros(len(leaves[0]), 4)]

    runtime, _, plan = serve(declines_large_ones)
    costs = runtime.parts.serving.stats.costs
    before_ms = costs.estimate(plan.key, Shape(1, 1)).p50_ms
    large = torch.full((1, 8), 20.0)
    for _ in range(20):
        assert torch.equal(runtime(large), mlp(large))
    found = runtime.parts.library.get(plan.key)
    assert found is not None
    assert found.state is PlanState.RESIDENT
    assert costs.estimate(plan.key, Shape(1, 1)).p50_ms > before_ms
    (said,) = reasons(runtime, "beyond its range")
    assert "original model" in said
    assert "trouble" not in said


def test_requests_beyond_a_plans_bounds_are_the_originals_and_their_neighbours_the_plans(
    serve: Callable[..., tuple[evolve.Runtime, list[StagedWorker], Plan]], mlp: torch.nn.Module
) -> None:
    # By so little that the watch takes it for rounding.
    runtime, _, plan = serve(lambda leaves: [mlp(leaves[0]).detach() * (1 + 3e-5)])
    bound = Bound(0, 0, size=(0.5, 10.0), spread=(0.0, 20.0), zeros=False)
    runtime.parts.library.learn(replace(plan, bounds=Bounds((bound,))))
    calls = [torch.full((1 + i % 3, 8), 20.0 if i % 4 == 0 else 1.0) for i in range(24)]
    futures = [runtime.submit(x) for x in calls]
    answers = [future.result(timeout=30) for future in futures]
    answers += [runtime(x) for x in calls]
    for x, answer in zip(calls * 2, answers, strict=True):
        expected = mlp(x) if x.max() > 10 else mlp(x) * (1 + 3e-5)
        assert torch.allclose(answer, expected, rtol=1e-5, atol=0)
    assert runtime.parts.library.get(plan.key).state is PlanState.RESIDENT
    (_,) = reasons(runtime, "of other sizes")


BAD = [raises, crashes, hangs, gives_nan, gives_too_few_rows, gives_too_few_outputs]


@pytest.mark.parametrize("behaviour", BAD)
def test_a_bad_plan_harms_nobody_and_is_quarantined(
    serve: Callable[..., Any], mlp: torch.nn.Module, config: evolve.Config, behaviour: Behaviour
) -> None:
    runtime, workers, plan = serve(behaviour)
    calls = [torch.randn(1 + i % 3, 8) for i in range(20)]
    futures = [runtime.submit(x) for x in calls]
    for x, future in zip(calls, futures, strict=True):
        assert torch.allclose(future.result(timeout=30), mlp(x), atol=1e-6)
    assert sum(worker.runs for worker in workers) >= 1
    assert eventually(lambda: plan.key in runtime.parts.library.quarantined())
    assert runtime.parts.library.admitted() == ()
    assert runtime.status()["counts"]["retried"] >= 1
    cache = ArtifactCache(config.plans.cache_dir)
    name = report_name(plan.spec, runtime.parts.builder._setup.device.key)
    assert eventually(lambda: cache.report(name) is not None), "no later start may admit it"
    said = [d for d in runtime.decisions() if d.after.get("state") == "quarantined"]
    assert [d.before["state"] for d in said] == ["resident"]
    report = cache.report(name)
    assert report is not None
    assert report["failure"] == runtime.parts.library.get(plan.key).reason
    before = runtime.status()["rows_by_plan"]
    runtime(torch.randn(1, 8))
    assert runtime.status()["rows_by_plan"].get(plan.key) == before.get(plan.key)


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Nobody takes up what is noted until it is set."""
    resumed, take_up = threading.Event(), Recovery.take_up

    def late(recovery: Recovery, ruling: Ruling) -> None:
        assert resumed.wait(60)
        take_up(recovery, ruling)

    monkeypatch.setattr(Recovery, "take_up", late)
    yield resumed
    resumed.set()


def test_a_plan_to_blame_runs_no_further_batch_even_before_the_fault_is_taken_up(
    stalled: threading.Event, serve: Callable[..., Any], mlp: torch.nn.Module
) -> None:
    runtime, workers, plan = serve(raises)
    worker = workers[-1]
    for _ in range(5):
        x = torch.randn(1, 8)
        assert torch.allclose(runtime(x), mlp(x), atol=1e-6)
        assert torch.allclose(runtime.submit(x).result(timeout=30), mlp(x), atol=1e-6)
    (lane,) = runtime.parts.pool.lanes
    answer, own = lane.compute(plan.key, [x])  # the rest of a batch that was begun before
    assert own
    assert torch.allclose(answer.leaves[0], mlp(x), atol=1e-6)
    assert worker.runs == 1
    assert runtime.parts.library.get(plan.key).state is PlanState.QUARANTINED
    assert plan.key in worker.resident, "nobody has unloaded it yet"
    stalled.set()
    assert eventually(lambda: worker.resident == frozenset())


def test_a_lost_worker_is_given_no_further_batch_even_before_the_fault_is_taken_up(
    stalled: threading.Event, serve: Callable[..., Any], mlp: torch.nn.Module
) -> None:
    def killed(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        raise WorkerCrashed("worker-0", -signal.SIGKILL)

    runtime, workers, plan = serve(killed)
    first = workers[-1]
    for _ in range(5):
        x = torch.randn(1, 8)
        assert torch.allclose(runtime(x), mlp(x), atol=1e-6)
        assert torch.allclose(runtime.submit(x).result(timeout=30), mlp(x), atol=1e-6)
    assert (first.runs, workers[-1]) == (1, first)
    assert runtime.status()["lanes"][0]["worker"] is None
    assert runtime.parts.library.get(plan.key).state is PlanState.RESIDENT
    stalled.set()
    assert eventually(lambda: workers[-1] is not first and workers[-1].resident == {plan.key})
    assert not first.alive


def test_who_came_in_the_place_of_a_worker_that_is_lost_stays(
    serve: Callable[..., Any], mlp: torch.nn.Module
) -> None:
    """As when workers are renewed while one of them still runs its last batch."""
    fresh = StagedWorker("worker-0", lambda leaves: [mlp(leaves[0]).detach()])

    def is_renewed_and_dies(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        (lane,) = runtime.parts.pool.lanes
        fresh.resident = lane.resident()
        lane.swap(first, fresh)
        raise WorkerCrashed("worker-0", -signal.SIGKILL)

    runtime, workers, _ = serve(is_renewed_and_dies)
    first = workers[-1]
    x = torch.randn(1, 8)
    assert torch.allclose(runtime(x), mlp(x), atol=1e-6)
    (_,) = reasons(runtime, "ran again on the original")
    assert runtime.parts.pool.lanes[0].worker is fresh
    assert fresh.alive
    assert workers[-1] is first, "nobody was hired"
    assert torch.allclose(runtime(x), mlp(x), atol=1e-6)
    assert fresh.runs == 1


def test_a_plan_is_not_blamed_for_a_bad_request(
    serve: Callable[..., Any], mlp: torch.nn.Module
) -> None:
    """NaN in, NaN out is what the original does too."""
    runtime, _, plan = serve(lambda leaves: [mlp(leaves[0]).detach()])
    bad = torch.full((1, 8), float("nan"))
    assert torch.isnan(runtime.submit(bad).result(timeout=30)).all()
    assert runtime.parts.library.get(plan.key).state is PlanState.RESIDENT


def test_a_crashed_worker_is_replaced_and_loaded_again(
    serve: Callable[..., Any], mlp: torch.nn.Module
) -> None:
    killed = threading.Event()

    def killed_once(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if not killed.is_set():
            killed.set()
            raise WorkerCrashed("worker-0", -signal.SIGKILL)
        return [mlp(leaves[0]).detach()]

    runtime, workers, plan = serve(killed_once)
    first = workers[-1]
    x = torch.randn(1, 8)
    assert torch.allclose(runtime(x), mlp(x))
    assert eventually(lambda: workers[-1] is not first and workers[-1].resident == {plan.key})
    assert not first.alive
    assert eventually(lambda: runtime.status()["lanes"][0]["worker"] is not None)
    assert torch.allclose(runtime(x), mlp(x))
    assert workers[-1].runs >= 1
    assert runtime.parts.library.get(plan.key).state is PlanState.RESIDENT
    assert any(d.kind == "worker" for d in runtime.decisions())


def test_a_worker_that_died_while_idle_is_replaced_by_the_next_tick(
    serve: Callable[..., Any], mlp: torch.nn.Module
) -> None:
    _, workers, plan = serve(lambda leaves: [mlp(leaves[0]).detach()])
    first = workers[-1]
    first.alive = False
    assert eventually(lambda: workers[-1] is not first and workers[-1].resident == {plan.key})


def test_a_fault_of_our_own_loses_neither_the_request_nor_the_lane(
    serve: Callable[..., Any], mlp: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, _, _ = serve(lambda leaves: [mlp(leaves[0]).detach()])
    x = torch.randn(1, 8)
    with monkeypatch.context() as broken:

        def fails(*args: object) -> None:
            raise RuntimeError("bookkeeping failed")

        broken.setattr(runtime.parts.serving.stats, "ended", fails)
        with pytest.raises(RuntimeError, match="bookkeeping failed"):
            runtime.submit(x).result(timeout=30)
    assert torch.allclose(runtime.submit(x).result(timeout=30), mlp(x), atol=1e-6)


def test_a_plan_that_is_ruled_out_while_a_new_worker_loads_it_costs_no_lane_its_worker() -> None:
    hired = threading.Event()
    pool = LanePool(
        1, None, lambda name: StagedWorker(name, raises), lambda plan: [],
        lambda worker, what: hired.set() if what.startswith("replaced") else None,
    )  # fmt: skip
    plan = staged_plan()
    pool.load(plan)

    class RuledOut(StagedWorker):
        def load(self, loading: Plan, warm: Sequence[Any] = ()) -> None:
            super().load(loading, warm)
            pool._plans = ()

        def unload(self, key: str) -> None:
            raise WorkerCrashed(self.name, -signal.SIGKILL)

    pool._hire = lambda name: RuledOut(name, raises)
    pool.replace(pool.lanes[0], "it died")
    assert hired.wait(60)
    assert isinstance(pool.lanes[0].worker, RuledOut)


@pytest.mark.parametrize(("apart_s", "waits"), [(1.0, 3), (61.0, 0)])
def test_only_a_worker_that_keeps_dying_waits_to_be_replaced(
    monkeypatch: pytest.MonkeyPatch, apart_s: float, waits: int
) -> None:
    now_s, waited = [0.0], []
    hired = threading.Semaphore(0)

    def said(worker: str, what: str) -> None:
        if what.startswith("replaced"):
            hired.release()

    pool = LanePool(
        1, None, lambda name: StagedWorker(name, raises), lambda plan: [], said,
        clock=lambda: now_s[0],
    )  # fmt: skip
    monkeypatch.setattr(pool._closed, "wait", lambda timeout: waited.append(timeout))
    for _ in range(6):
        pool.replace(pool.lanes[0], "it died")
        assert hired.acquire(timeout=30)
        now_s[0] += apart_s
    assert len(waited) == waits
    assert waited == sorted(waited)


class Lookup(torch.nn.Module):
    """An index made of floats: nothing proves that it lies within the table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.table((x * 5).long())
        return states


def test_a_worker_that_dies_of_what_the_model_refuses_costs_the_plan_nothing(
    serve: Callable[..., tuple[evolve.Runtime, list[StagedWorker], Plan]],
) -> None:
    model = Lookup().eval()

    def looks_up(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if float(leaves[0].max()) > 1:
            raise WorkerCrashed("worker-0", -signal.SIGABRT)
        with torch.no_grad():
            return [model(leaves[0])]

    runtime, _, plan = serve(looks_up, model, (torch.rand(1, 4),))
    for _ in range(2):
        with pytest.raises(IndexError):
            runtime(torch.full((1, 4), 1.3))
    kept = runtime.parts.library.get(plan.key)
    assert kept is not None
    assert kept.state is PlanState.RESIDENT
    (_,) = reasons(runtime, "ran again on the original")


def test_a_worker_that_dies_of_what_the_model_answers_with_a_nan_quarantines_the_plan(
    serve: Callable[..., tuple[evolve.Runtime, list[StagedWorker], Plan]],
) -> None:
    class Root(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sqrt()

    runtime, _, plan = serve(crashes, Root(), (torch.rand(1, 4),))
    answer = runtime(torch.full((1, 4), -1.0))
    assert answer.isnan().all()
    kept = runtime.parts.library.get(plan.key)
    assert kept is not None
    assert kept.state is PlanState.QUARANTINED


class Policy(torch.nn.Module):
    """Scores of actions, minus infinity for what is not legal."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, legal: torch.Tensor) -> torch.Tensor:
        return self.scores(x).masked_fill(~legal, float("-inf"))


def test_legitimate_infinities_are_answered_by_the_plan_alone(
    serve: Callable[..., tuple[evolve.Runtime, list[StagedWorker], Plan]],
) -> None:
    model = Policy().eval()
    example = torch.rand(1, 4), torch.tensor([[True, False, True, True]])

    def plays(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        with torch.no_grad():
            return [model(*leaves)]

    runtime, workers, _ = serve(plays, model, example)
    assert torch.equal(runtime(*example), plays(example)[0])
    assert sum(worker.runs for worker in workers) == 1
    assert runtime.status()["counts"]["retried"] == 0


def test_a_nan_among_legitimate_infinities_is_a_fault(
    serve: Callable[..., tuple[evolve.Runtime, list[StagedWorker], Plan]],
) -> None:
    model = Policy().eval()
    example = torch.rand(1, 4), torch.tensor([[True, False, True, True]])
    runtime, _, plan = serve(gives_nan, model, example)
    answer = runtime(*example)
    with torch.no_grad():
        assert torch.equal(answer, model(*example))
    kept = runtime.parts.library.get(plan.key)
    assert kept is not None
    assert kept.state is PlanState.QUARANTINED
