"""The future that a request ends in, and the threads that run what its owner hung on it.

A lane must never run a user's code beside the model: a callback that asks the runtime again would
wait for the very lane that it holds up. So a lane sets outcomes (`Promise.settle`), which wakes
whoever waits, and hands the callbacks to `Callbacks`.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from evolve.data_plane.served_by import ServedBy

__all__ = ["Call", "Callbacks", "Promise"]

Call: TypeAlias = Callable[[], object]

_KEPT_IDLE = 2
_LOG = logging.getLogger("concurrent.futures")  # where the standard library says it too
_settling = threading.local()


class Promise(Future[Any]):
    """A `concurrent.futures.Future` whose callbacks need not run where it is settled.

    `served_by` says what computed the answer, once there is one.
    """

    served_by: ServedBy | None = None

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        super().add_done_callback(partial(_call_or_keep, fn))

    def when_done(self, call: Call) -> None:
        """Calls at once, on the lane's own thread: for what neither waits nor raises."""
        super().add_done_callback(lambda _: call())

    def begin(self) -> bool:
        """Whether it is to be computed: its owner has neither cancelled it nor set an outcome."""
        if self.done() and not self.cancelled():
            return False
        return self.set_running_or_notify_cancel()

    def settle(self, answer: Any = None, error: BaseException | None = None) -> list[Call]:
        """Sets the outcome; returns the callbacks that are due now, uncalled.

        Does nothing where the owner has set an outcome by hand.
        """
        due: list[Call] = []
        _settling.due = due
        try:
            if error is None:
                self.set_result(answer)
            else:
                self.set_exception(error)
        except InvalidStateError:
            pass
        finally:
            _settling.due = None
        return due


def _call_or_keep(fn: Callable[[Future[Any]], object], future: Future[Any]) -> None:
    due = getattr(_settling, "due", None)
    if due is None:  # already settled, or cancelled by its owner: on the owner's thread
        fn(future)
    else:
        due.append(partial(fn, future))


class Callbacks:
    """Threads for users' callbacks: as many as it takes for none to wait for another."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Sequence[Call] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._threads: set[threading.Thread] = set()
        self._closed = False

    def run(self, calls: Sequence[Call]) -> None:
        """Runs `calls` in this order on another thread, at once."""
        with self._lock:
            if taken := not self._closed and (self._idle > 0 or self._hire()):
                self._idle -= 1
                self._jobs.put(calls)
        if not taken:
            _run(calls)

    def _hire(self) -> bool:
        """False where the interpreter is ending and starts no more threads."""
        thread = threading.Thread(target=self._serve, name="callbacks", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._threads.add(thread)
        self._idle += 1
        return True

    def _serve(self) -> None:
        while (calls := self._jobs.get()) is not None:
            _run(calls)
            with self._lock:
                if self._closed or self._idle >= _KEPT_IDLE:
                    self._threads.discard(threading.current_thread())
                    return
                self._idle += 1

    def close(self, timeout_s: float) -> None:
        """Waits for the callbacks under way, except where one of them is the caller."""
        with self._lock:
            self._closed = True
            threads = set(self._threads)
        for _ in threads:
            self._jobs.put(None)
        if threading.current_thread() in threads:
            return
        until_s = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, until_s - time.monotonic()))


def _run(calls: Sequence[Call]) -> None:
    for call in calls:
        try:
            call()
        except BaseException:  # not even SystemExit may take the others' callbacks along
            _LOG.exception("exception calling a callback")
