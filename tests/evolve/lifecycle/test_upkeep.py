"""`wrap` returns before the capture ends; a model that changes is served as it is now."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

import evolve
from evolve.config import CaptureConfig
from evolve.data_plane.reception import Reception
from evolve.errors import PlanLost
from profiler.shapes import Shape
from tests.evolve.conftest import WAITED_FOR, Encoder, encoder_call
from tests.evolve.data_plane.test_recovery import StagedWorker, staged_plan
from tests.evolve.test_runtime import same
from tests.waiting import eventually

AT_ONCE = CaptureConfig(wait_s=0.0, limit_s=600.0, still_s=0.0)
BESIDE = "it is being captured beside serving"


def started(before: set[psutil.Process]) -> list[psutil.Process]:
    """Processes of ours that were not there before."""
    return [child for child in psutil.Process().children() if child not in before]


def captures(runtime: evolve.Runtime) -> list[str]:
    """What the journal says of captures."""
    return [d.reason for d in runtime.decisions(100) if d.subject == "capture"]


class InTheChild(nn.Module):
    """Does something in any other process than the one that made it."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 4)
        self.home, self.act = os.getpid(), act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if os.getpid() != self.home:
            self.act()
        out: torch.Tensor = self.mix(x)
        return out


def test_the_original_serves_until_the_capture_is_there(
    encoder: nn.Module, config: evolve.Config
) -> None:
    examples = [encoder_call(3), encoder_call(19)]
    config = config.replace(capture=AT_ONCE)
    with evolve.wrap(encoder, examples, slo=evolve.SLO(60_000.0), config=config) as runtime:
        assert runtime.status()["capture"]["program"] == BESIDE
        asked: list[tuple[dict[str, Any], Future[Any]]] = []
        while runtime.parts.pending:  # requests all the while, over the change and beyond it
            call = encoder_call(2 + len(asked) % 30, seed=len(asked))
            asked.append((call, runtime.submit(**call)))
            assert same(runtime(**call), encoder(**call))
        for call, future in asked:
            assert same(future.result(timeout=60), encoder(**call))
        assert runtime.wait_for_plans(60)
        status = runtime.status()
        assert status["capture"]["program"] == "exported"
        assert status["counts"]["arrived"] == 2 * len(asked)
        assert status["counts"]["met"] + status["counts"]["late"] == 2 * len(asked)
        assert captures(runtime)[0] == f"the original model serves: {BESIDE}"
        assert captures(runtime)[1].startswith("captured in ")


def test_requests_that_wait_move_over_in_their_order(config: evolve.Config) -> None:
    """A change while one runs and others wait: each is answered once, none is refused."""
    gate, seen = threading.Event(), list[float]()
    gate.set()

    class Gated(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gate.wait(60)
            seen.append(float(x[0, 0]))
            return x * 2

    with evolve.wrap(
        Gated().eval(), (torch.ones(1, 2),), slo=evolve.SLO(60_000.0), config=config
    ) as runtime:
        gate.clear()
        seen.clear()
        first = runtime.submit(torch.full((1, 2), 0.5))
        assert eventually(lambda: runtime.status()["busy_lanes"] == 1)
        old = runtime.parts
        waiting = [runtime.submit(torch.full((1, 2), float(i))) for i in range(1, 9)]
        cancelled = waiting.pop(3)
        assert cancelled.cancel()
        runtime.refresh()
        assert runtime.parts is not old
        later = runtime.submit(torch.full((1, 2), 9.0))
        gate.set()
        assert same(first.result(timeout=60), torch.full((1, 2), 1.0))
        for value, future in zip((1, 2, 3, 5, 6, 7, 8, 9), [*waiting, later], strict=True):
            assert same(future.result(timeout=60), torch.full((1, 2), 2.0 * value))
        asked = [value for value in seen if value != 0.5 and value == int(value)]
        assert asked[:8] == [1, 2, 3, 5, 6, 7, 8, 9]
        assert runtime.status()["counts"]["arrived"] == 10


def test_who_read_the_old_revision_is_answered_by_the_new_one(
    runtime: evolve.Runtime, mlp: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is read, then replaced, then used: on the caller's thread and queued."""
    x = torch.randn(2, 8)
    read = Reception.request

    def slow(self: Reception, *args: Any, **kwargs: Any) -> Any:
        request = read(self, *args, **kwargs)
        monkeypatch.setattr(Reception, "request", read)
        runtime.refresh()
        return request

    for ask in (lambda: runtime(x), lambda: runtime.submit(x).result(timeout=60)):
        monkeypatch.setattr(Reception, "request", slow)
        assert same(ask(), mlp(x))
    assert runtime.status()["counts"]["arrived"] == 2


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "crashed with SIGSEGV"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "crashed with SIGKILL"),
        (lambda: os._exit(3), "ended"),
        (lambda: (_ for _ in ()).throw(SystemExit("over")), "ended: SystemExit: over"),
    ],
    ids=["segmentation fault", "killed", "exit", "SystemExit"],
)
def test_a_capture_that_dies_costs_nothing_but_the_plans(
    config: evolve.Config, act: Callable[[], object], reason: str
) -> None:
    before = set(psutil.Process().children())
    model = InTheChild(act).eval()
    with evolve.wrap(model, (torch.randn(2, 8),), config=config) as runtime:
        assert f"its capture failed: its process {reason}" in runtime.status()["capture"]["program"]
        assert captures(runtime)[-1].startswith("not captured, the original model serves for good")
        x = torch.randn(3, 8)
        assert same(runtime(x), model(x))
        assert same(runtime.submit(x).result(timeout=60), model(x))
        assert runtime.wait_for_plans(60)
    assert not started(before)


def test_a_capture_that_takes_too_long_is_given_up(config: evolve.Config) -> None:
    before = set(psutil.Process().children())

    def compute_for_ever() -> None:
        while True:
            pass

    model = InTheChild(compute_for_ever).eval()
    short = config.replace(capture={"limit_s": 0.5, "wait_s": 0.0})
    with evolve.wrap(model, (torch.randn(2, 8),), config=short) as runtime:
        x = torch.randn(3, 8)
        assert same(runtime(x), model(x))
        assert runtime.wait_for_plans(60)
        assert runtime.status()["capture"]["program"] == "its capture took longer than 0.5 s"
        assert same(runtime(x), model(x))
        assert not started(before)


def test_closing_ends_the_capture_under_way(config: evolve.Config) -> None:
    before = set(psutil.Process().children())
    model = InTheChild(lambda: time.sleep(1000)).eval()
    runtime = evolve.wrap(model, (torch.randn(2, 8),), config=config.replace(capture=AT_ONCE))
    assert eventually(lambda: bool(psutil.Process().children()))
    assert not runtime.wait_for_plans(0.0)
    runtime.close()
    assert not started(before)
    assert not runtime.wait_for_plans(60)


def test_nothing_of_the_parent_runs_or_is_written_in_the_child(
    config: evolve.Config, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its handlers of signals, its finalisers, its open files, its output."""
    told = tmp_path / "told"
    held = open(tmp_path / "held", "w")  # noqa: SIM115
    held.write("from the parent")  # waits in the buffer of both processes

    def act() -> None:
        held.write("from the child")
        held.flush()
        print("hello from the child", flush=True)
        os.write(1, b"and from its libraries\n")
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: told.write_text(str(os.getpid())))
    try:
        with evolve.wrap(InTheChild(act).eval(), (torch.randn(2, 8),), config=config) as runtime:
            assert "crashed with SIGTERM" in runtime.status()["capture"]["program"]
    finally:
        signal.signal(signal.SIGTERM, before)
    held.close()
    assert (tmp_path / "held").read_text() == "from the parent"
    assert not told.exists()
    assert "from" not in capfd.readouterr().out


def test_an_example_that_the_model_refuses_raises_at_once(
    mlp: nn.Module, config: evolve.Config
) -> None:
    with pytest.raises(ValueError, match="must be a call the model accepts"):
        evolve.wrap(mlp, (torch.randn(2, 9),), config=config.replace(capture=AT_ONCE))


# -- weights that move ---------------------------------------------------------------------------


def _loaded(model: Encoder) -> None:
    torch.manual_seed(9)
    model.load_state_dict(Encoder().state_dict())


def _hooked(model: Encoder) -> None:
    model.mix.register_forward_hook(lambda module, args, output: output * 3)


def _in_place(model: Encoder) -> None:
    with torch.no_grad():
        model.mix.weight.mul_(-1.0)


def _through_data(model: Encoder) -> None:
    model.embed.weight.data.neg_()


MOVES: dict[str, Callable[[Encoder], object]] = {
    "load_state_dict": _loaded,
    "in place": _in_place,
    "through .data": _through_data,
    "another layer": lambda m: setattr(m, "mix", nn.Linear(16, 16).eval()),
    "a hook": _hooked,
    "float64": lambda m: m.double(),
}


@pytest.fixture
def served(
    encoder: Encoder, config: evolve.Config, monkeypatch: pytest.MonkeyPatch
) -> Iterator[evolve.Runtime]:
    """An encoder with a plan that answers everything in its range as the encoder is at first."""
    as_it_was = deepcopy(encoder)

    def hire(settings: object, hang_timeout_s: float, name: str) -> StagedWorker:
        return StagedWorker(name, lambda leaves: list(as_it_was(*leaves).values()))

    monkeypatch.setattr("evolve.lifecycle.assembly._hire", hire)
    config = config.replace(capture={"still_s": 0.0})
    examples = [encoder_call(3), encoder_call(19)]
    with evolve.wrap(encoder, examples, slo=evolve.SLO(60_000.0), config=config) as runtime:
        assert runtime.wait_for_plans(60)
        costs = {Shape(rows, length): 1e-3 for rows in (1, 16) for length in runtime.grid.lengths}
        spec = replace(staged_plan().spec, backend="eager")
        plan = replace(staged_plan(), spec=spec, costs_ms=costs)
        runtime.parts.library.put(plan)
        runtime.parts.loading.admit(plan)
        yield runtime


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES.keys())
def test_moved_weights_are_served_by_the_original_within_a_tick_and_captured_anew(
    served: evolve.Runtime, encoder: Encoder, move: Callable[[Encoder], object]
) -> None:
    old = served.parts
    fits, too_long = encoder_call(7), encoder_call(190)
    stale = encoder(**fits)
    move(encoder)
    want = {7: encoder(**fits), 190: encoder(**too_long)}
    assert not same(stale, want[7])
    assert eventually(lambda: served.parts is not old)
    futures = [(n, served.submit(**call)) for n, call in ((7, fits), (190, too_long))]
    assert same(served(**fits), want[7])
    assert same(served(**too_long), want[190])
    assert all(same(future.result(timeout=60), want[n]) for n, future in futures)
    assert any("the weights moved" in reason for reason in captures(served))
    assert served.wait_for_plans(120)
    assert not served.parts.pending
    assert served.parts.pool.held() == frozenset()
    assert old.serving.capture.graph_hash != served.parts.serving.capture.graph_hash
    for n, call in ((7, fits), (190, too_long)):
        assert same(served(**call), want[n])
        assert same(served.submit(**call).result(timeout=60), want[n])
    counts = served.status()["counts"]
    assert counts["raised"] == counts["refused"] == 0


def test_plans_are_built_anew_for_the_new_weights(encoder: Encoder, tmp_path: Path) -> None:
    config = evolve.Config(capture=WAITED_FOR).replace(
        plans={"backends": ["eager"], "cache_dir": tmp_path / "cache"}, capture={"still_s": 0.0}
    )
    examples = [encoder_call(3), encoder_call(19)]
    with evolve.wrap(encoder, examples, slo=evolve.SLO(60_000.0), config=config) as runtime:
        assert runtime.wait_for_plans(240)
        old = runtime.parts
        _loaded(encoder)
        assert eventually(lambda: runtime.parts is not old)
        assert runtime.wait_for_plans(240)
        (before,), (after,) = old.library.plans(), runtime.plans()
        assert before.spec.title == after.spec.title
        assert before.key != after.key
        assert before.state.may_serve
        assert after.state.may_serve
        worker = runtime.parts.pool.lanes[0].worker
        assert worker is not None
        runtime.parts.pool.load(after)  # whether or not it is worth its memory on this machine
        call = encoder_call(7)
        got = worker.run(after.key, [call["ids"], call["mask"]]).leaves
        assert same(dict(zip(("states", "mean"), got, strict=True)), encoder(**call))


def test_refresh_takes_the_model_as_it_is_when_it_returns(
    served: evolve.Runtime, encoder: Encoder
) -> None:
    call = encoder_call(7)
    encoder.embed.weight.data[int(call["ids"][0, 0]), 3] += 100.0  # a single value: no trace
    served.refresh()
    assert same(served(**call), encoder(**call))
    assert served.wait_for_plans(240)
    assert same(served(**call), encoder(**call))
    assert "refreshed: plans retire, and the original model serves" in captures(served)


def test_weights_that_keep_moving_are_captured_once_they_are_still(
    mlp: nn.Module, config: evolve.Config
) -> None:
    patient = config.replace(capture={"still_s": 1.0})
    with evolve.wrap(mlp, (torch.randn(2, 8),), config=patient) as runtime:
        first = runtime.parts
        for _ in range(20):
            with torch.no_grad():
                mlp[0].weight.mul_(1.01)  # type: ignore[index,union-attr]
            ticks = runtime.parts.controller.ticks
            assert eventually(lambda: runtime.parts.controller.ticks != ticks)  # noqa: B023
            x = torch.randn(2, 8)
            if runtime.parts is not first:
                assert same(runtime(x), mlp(x))
        assert runtime.parts.pending
        assert runtime.wait_for_plans(120)
        assert sum(reason.startswith("captured in") for reason in captures(runtime)) == 2
        assert same(runtime(x), mlp(x))


def test_a_model_that_changes_itself_is_captured_once(config: evolve.Config) -> None:
    """Statistics that move with each call: the original answers everything, nothing is retried."""
    torch.manual_seed(0)
    model = nn.BatchNorm1d(4).train()
    with evolve.wrap(model, (torch.randn(3, 4),), config=config) as runtime:
        assert "changes its buffer" in runtime.status()["capture"]["program"]
        old = runtime.parts
        for _ in range(5):
            runtime(torch.randn(3, 4))
        ticks = old.controller.ticks
        assert eventually(lambda: old.controller.ticks >= ticks + 2)
        assert runtime.parts is old


class Slope(nn.Module):
    """Takes gradients in its forward, and relies on the caller for having them switched on."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (slope,) = torch.autograd.grad(self.mix(x).pow(2).sum(), self.mix.weight)
        return x * slope


def test_a_model_that_needs_gradients_has_them_whatever_revision_serves(
    config: evolve.Config,
) -> None:
    model, x = Slope().eval(), torch.randn(2, 3)
    with evolve.wrap(model, (x,), config=config.replace(capture=AT_ONCE)) as runtime:
        assert same(runtime(x), model(x))
        runtime.refresh()
        assert same(runtime.submit(x).result(timeout=60), model(x))
        assert runtime.wait_for_plans(60)
        assert same(runtime(x), model(x))


def test_where_no_fork_can_be_had_plans_whose_files_are_gone_go_on(
    mlp: nn.Module, config: evolve.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evolve.wrapping.can_be_beside", lambda subject: False)
    x = torch.randn(2, 8)
    with evolve.wrap(mlp, (x,), config=config) as runtime:
        first = runtime.parts
        for _ in range(2):
            runtime.parts.pool.lost(PlanLost("its files are gone"))
        assert eventually(lambda: bool(captures(runtime)))
        (said,) = captures(runtime)
        assert said.startswith("what was built is gone from the cache")
        assert said.endswith("what workers hold goes on")
        assert runtime.parts is first
        with torch.no_grad():
            mlp[0].weight.neg_()  # type: ignore[index,union-attr]
        assert eventually(lambda: runtime.parts is not first), "the model is still looked after"
        assert same(runtime(x), mlp(x))


def test_plans_whose_files_are_gone_are_built_anew(mlp: nn.Module, config: evolve.Config) -> None:
    with evolve.wrap(mlp, (torch.randn(2, 8),), config=config) as runtime:
        first = runtime.parts
        first.pool.lost(PlanLost("its files are gone"))
        assert eventually(lambda: runtime.parts is not first)
        assert runtime.wait_for_plans(120)
        assert not runtime.parts.pending
        said = [reason for reason in captures(runtime) if "gone from the cache" in reason]
        assert len(said) == 1, said


def test_where_no_fork_can_be_had_it_is_captured_before_wrap_returns(
    mlp: nn.Module, config: evolve.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evolve.wrapping.can_be_beside", lambda subject: False)
    x = torch.randn(2, 8)
    with evolve.wrap(mlp, (x,), config=config.replace(capture=AT_ONCE)) as runtime:
        assert runtime.status()["capture"]["program"] == "exported"
        with torch.no_grad():
            mlp[0].weight.neg_()  # type: ignore[index,union-attr]
        runtime.refresh()
        assert same(runtime(x), mlp(x))
        assert "wrap it again to have plans" in runtime.status()["capture"]["program"]
