"""A model that keeps a state, or may, is asked once at a time and in order of arrival: every answer
is the one that it gives when it is called in that order, whatever lanes and workers there are."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
import torch

import evolve

PATIENT = evolve.SLO(600_000.0)
ONE = torch.ones(1, 2)
ALONE = threading.Lock()


def turn(model: Any, x: torch.Tensor) -> torch.Tensor:
    """x + how many calls went before; fails where another call is under way."""
    assert ALONE.acquire(blocking=False), "two calls at a time"
    try:
        before = int(model.calls)
        for _ in range(20):  # other threads have their chance
            x = x + 0.0
        model.count(before + 1)
        return x + before
    finally:
        ALONE.release()


class InBuffer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def count(self, now: int) -> None:
        self.calls.fill_(now)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return turn(self, x)


class InAttribute(torch.nn.Module):
    calls = 0

    def count(self, now: int) -> None:
        self.calls = now

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return turn(self, x)


class InAnObject(InAttribute):
    """No copy of it can be made, so nobody can look: it may keep a state, and does."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Told(InAttribute):
    """Its argument cannot be taken apart: nothing was tried on it."""

    def forward(self, x: torch.Tensor, told: object = None) -> torch.Tensor:
        return turn(self, x)


def lanes(config: evolve.Config, kind: str) -> evolve.Config:
    return config.replace(workers={"kind": kind, "count": 2})


@pytest.mark.parametrize("kind", ["thread", "process"])
@pytest.mark.parametrize(
    ("model", "example"),
    [(InBuffer, (ONE,)), (InAttribute, (ONE,)), (InAnObject, (ONE,)), (Told, (ONE, object()))],
    ids=["buffer", "attribute", "not copied", "not tried"],
)
def test_each_call_sees_the_state_that_the_one_before_left(
    config: evolve.Config, kind: str, model: type[torch.nn.Module], example: tuple[Any, ...]
) -> None:
    made = model().eval()
    with evolve.wrap(made, example, slo=PATIENT, config=lanes(config, kind)) as runtime:
        # From the first call on, and across what the capture then comes to.
        base = float(runtime(*example)[0, 0])
        answers: list[float | Future[Any]] = []
        for n in range(120):
            if n == 60:
                assert runtime.wait_for_plans(60)
            answers.append(
                float(runtime(*example)[0, 0]) if n % 7 == 3 else runtime.submit(*example)
            )
        seen = [a if isinstance(a, float) else float(a.result(60)[0, 0]) for a in answers]
        assert seen == [base + n for n in range(1, 121)]
        told = [d.reason for d in runtime.decisions(1000) if "in order of arrival" in d.reason]
        assert len(told) == 1
        assert runtime.status()["capture"]["program"] in told[0]


def test_callers_on_many_threads_take_turns(config: evolve.Config) -> None:
    with evolve.wrap(
        InBuffer().eval(), (ONE,), slo=PATIENT, config=lanes(config, "thread")
    ) as runtime:
        seen: list[float] = []

        def caller() -> None:
            for ask in (runtime, lambda x: runtime.submit(x).result(60)):
                seen.extend(float(ask(ONE)[0, 0]) for _ in range(25))

        threads = [threading.Thread(target=caller) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        first = min(seen)
        assert sorted(seen) == [first + n for n in range(200)]


def test_a_captured_model_keeps_its_lanes(mlp: torch.nn.Module, config: evolve.Config) -> None:
    with evolve.wrap(mlp, (torch.ones(1, 8),), config=lanes(config, "thread")) as runtime:
        assert runtime.wait_for_plans(60)
        assert len(runtime.status()["lanes"]) == 2
        assert not any("in order of arrival" in d.reason for d in runtime.decisions(1000))


def test_what_replaces_the_first_lane_waits_for_it(config: evolve.Config) -> None:
    """While one call is under way, what serves is replaced: the next waits for it all the same."""
    inside, release = threading.Event(), threading.Event()

    class Waits(Told):
        def forward(self, x: torch.Tensor, told: object = None) -> torch.Tensor:
            if x[0, 0] == 7:
                inside.set()
                release.wait(60)
            return super().forward(x)

    with evolve.wrap(
        Waits().eval(), (ONE, object()), slo=PATIENT, config=lanes(config, "thread")
    ) as runtime:
        assert runtime.wait_for_plans(60)
        first, waiting = runtime.submit(7 * ONE), runtime.submit(ONE)
        assert inside.wait(60)
        runtime.refresh()
        replaced = runtime.parts.serving.scheduler
        later = runtime.submit(ONE)
        assert replaced.depth()[2] == 0
        release.set()
        seen = [float(f.result(60)[0, 0]) for f in (first, waiting, later)]
        assert seen == [7.0, 1.0 + 1, 1.0 + 2]


def test_a_model_with_a_state_may_ask_its_own_runtime(config: evolve.Config) -> None:
    asks: list[Callable[[torch.Tensor], torch.Tensor]] = []

    class Asks(Told):
        def forward(self, x: torch.Tensor, told: object = None) -> torch.Tensor:
            if asks and x[0, 0] < 3:
                return asks[0](x + 1)
            return super().forward(x)

    with evolve.wrap(
        Asks().eval(), (ONE, object()), slo=PATIENT, config=lanes(config, "thread")
    ) as runtime:
        asks.append(runtime)
        assert float(runtime.submit(ONE).result(60)[0, 0]) == 3.0
        assert float(runtime(ONE)[0, 0]) == 3.0 + 1
