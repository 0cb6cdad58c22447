"""Calls outside the capture wait apart, harm nobody, and are answered or refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import evolve
from evolve.data_plane.request_queue import Request
from evolve.data_plane.strangers import HARM_MS, HARM_SHARE, QUIET_MS, WAITED_MS, Strangers
from evolve.errors import DeadlineExceeded

LONG_AGO = -1e9


def stranger(
    at_ms: float, size: int = 64, *, slo_ms: float = 50.0, refusable: bool = True
) -> Request:
    return Request(
        (), {}, [], 1, 1, 0, 1, at_ms, at_ms + slo_ms, refusable, outside="another dtype", size=size
    )


def taught(took_ms: float, *, lanes: int = 1, size: int = 64) -> Strangers:
    """Calls of ``size`` numbers took so long; all of the harm allowed is saved up."""
    made = Strangers(50.0, lanes)
    made.began(0, stranger(0.0, size), 0.0)
    made.ended(0, took_ms)
    made.turn(1e6, LONG_AGO)
    return made


def test_a_short_one_runs_when_the_lane_has_nothing_else() -> None:
    one = taught(5.0)
    one.append(stranger(1e6))
    turn = one.turn(1e6, 1e6)
    assert turn.request is not None
    assert not len(one)


def test_one_that_cannot_be_in_time_is_refused_and_one_that_must_be_answered_is_not() -> None:
    one = taught(60.0)
    late, must = stranger(1e6), stranger(1e6, refusable=False)
    one.append(late)
    one.append(must)
    turn = one.turn(1e6, LONG_AGO)
    assert turn.refused == (late,)
    assert turn.request is must


def test_a_long_one_may_harm_others_for_one_percent_of_the_time_at_most() -> None:
    one, now_ms, ran_ms = taught(45.0), 1e6, []
    while now_ms < 1e6 + 60_000:
        one.append(stranger(now_ms))
        turn = one.turn(now_ms, now_ms)  # others come all the time
        if turn.request is not None:
            one.began(0, turn.request, now_ms)
            one.ended(0, now_ms + 45.0)
            ran_ms.append(now_ms)
        now_ms += 5.0
        one.turn(now_ms + 50.0, now_ms + 50.0)  # those that waited in vain are refused
        now_ms += 50.0
    harmed_ms = len(ran_ms) * (45.0 - 25.0)
    assert HARM_SHARE * 60_000 * 0.7 < harmed_ms <= HARM_SHARE * 60_000 + HARM_MS + 20.0


def test_a_caller_who_waits_is_served_after_a_second_whatever_the_load() -> None:
    one = taught(400.0)
    one.append(stranger(1e6, refusable=False))
    turn = one.turn(1e6, 1e6)
    assert turn.request is None
    assert turn.wake_ms == 1e6 + WAITED_MS
    assert one.turn(1e6 + WAITED_MS, 1e6 + WAITED_MS).request is not None


def test_who_waits_is_served_though_others_never_stop_waiting() -> None:
    one = taught(400.0)
    may, must = stranger(1e6), stranger(1e6 + 1, refusable=False)
    one.append(may)
    one.append(must)
    assert one.turn(1e6 + 2, 1e6 + 2, others_wait=True) == (
        None,
        (may,),
        must.arrived_ms + WAITED_MS,
    )
    late_ms = must.arrived_ms + WAITED_MS
    assert one.turn(late_ms, late_ms, others_wait=True).request is must


def test_nobody_waits_where_nobody_else_calls() -> None:
    one = taught(400.0)
    one.append(stranger(1e6, refusable=False))
    assert one.turn(1e6, 1e6 - QUIET_MS).request is not None


def test_of_several_lanes_half_are_left_to_the_others() -> None:
    one = taught(400.0, lanes=4)
    for at in range(3):
        one.append(stranger(1e6 + at, refusable=False))
    for lane in range(2):
        turn = one.turn(1e6, 1e6)
        assert turn.request is not None
        one.began(lane, turn.request, 1e6)
    assert one.turn(1e6, 1e6).request is None
    one.ended(0, 1e6 + 400)
    assert one.turn(1e6 + 400, 1e6 + 400).request is not None


class Slow(nn.Module):
    """A millisecond per row, whatever the dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 16:
            time.sleep(len(x) / 1e3)
        answer: Tensor = self.layer(x.float())
        return answer


@pytest.fixture
def runtime(config: evolve.Config) -> Iterator[evolve.Runtime]:
    with evolve.wrap(
        Slow().eval(), (torch.randn(1, 8),), slo=evolve.SLO(100.0), config=config
    ) as made:
        assert made.wait_for_plans(60)
        yield made


def test_large_calls_outside_the_capture_do_not_make_the_others_late(
    runtime: evolve.Runtime,
) -> None:
    large = torch.ones(400, 8)
    assert runtime(large).shape == (400, 4)  # its price is known from here on
    stop, met, missed = threading.Event(), [], []

    def stream() -> None:
        while not stop.is_set():
            future = runtime.submit(torch.randn(1, 8))
            try:
                future.result(timeout=30)
                met.append(1)
            except DeadlineExceeded:
                missed.append(1)
            stop.wait(0.004)

    caller = threading.Thread(target=stream)
    caller.start()
    try:
        futures = [runtime.submit(large) for _ in range(30)]
        refused = sum(isinstance(f.exception(timeout=30), DeadlineExceeded) for f in futures)
    finally:
        stop.set()
        caller.join()
    assert refused == 30, "400 ms each: none can be there in 100"
    assert runtime(large).shape == (400, 4), "who waits is answered all the same"
    assert len(met) > 5 * len(missed)


def test_closing_answers_strangers_that_wait(runtime: evolve.Runtime) -> None:
    runtime(torch.ones(400, 8))
    runtime(torch.randn(1, 8))
    results: list[object] = []

    def call() -> None:
        try:
            results.append(runtime(torch.ones(400, 8)))
        except evolve.RuntimeClosed as error:
            results.append(error)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    runtime.close()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(results) == 3
