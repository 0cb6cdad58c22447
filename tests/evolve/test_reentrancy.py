"""Code of the user's that a request runs may ask the runtime again, wait for it, close it, or raise
whatever it likes: everybody gets the answer that the model gives, with one lane and either worker.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any

import pytest
import torch

import evolve

PATIENT = evolve.SLO(600_000.0)
ONE = torch.ones(1, 2)


class Doubles(torch.nn.Module):
    """Does what it is told in ``forward``, once it is told; that is no change of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.told["within"](x) if "within" in self.told else x * 2


@pytest.fixture
def model() -> Doubles:
    return Doubles().eval()


@pytest.fixture(params=["thread", "process"])
def runtime(
    model: Doubles, config: evolve.Config, request: pytest.FixtureRequest
) -> Iterator[evolve.Runtime]:
    one_lane = config.replace(workers={"kind": request.param, "count": 1})
    with evolve.wrap(model, (ONE,), slo=PATIENT, config=one_lane) as made:
        assert made.wait_for_plans(60)
        yield made


def in_callback(future: Future[Any], call: Callable[[], Any]) -> Any:
    """What `call` gives in a callback of `future`."""
    found: Future[Any] = Future()

    def callback(_: Future[Any]) -> None:
        try:
            found.set_result(call())
        except BaseException as error:
            found.set_exception(error)

    future.add_done_callback(callback)
    return found.result(timeout=60)


def held(model: Doubles) -> threading.Event:
    """The model waits in ``forward`` until the event is set."""
    release = threading.Event()

    def within(x: torch.Tensor) -> torch.Tensor:
        release.wait(60)
        return x * 2

    model.told["within"] = within
    return release


def test_a_callback_may_ask_again_and_wait(runtime: evolve.Runtime, model: Doubles) -> None:
    asks: list[Callable[[], Any]] = [
        lambda: runtime(3 * ONE),
        lambda: runtime.submit(3 * ONE).result(),
        lambda: asyncio.run(runtime.asubmit(3 * ONE)),
        lambda: wait([runtime.submit(3 * ONE)]).done.pop().result(),
        lambda: in_callback(runtime.submit(ONE), lambda: runtime(3 * ONE)),
    ]
    for ask in asks:
        release = held(model)
        future = runtime.submit(ONE)
        threading.Timer(0.0, release.set).start()
        assert in_callback(future, ask).tolist() == [[6.0, 6.0]]


def test_callbacks_that_wait_for_each_others_requests(
    runtime: evolve.Runtime, model: Doubles
) -> None:
    """Each waits for the answer of the next, and all were queued at once."""
    release = held(model)
    futures = [runtime.submit(n * ONE) for n in range(8)]
    sums: list[Future[float]] = [Future() for _ in futures]
    for n, future in enumerate(futures[:-1]):
        later, mine = futures[n + 1], sums[n]
        future.add_done_callback(
            lambda f, later=later, mine=mine: mine.set_result(
                float(f.result()[0, 0] + later.result()[0, 0])
            )
        )
    release.set()
    assert [s.result(timeout=60) for s in sums[:-1]] == [2.0 * (2 * n + 1) for n in range(7)]


def test_a_callback_that_raises_harms_nobody(
    runtime: evolve.Runtime, model: Doubles, caplog: pytest.LogCaptureFixture
) -> None:
    release = held(model)
    future, neighbour, seen = runtime.submit(ONE), runtime.submit(3 * ONE), threading.Event()

    def fails(_: Future[Any]) -> None:
        raise SystemExit(3)

    future.add_done_callback(fails)
    future.add_done_callback(lambda _: seen.set())
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        release.set()
        assert seen.wait(60)
    assert "SystemExit: 3" in caplog.text
    assert neighbour.result(timeout=60).tolist() == [[6.0, 6.0]]


def test_a_callback_runs_at_once_where_the_answer_is_there(runtime: evolve.Runtime) -> None:
    future = runtime.submit(ONE)
    future.result(timeout=60)
    seen: list[int] = []
    future.add_done_callback(lambda _: seen.append(threading.get_ident()))
    assert seen == [threading.get_ident()]


def test_a_callback_may_cancel_what_still_waits(runtime: evolve.Runtime, model: Doubles) -> None:
    release = held(model)
    first = runtime.submit(ONE)
    while not runtime.status()["busy_lanes"]:
        threading.Event().wait(0.001)
    waiting = runtime.submit(ONE)
    waiting.add_done_callback(lambda f: release.set())
    assert waiting.cancel()
    assert first.result(timeout=60).tolist() == [[2.0, 2.0]]
    assert runtime(ONE).tolist() == [[2.0, 2.0]]


def test_an_outcome_set_by_hand_harms_nobody(runtime: evolve.Runtime, model: Doubles) -> None:
    release = held(model)
    running = runtime.submit(ONE)
    while not running.running():
        threading.Event().wait(0.001)
    waiting, last = runtime.submit(ONE), runtime.submit(3 * ONE)
    running.set_result("by hand")
    waiting.set_result("by hand")
    release.set()
    assert last.result(timeout=60).tolist() == [[6.0, 6.0]]
    assert (running.result(), waiting.result()) == ("by hand", "by hand")


@pytest.mark.parametrize("leave", ["close", "with"])
def test_a_callback_may_close_the_runtime(
    runtime: evolve.Runtime, model: Doubles, leave: str
) -> None:
    def end() -> None:
        if leave == "close":
            return runtime.close()
        with runtime:
            pass

    release = held(model)
    first = runtime.submit(ONE)
    while not runtime.status()["busy_lanes"]:
        threading.Event().wait(0.001)
    waiting = runtime.submit(ONE)
    release.set()
    in_callback(first, end)
    assert first.result(timeout=60).tolist() == [[2.0, 2.0]]
    assert runtime.status()["closed"]
    outcome = waiting.exception(timeout=60)
    assert outcome is None or isinstance(outcome, evolve.RuntimeClosed)
    for ask in (runtime, runtime.submit):
        for call in ((ONE,), ("outside the capture",)):
            with pytest.raises(evolve.RuntimeClosed):
                ask(*call)


@pytest.mark.parametrize("how", ["call", "submit"])
def test_a_model_may_ask_its_own_runtime(runtime: evolve.Runtime, model: Doubles, how: str) -> None:
    """Like a model that calls itself: the answer of each depth, on the thread that computes."""

    def within(x: torch.Tensor) -> torch.Tensor:
        if x[0, 0] >= 4:
            return x
        smaller = runtime(x + 1) if how == "call" else runtime.submit(x + 1).result(timeout=60)
        return smaller * 2

    model.told["within"] = within
    assert runtime(ONE).tolist() == [[32.0, 32.0]]
    assert runtime.submit(ONE).result(timeout=60).tolist() == [[32.0, 32.0]]


def test_a_model_may_close_its_own_runtime(runtime: evolve.Runtime, model: Doubles) -> None:
    def within(x: torch.Tensor) -> torch.Tensor:
        runtime.close()
        return x * 2

    model.told["within"] = within
    assert runtime.submit(ONE).result(timeout=60).tolist() == [[2.0, 2.0]]
    with pytest.raises(evolve.RuntimeClosed):
        runtime(ONE)


class OwnError(BaseException):
    """Not even an `Exception`, and no text can be had of it."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), OwnError()],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_model_raises_is_its_callers(
    runtime: evolve.Runtime, model: Doubles, error: BaseException
) -> None:
    def within(x: torch.Tensor) -> torch.Tensor:
        if x[0, 0] == 7:
            raise error
        return x * 2

    model.told["within"] = within
    bad, good = runtime.submit(7 * ONE), runtime.submit(3 * ONE)
    with pytest.raises(type(error)) as raised:
        bad.result(timeout=60)
    assert raised.value is error
    assert good.result(timeout=60).tolist() == [[6.0, 6.0]]
    with pytest.raises(type(error)):
        runtime(7 * ONE)
    assert runtime(ONE).tolist() == [[2.0, 2.0]]
    assert runtime.submit(ONE).result(timeout=60).tolist() == [[2.0, 2.0]]


def test_asubmit_ends_whatever_the_model_raises(runtime: evolve.Runtime, model: Doubles) -> None:
    """A StopIteration can't pass a coroutine: Python makes a RuntimeError of it, and so do we."""

    def within(x: torch.Tensor) -> torch.Tensor:
        raise StopIteration

    model.told["within"] = within
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        asyncio.run(asyncio.wait_for(runtime.asubmit(ONE), 60))


def test_a_cancelled_asubmit_takes_its_request_out(runtime: evolve.Runtime, model: Doubles) -> None:
    release = held(model)
    seen: list[float] = []

    async def cancels() -> None:
        first = asyncio.create_task(runtime.asubmit(ONE))
        await asyncio.sleep(0)
        second = asyncio.create_task(runtime.asubmit(5 * ONE))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        release.set()
        seen.append(float((await first)[0, 0]))

    # Not together with the first: it waits in the queue while that one is computed.
    blocker = runtime.submit(ONE)
    while not runtime.status()["busy_lanes"]:
        threading.Event().wait(0.001)
    asyncio.run(asyncio.wait_for(cancels(), 60))
    assert blocker.result(timeout=60).tolist() == [[2.0, 2.0]]
    assert seen == [2.0]
    assert runtime.status()["counts"]["met"] == 2
