"""How a runtime ends: drained, by SIGTERM, or since nobody holds it any more."""

from __future__ import annotations

import gc
import math
import signal
import subprocess
import sys
import threading
import weakref
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import evolve
from tests.evolve.test_process_end import PRELUDE
from tests.waiting import eventually

X = torch.ones(1, 8)
LATE = evolve.SLO(600_000.0)


class Waits(torch.nn.Module):
    """Answers once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 4)
        self.may = threading.Event()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.may.wait(60)
        answer: torch.Tensor = self.layer(x)
        return answer


def held_up(config: evolve.Config) -> tuple[evolve.Runtime, Waits, list[Future[Any]]]:
    """A runtime with 20 requests that wait until the model may answer."""
    model = Waits().eval()
    model.may.set()
    runtime = evolve.wrap(model, (X,), slo=LATE, config=config)
    runtime.wait_for_plans(60)
    model.may.clear()
    return runtime, model, [runtime.submit(X) for _ in range(20)]


def test_draining_answers_what_waits_and_refuses_what_comes(config: evolve.Config) -> None:
    runtime, model, futures = held_up(config)
    closing = threading.Thread(target=runtime.close, kwargs={"drain_s": 60.0})
    closing.start()
    assert eventually(lambda: runtime.status()["closed"])
    with pytest.raises(evolve.RuntimeClosed):
        runtime.submit(X)
    model.may.set()
    wanted = model(X)
    for future in futures:
        assert torch.allclose(future.result(timeout=60), wanted, atol=1e-6)
    closing.join(60)
    assert not closing.is_alive()


def test_what_is_not_answered_in_time_fails(config: evolve.Config) -> None:
    runtime, model, futures = held_up(config)
    closing = threading.Thread(target=runtime.close, kwargs={"drain_s": 0.05})
    closing.start()
    assert isinstance(futures[-1].exception(timeout=60), evolve.RuntimeClosed)
    model.may.set()
    closing.join(60)
    assert not closing.is_alive()


def test_draining_may_take_for_ever(config: evolve.Config) -> None:
    runtime, model, futures = held_up(config)
    closing = threading.Thread(target=runtime.close, args=(math.inf,))
    closing.start()
    model.may.set()
    assert all(future.exception(timeout=60) is None for future in futures)
    closing.join(60)
    assert not closing.is_alive()


def test_what_interrupts_draining_leaves_nothing_half_open(
    config: evolve.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, model, futures = held_up(config)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runtime.parts.serving.scheduler, "run_dry", interrupted)
    threading.Timer(0.2, model.may.set).start()
    controller = runtime.parts.controller
    with pytest.raises(KeyboardInterrupt):
        runtime.close(60.0)
    assert all(future.done() for future in futures)
    assert not controller._thread.is_alive()


def test_seconds_to_drain_are_checked(runtime: evolve.Runtime) -> None:
    with pytest.raises(ValueError, match="drain_s must be at least 0, got -1"):
        runtime.close(-1.0)


def test_a_callback_may_drain_the_runtime_that_it_was_called_by(config: evolve.Config) -> None:
    runtime, model, futures = held_up(config)
    closed = threading.Event()

    def drain(_: object) -> None:
        runtime.close(drain_s=60.0)
        closed.set()

    futures[0].add_done_callback(drain)
    model.may.set()
    assert closed.wait(60)
    assert all(future.exception(timeout=60) is None for future in futures)


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_runtime_that_nobody_holds_ends(
    mlp: torch.nn.Module, config: evolve.Config, kind: str
) -> None:
    threads, children = set(threading.enumerate()), set(psutil.Process().children())
    config = config.replace(workers={"kind": kind, "count": 1})
    runtime = evolve.wrap(mlp, (X,), slo=LATE, config=config)
    runtime.wait_for_plans(60)
    scheduler = weakref.ref(runtime.parts.serving.scheduler)
    assert set(threading.enumerate()) - threads
    del runtime
    assert eventually(lambda: set(threading.enumerate()) <= threads)
    assert eventually(lambda: set(psutil.Process().children()) <= children)
    gc.collect()
    assert scheduler() is None, "nothing of it is left"


def test_what_waits_while_a_revision_takes_over_is_not_ended(
    mlp: torch.nn.Module, config: evolve.Config
) -> None:
    runtime = evolve.wrap(mlp, (X,), slo=LATE, config=config)
    runtime.wait_for_plans(60)
    revisions, controller = runtime._revisions, runtime.parts.controller
    with revisions._lock:  # as `put` holds it
        del runtime
        ticks = controller.ticks
        assert eventually(lambda: controller.ticks > ticks + 3)
        assert not any(thread.name == "close" for thread in threading.enumerate())
    assert eventually(lambda: revisions.is_closed)
    assert revisions._ended.wait(60)


def test_requests_outlive_the_runtime_that_they_were_sent_to(config: evolve.Config) -> None:
    model, futures = held_up(config)[1:]  # the runtime is let go of
    model.may.set()
    wanted = model(X)
    for future in futures:
        assert torch.allclose(future.result(timeout=60), wanted, atol=1e-6)


SERVES = """
import evolve
evolve.drain_on_sigterm(60.0)
runtime = wrapped("thread")

def told(future):
    os.write(1, b"." if future.exception() is None else b"!")

for _ in range(300):
    runtime.submit(X).add_done_callback(told)
os.write(1, b"sent\\n")
for _ in range(600):  # Python has handlers wait for a main thread that just falls asleep
    threading.Event().wait(0.1)
os.write(1, b"went on")
"""


def serve(body: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PRELUDE + body],
        cwd=str(Path(__file__).parents[2]), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def status_once_drained(body: str) -> int | None:
    """The exit status after a SIGTERM, by when every request was answered."""
    with serve(body) as process:
        assert process.stdout is not None
        sent = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        told = sent.replace("sent\n", "") + process.stdout.read()
        assert told == "." * 300
    return process.returncode


def test_sigterm_is_obeyed_once_what_waits_is_answered() -> None:
    assert status_once_drained(SERVES) == -signal.SIGTERM


def test_the_handler_from_before_is_called_once_all_is_drained() -> None:
    before = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(4))\n"
    assert status_once_drained(before + SERVES) == 4


def test_the_signal_after_draining_is_sent_until_it_is_heard() -> None:
    """The main thread sleeps through one that comes just before it falls asleep."""
    loses_one = """
import signal
send, lost = signal.pthread_kill, []

def sends_the_second(thread, number):
    if lost:
        send(thread, number)
    lost.append(number)

signal.pthread_kill = sends_the_second
"""
    assert status_once_drained(loses_one + SERVES) == -signal.SIGTERM


def test_draining_needs_a_number_of_seconds() -> None:
    with pytest.raises(ValueError, match="seconds must be at least 0, got -1"):
        evolve.drain_on_sigterm(-1)
