"""How often live answers are checked, what that may cost, and that it can hurt nobody."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import evolve
from evolve.data_plane.request_queue import Request
from evolve.data_plane.scheduler import Batch, Price
from evolve.journal.decision import Decision
from evolve.lifecycle.watching import _is_watched
from evolve.watch.judge import Judgement, NotJudged
from evolve.watch.samples import Sample, choose, rate
from evolve.watch.watch import MAX_SAMPLES, QUIET_S, STALE_AFTER_S, Watch, Watched
from supernet.building.reports import report_name
from supernet.cache import ArtifactCache
from supernet.capture.subject import capture
from supernet.findings import OFF, Finding, Status
from supernet.plans import PlanState
from tests.evolve.conftest import encoder_call
from tests.evolve.data_plane.test_recovery import StagedWorker, staged_plan
from tests.evolve.watched import Service, signature
from tests.waiting import eventually

ROWS = signature([("rows", 8)], [("rows", 8)])
TEXT = signature([("rows", "length", 4)], [("rows", "length", 4)])


class Wrong:
    """A judge that goes by a mark in the answer, and takes `cost_s` of the fake clock."""

    def __init__(self, clock: list[float], cost_s: float = 0.0) -> None:
        self.clock, self.cost_s, self.asked = clock, cost_s, 0

    def check(self, sample: Sample) -> Judgement | None:
        self.asked += 1
        self.clock[0] += self.cost_s
        return Judgement("plan", "marked") if bool(sample.answer[0][0, 0] < 0) else None


def watch(
    judge: Any, clock: list[float], *, idle: Callable[[], bool] = lambda: True, seed: int = 0
) -> tuple[Watch, list[Judgement]]:
    found: list[Judgement] = []
    made = Watch(
        judge, Watched(), act=lambda sample, verdict: found.append(verdict),
        on_event=lambda what: None, idle=idle, weights=lambda: 0, clock=lambda: clock[0],
        rng=random.Random(seed),
    )  # fmt: skip
    return made, found


ONE = [torch.ones(1, 1)]
RIGHT, MARKED = [[torch.ones(1, 1)]], [[-torch.ones(1, 1)]]


def ran(one: Watch, answers: list[list[Tensor]] = RIGHT, elapsed_ms: float = 1.0) -> None:
    requests = [Request((), {}, ONE, 1, 1, 0, 0, 0.0, 1.0, True) for _ in answers]
    inputs = [torch.ones(len(answers), 1)]
    one.offer(one.sample("plan", requests, inputs, 1, answers, elapsed_ms))


def look(one: Watch) -> None:
    while one.step() is not None:
        pass


# -- how often -----------------------------------------------------------------------------------


def test_what_errs_on_1_percent_is_found_within_1000_requests_in_99_of_100_seeds() -> None:
    found = 0
    for seed in range(100):
        inputs = random.Random(1000 + seed)
        one, verdicts = watch(Wrong([0.0]), [0.0], seed=seed)
        for _ in range(1_000):
            ran(one, MARKED if inputs.random() < 0.01 else RIGHT)
            look(one)
            if verdicts:
                break
        found += bool(verdicts)
    assert found >= 99


def test_batches_are_sampled_by_their_requests() -> None:
    """As often in batches of sixteen as one by one."""
    one, _ = watch(Wrong([0.0]), [0.0])
    for _ in range(60):
        ran(one, RIGHT * 16)
        look(one)
    status = one.status()
    assert status["offered"] == 960
    assert status["checked"] > 0.6 * 960


def test_the_rate_falls_as_evidence_grows_and_never_to_nothing() -> None:
    rates = [rate(checked) for checked in (0, 31, 32, 699, 700, 1_999, 2_000, 10**9)]
    assert rates == [1, 1, 2 / 3, 2 / 3, 1 / 20, 1 / 20, 1 / 200, 1 / 200]


def test_a_new_plan_is_checked_often_again() -> None:
    one, _ = watch(Wrong([0.0]), [0.0])
    one._shares["plan", "plan"] = rate(10**6)
    requests = [Request((), {}, ONE, 1, 1, 0, 0, 0.0, 1.0, True)]
    assert sum(len(one.sample("plan", requests, ONE, 1, RIGHT, 1.0)) for _ in range(50)) < 5
    assert all(one.sample("new", requests, ONE, 1, RIGHT, 1.0) for _ in range(20))


def test_the_most_padded_are_preferred_and_nobody_is_left_out() -> None:
    requests = [Request((), {}, [], 1, n, 0, 0, 0.0, 1.0, True) for n in (9, 2, 9, 9, 9, 9, 9, 9)]
    rng, chosen = random.Random(0), []
    for _ in range(800):
        chosen += choose(requests, 1 / 8, rng)
    assert 0.9 * 800 < len(chosen) < 1.1 * 800
    assert chosen.count(1) > len(chosen) / 3
    assert set(chosen) == set(range(8))
    assert choose(requests, 1.0, rng) == list(range(8))


def test_what_is_proven_is_not_watched_and_every_plan_is() -> None:
    proven = Watched(batching=False, padding=False)
    calls = [[torch.ones(1, 3, 4)], [torch.ones(1, 5, 4)]]
    original = Service(nn.Tanh(), TEXT, calls[0], watched=proven)
    original.run(*calls)
    assert original.watch.status()["offered"] == 0
    plan = Service(
        nn.Tanh(), TEXT, calls[0], watched=proven, engine=lambda leaves: [leaves[0].tanh()]
    )
    plan.run(*calls)
    assert plan.look() == []
    assert plan.watch.status()["checked"] == 2


def test_clean_checks_count_for_what_the_request_was_subject_to() -> None:
    service = Service(nn.Tanh(), TEXT, [torch.ones(1, 3, 4)])
    service.run([torch.ones(1, 3, 4)], [torch.ones(1, 5, 4)])
    assert service.look() == []
    assert service.watch.status()["clean"] == {"original": {"batching": 2, "padding": 1}}


# -- what it may cost ----------------------------------------------------------------------------


def test_a_busy_service_gives_2_percent_of_its_lanes_time() -> None:
    clock = [0.0]
    judge = Wrong(clock, cost_s=0.05)
    one, _ = watch(judge, clock, idle=lambda: False)
    one.step()
    assert judge.asked == 0
    for _ in range(10_000):  # 100 s of the lanes' time
        clock[0] += 0.01
        ran(one, elapsed_ms=10.0)
        one.step()
    assert 0.018 * 100 < judge.asked * judge.cost_s < 0.022 * 100 + judge.cost_s
    assert one.status()["skipped"]["busy"] > 0


def test_idle_time_is_free_and_shared() -> None:
    clock = [0.0]
    one, _ = watch(Wrong(clock, cost_s=0.3), clock)
    ran(one)
    wait_s = one.step()
    assert wait_s is not None
    assert wait_s >= 0.3
    assert one._credit_s > 0


def test_what_is_kept_is_bounded() -> None:
    one, _ = watch(Wrong([0.0]), [0.0])
    for _ in range(3 * MAX_SAMPLES):
        ran(one)
    status = one.status()
    assert (status["waiting"], status["skipped"]) == (MAX_SAMPLES, {"busy": 2 * MAX_SAMPLES})


def test_a_request_larger_than_the_room_is_checked_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolve.watch.watch.MAX_MIB", 1e-5)
    large = torch.zeros(1, 8)
    service = Service(nn.Tanh(), ROWS, [large], engine=lambda leaves: [leaves[0].tanh()])
    service.run([large])
    service.run([large])
    assert service.watch.status()["waiting"] == 1
    assert service.look() == []
    service.run([large])
    assert service.watch.status()["waiting"] == 1


def test_stale_samples_are_dropped() -> None:
    clock = [0.0]
    judge = Wrong(clock)
    one, _ = watch(judge, clock)
    ran(one)
    clock[0] += STALE_AFTER_S + 1
    assert one.step() is None
    assert (judge.asked, one.status()["skipped"]) == (0, {"stale": 1})


# -- that it hurts nobody --------------------------------------------------------------------------


def test_what_callers_change_afterwards_is_not_held_against_an_answer() -> None:
    service = Service(
        nn.Tanh(), ROWS, [torch.zeros(1, 8)], engine=lambda leaves: [leaves[0].tanh()]
    )
    alone, first, second = (torch.randn(1, 8) for _ in range(3))
    answers = [*service.run([alone]), *service.run([first], [second])]
    for tensor in (alone, first, second, *(leaf for leaves in answers for leaf in leaves)):
        tensor.fill_(7.0)
    assert service.look() == []
    assert service.watch.status()["checked"] == 3


def test_answers_from_before_the_weights_moved_are_not_judged_by_the_new_ones() -> None:
    model = nn.Linear(8, 8)
    service = Service(model, ROWS, [torch.zeros(1, 8)])
    service.run([torch.ones(1, 8)], [torch.ones(1, 8)])
    with torch.no_grad():
        model.weight += 1.0
    service.run([torch.ones(1, 8)], [torch.ones(1, 8)])
    assert service.look() == []
    assert service.watch.status()["skipped"] == {"weights moved": 4}
    service.run([torch.ones(1, 8)], [torch.ones(1, 8)])
    assert service.look() == []
    assert service.watch.status()["checked"] == 2


class Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def check(self, sample: Sample) -> Judgement | None:
        raise self.error


@pytest.mark.parametrize("error", [ValueError("ours"), NotJudged("theirs")])
def test_a_check_that_raises_is_counted_and_the_next_one_made(error: Exception) -> None:
    one, found = watch(Failing(error), [0.0])
    ran(one, RIGHT)
    look(one)
    assert sum(one.status()["skipped"].values()) == 1
    assert (one.status()["checked"], found) == (0, [])
    one._judge = Wrong([0.0])  # type: ignore[assignment]
    ran(one, MARKED)
    look(one)
    assert len(found) == 1


def test_a_sample_that_cannot_be_copied_costs_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> list[Sample]:
        raise MemoryError

    monkeypatch.setattr("evolve.watch.watch.keep", full)
    one, _ = watch(Wrong([0.0]), [0.0])
    ran(one)
    assert one.status()["skipped"] == {"not copied: MemoryError": 1}


def test_calls_under_autocast_are_not_judged() -> None:
    one, _ = watch(Wrong([0.0]), [0.0])
    with torch.autocast("cpu", torch.bfloat16):
        ran(one, MARKED)
    assert one.status()["skipped"] == {"autocast": 1}


def test_a_watch_that_stands_still_is_said_once_and_so_is_its_return() -> None:
    clock, said = [0.0], []
    began, go_on = threading.Event(), threading.Event()

    class Hanging:
        def check(self, sample: Sample) -> Judgement | None:
            began.set()
            assert go_on.wait(60)
            return None

    one = Watch(
        Hanging(), Watched(), act=lambda sample, verdict: None, on_event=said.append,  # type: ignore[arg-type]
        idle=lambda: True, weights=lambda: 0, clock=lambda: clock[0],
    )  # fmt: skip
    one.start()
    try:
        ran(one)
        assert began.wait(60)
        one.check()
        assert said == []
        clock[0] += QUIET_S + 1
        one.check()
        one.check()
        assert len(said) == 1
        assert said[0].startswith("stale")
        assert one.status()["state"] == "stale"
        for _ in range(2 * MAX_SAMPLES):
            ran(one)  # answers go on leaving
        go_on.set()
        while one.status()["checked"] == 0:
            threading.Event().wait(0.001)
        one.check()
        assert said[1:] == ["live answers are checked again"]
    finally:
        go_on.set()
        one.stop()
        one.join(60)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watch_whose_thread_died_is_stale() -> None:
    said: list[str] = []

    def dies() -> bool:
        raise SystemExit

    one = Watch(
        Wrong([0.0]), Watched(), act=lambda sample, verdict: None, on_event=said.append,  # type: ignore[arg-type]
        idle=dies, weights=lambda: 0,
    )  # fmt: skip
    one.start()
    one.join(60)
    one.check()
    assert said == ["stale: live answers are no longer checked, its thread ended"]


# -- in a runtime ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "watched"), [("proven", False), ("inferred", True), ("demanded", True)]
)
def test_what_is_watched_is_what_is_not_proven(status: Status, watched: bool) -> None:
    captured = capture(nn.Linear(8, 8).eval(), (torch.randn(2, 8),))
    found = replace(captured, batching=Finding(status), padding=OFF)
    assert _is_watched(found, "batching") is watched
    assert not _is_watched(found, "padding")


def test_who_waited_together_runs_apart_once_padding_is_off(
    encoder: nn.Module, config: evolve.Config
) -> None:
    calls = [encoder_call(n) for n in (3, 9, 3, 17)]
    with evolve.wrap(encoder, [encoder_call(3), encoder_call(19)], config=config) as runtime:
        lane, licence = runtime.parts.pool.lanes[0], runtime.parts.serving.licence
        assert licence.now.padding
        lengths = []
        for liberty in (None, "padding", "batching"):
            if liberty is not None:
                licence.withdraw(liberty, "by hand")  # type: ignore[arg-type]
            requests = [
                Request(
                    (), call, list(call.values()), 1, call["ids"].shape[1], 0, 0, 0.0, 1e9, True
                )
                for call in calls
            ]
            before = runtime.status()["counts"]
            lane._serve(Batch("original", tuple(requests), (), 17, Price(1.0, 0)))
            after = runtime.status()["counts"]
            lengths.append(after["tokens"] - before["tokens"])
            for call, request in zip(calls, requests, strict=True):
                want = encoder(**call)
                answer = request.future.result(timeout=0)
                assert all(torch.allclose(answer[k], want[k], atol=1e-5) for k in want)
        assert lengths == [4 * 17, 3 + 9 + 3 + 17, 3 + 9 + 3 + 17]


class Moody(nn.Module):
    """Learnt as rows that know nothing of each other; later they do, which no look at the model
    tells."""

    def __init__(self, mood: list[str]) -> None:
        super().__init__()
        self.scale = nn.Linear(8, 8)
        self._coupled = lambda: bool(mood)

    def forward(self, x: Tensor) -> Tensor:
        y = self.scale(x)
        return y + x.sum() if self._coupled() else y


def test_a_coupling_found_live_is_said_and_final(
    config: evolve.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evolve.lifecycle.watching._is_watched", lambda captured, liberty: True)
    torch.manual_seed(0)
    mood: list[str] = []
    model = Moody(mood).eval()
    example = (torch.randn(2, 8),)
    with evolve.wrap(model, example, slo=evolve.SLO(60_000.0), config=config) as runtime:
        assert runtime.wait_for_plans(60)
        assert runtime.parts.serving.licence.now.batching
        mood.append("coupled")

        def batching_is_off() -> bool:
            for future in [runtime.submit(torch.randn(1, 8)) for _ in range(40)]:
                future.result(timeout=60)
            return "batching" in runtime.status()["watch"]["withdrawn"]

        assert eventually(batching_is_off)
        calls = [torch.randn(1, 8) for _ in range(60)]
        futures = [runtime.submit(x) for x in calls]
        for x, future in zip(calls, futures, strict=True):
            assert torch.allclose(future.result(timeout=60), model(x), atol=1e-5)
        assert eventually(lambda: any(d.subject == "batching" for d in runtime.decisions(1000)))
        (said,) = [d for d in runtime.decisions(1000) if d.subject == "batching"]
        assert said.after == {"state": "off"}
        assert "where the model alone gives" in said.reason
        assert said.reason.endswith("requests are answered one by one from now on")
    mood.clear()
    with evolve.wrap(model, example, slo=evolve.SLO(60_000.0), config=config) as again:
        assert again.wait_for_plans(60)
        assert not again.parts.serving.licence.now.batching
        assert "batching" in again.status()["watch"]["withdrawn"]
        assert any("found earlier: " in d.reason for d in again.decisions(1000))


@pytest.fixture
def staged(
    mlp: nn.Module, config: evolve.Config, monkeypatch: pytest.MonkeyPatch
) -> Iterator[evolve.Runtime]:
    """A runtime whose plan is wrong where the first number is over 2."""

    def behaviour(leaves: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return [mlp(leaves[0]) + (leaves[0][:, :1] > 2.0)]

    monkeypatch.setattr(
        "evolve.lifecycle.assembly._hire",
        lambda settings, hang_s, name: StagedWorker(name, behaviour),
    )
    slo = evolve.SLO(60_000.0)
    with evolve.wrap(mlp, (torch.randn(2, 8),), slo=slo, config=config) as runtime:
        assert runtime.wait_for_plans(60)
        plan = staged_plan()
        runtime.parts.library.put(plan)
        runtime.parts.loading.admit(plan)
        yield runtime


def test_a_plan_found_wrong_is_taken_out_said_and_stays_out(
    staged: evolve.Runtime, mlp: nn.Module, config: evolve.Config
) -> None:
    key = staged_plan().key
    wrong = torch.full((1, 8), 3.0)

    def is_out() -> bool:
        staged(wrong)
        found = staged.parts.library.get(key)
        return found is not None and found.state is PlanState.QUARANTINED

    assert eventually(is_out)
    assert torch.allclose(staged(wrong), mlp(wrong), atol=1e-6)
    assert staged.parts.library.admitted() == ()

    def quarantines() -> list[Decision]:
        return [d for d in staged.decisions(1000) if d.after.get("state") == "quarantined"]

    assert eventually(lambda: bool(quarantines()))
    (said,) = quarantines()
    assert said.subject == key
    assert "where the model alone gives" in said.reason
    assert config.plans.cache_dir is not None
    cache = ArtifactCache(config.plans.cache_dir)
    name = report_name(staged_plan().spec, staged.parts.builder._setup.device.key)
    assert eventually(lambda: cache.report(name) is not None)
    report = cache.report(name)
    assert report is not None
    assert "where the model alone gives" in report["failure"]


def test_answers_leave_before_they_are_checked(
    staged: evolve.Runtime, mlp: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every check hangs, and nobody waits for it."""
    go_on, began = threading.Event(), threading.Event()

    def hangs(sample: Sample) -> None:
        began.set()
        go_on.wait(120)

    judge = staged.parts.serving.watch._judge
    monkeypatch.setattr(judge, "check", hangs)
    try:
        x = torch.ones(1, 8)
        assert torch.allclose(staged(x), mlp(x), atol=1e-6)
        assert began.wait(60)
        for _ in range(200):
            assert torch.allclose(staged(x), mlp(x), atol=1e-6)
        futures = [staged.submit(x) for _ in range(200)]
        assert all(torch.allclose(f.result(timeout=60), mlp(x), atol=1e-6) for f in futures)
        assert staged.status()["watch"]["checked"] == 0
    finally:
        go_on.set()
