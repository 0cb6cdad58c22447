"""What lives as long as the service is frozen, and nothing that ends is."""

from __future__ import annotations

import gc
import os
import signal
import threading
import weakref
from collections.abc import Iterator

import pytest
import torch

import evolve
from evolve import collector
from tests.waiting import eventually


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    collector.release()
    monkeypatch.setattr(collector, "STILL_S", 0.0)
    yield
    collector.release()
    assert gc.get_freeze_count() == 0


class Ring:
    """Only the collector can free it."""

    def __init__(self) -> None:
        self.own = self


def test_a_settled_service_is_frozen_and_a_closed_one_is_not(
    mlp: torch.nn.Module, config: evolve.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with evolve.wrap(mlp, (torch.zeros(1, 8),), config=config) as runtime:
        assert runtime.wait_for_plans(60)
        assert eventually(lambda: gc.get_freeze_count() > 0)
        scheduler = weakref.ref(runtime.parts.serving.scheduler)
        ring = Ring()
        gone = weakref.ref(ring)
        del ring
        gc.collect()
        assert gone() is None, "what comes after is collected as ever"
        monkeypatch.setattr(collector, "STILL_S", 1e9)
        runtime.refresh()
        assert runtime.wait_for_plans(60)
        assert gc.get_freeze_count() == 0
        assert eventually(lambda: gc.collect() >= 0 and scheduler() is None), "the one before"
        monkeypatch.setattr(collector, "STILL_S", 0.0)
        assert eventually(lambda: gc.get_freeze_count() > 0)
    assert gc.get_freeze_count() == 0


def test_it_can_be_forbidden(mlp: torch.nn.Module, config: evolve.Config) -> None:
    with evolve.wrap(mlp, (torch.zeros(1, 8),), config=config.replace(freeze=False)) as runtime:
        assert runtime.wait_for_plans(60)
        ticks = runtime.parts.controller.ticks
        assert eventually(lambda: runtime.parts.controller.ticks > ticks + 3)
        assert gc.get_freeze_count() == 0


def test_what_somebody_else_froze_is_left_alone() -> None:
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        collector.settled()
        collector.release()
        assert gc.get_freeze_count() == count
    finally:
        gc.unfreeze()


def test_a_finaliser_that_runs_on_the_tick_may_close_the_runtime(
    mlp: torch.nn.Module, config: evolve.Config
) -> None:
    runtime = evolve.wrap(mlp, (torch.zeros(1, 8),), config=config)
    assert runtime.wait_for_plans(60)
    controller, closed = runtime.parts.controller, threading.Event()

    def close() -> None:
        runtime.close()
        closed.set()

    controller._check = close
    assert closed.wait(60)
    controller._thread.join(60)
    assert not controller._thread.is_alive()


def test_a_fork_is_not_held_up_by_who_held_the_lock() -> None:
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with collector._lock:
            held.set()
            go_on.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        collector.release()
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    go_on.set()
    thread.join()
