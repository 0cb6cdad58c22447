"""What lives as long as the service is frozen, and nothing that ends is."""

from __future__ import annotations

import gc
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
    mlp: torch.nn.Module, config: evolve.Config
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
        runtime.refresh()
        assert runtime.wait_for_plans(60)
        assert eventually(lambda: gc.get_freeze_count() > 0)
        assert eventually(lambda: gc.collect() >= 0 and scheduler() is None), "the one before"
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
