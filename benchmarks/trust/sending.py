"""How requests reach a runtime: in bursts that wait together, one by one, from several threads."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any

import evolve
from benchmarks.trust.cases import Call
from benchmarks.trust.judge import Answer, Raised

__all__ = ["LOST_S", "send"]

LOST_S = 30.0  # an answer that took longer is lost
THREADS = 4
_TURNS = (("burst", 20), ("direct", 4), ("threads", 12))


def send(runtime: evolve.Runtime, calls: Sequence[Call], *, in_order: bool) -> list[Answer | None]:
    """The answers to all calls, None where one is lost; nothing is sent after a lost one.

    ``in_order``: each call is made once the one before it has been queued or answered.
    """
    answers: list[Answer | None] = []
    for way, size in itertools.cycle(_TURNS):
        part = calls[len(answers) : len(answers) + size]
        if not part or None in answers:
            return answers
        if way == "burst":
            answers += _burst(runtime, part)
        elif way == "direct" or not in_order:
            answers += _direct(runtime, part, 1 if way == "direct" else THREADS)
    raise AssertionError("unreachable: the cycle has no end")


def _burst(runtime: evolve.Runtime, calls: Sequence[Call]) -> list[Answer | None]:
    """All submitted before the first is run, so that they share batches where they may."""
    own = [call.copy() for call in calls]
    with _held(runtime):
        futures = [runtime.submit(*call.args, **call.kwargs) for call in own]
    return _collected(own, futures)


@contextmanager
def _held(runtime: evolve.Runtime) -> Iterator[None]:
    """No idle lane takes a request meanwhile."""
    scheduler = runtime.parts.serving.scheduler
    lanes = []
    while (lane := scheduler.claim()) is not None:
        lanes.append(lane)
    try:
        yield
    finally:
        for lane in lanes:
            scheduler.release(lane)


def _direct(runtime: evolve.Runtime, calls: Sequence[Call], threads: int) -> list[Answer | None]:
    """`runtime(...)`, on threads of their own, so that a call that hangs is only lost."""
    own = [call.copy() for call in calls]
    futures: list[Future[Any]] = [Future() for _ in own]

    def call_each(first: int) -> None:
        for call, future in itertools.islice(zip(own, futures, strict=True), first, None, threads):
            try:
                future.set_result(runtime(*call.args, **call.kwargs))
            except BaseException as error:  # a model may raise SystemExit
                future.set_exception(error)

    for first in range(threads):
        threading.Thread(target=call_each, args=(first,), daemon=True).start()
    return _collected(own, futures)


def _collected(calls: Sequence[Call], futures: Sequence[Future[Any]]) -> list[Answer | None]:
    wait(futures, timeout=LOST_S)
    return [_answer(call, future) for call, future in zip(calls, futures, strict=True)]


def _answer(call: Call, future: Future[Any]) -> Answer | None:
    if not future.done():
        return None
    try:
        return Answer(future.result(), (call.args, call.kwargs))
    except BaseException as error:
        return Answer(Raised.of(error), (call.args, call.kwargs))
