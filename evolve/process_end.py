"""Fork and end of a process: what becomes of the runtimes that run in it.

A fork copies a runtime without its threads and with its locks as they happened to be: in the child
it must be touched no more. The child's copies of sockets would keep workers alive that wait for
their end, and its copy of the journal's file would keep that locked: they are closed.

At the end of the interpreter, a lane's thread that is still inside native code would be torn out of
it, which ends the process by SIGABRT: so runtimes are closed before, once all threads that are
waited for have ended. SIGTERM ends a process at once, whatever waits: `drain_on_sigterm` has the
runtimes answer it first.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import weakref
from types import FrameType
from typing import Protocol

__all__ = ["Runs", "Shares", "drain_on_sigterm", "share", "started", "stopped"]


class Shares(Protocol):
    """Something that holds a file or a socket which a fork must let go of."""

    def orphan(self) -> None:
        """This process is a fork of the one that it belongs to; takes no lock."""
        ...


class Runs(Protocol):
    """Something with threads, alive from `started` to `stopped`."""

    def end(self, drain_s: float) -> None:
        """Takes nothing more, answers what waits for at most so long, ends the threads."""
        ...

    def orphan(self) -> None:
        """This process is a fork of the one where the threads are; takes no lock."""
        ...


_running: set[Runs] = set()
"""Held strongly: its own threads keep all of a runtime alive until it is closed anyway."""


_shared: weakref.WeakSet[Shares] = weakref.WeakSet()


def share(one: Shares) -> None:
    """From now on, for as long as it lives, `one` hears of a fork."""
    _shared.add(one)


def started(one: Runs) -> None:
    """From now on `one` hears of a fork and of the end of the process."""
    _running.add(one)


def stopped(one: Runs) -> None:
    """It needs to hear no more."""
    _running.discard(one)


def drain_on_sigterm(seconds: float = 10.0) -> None:
    """From now on SIGTERM first has every runtime of this process take nothing more, answer what
    waits for at most `seconds`, and close. Then it does what it did before this call: by default
    it ends the process.

    For a process whose SIGTERM nobody else handles; a server that does (uvicorn, gunicorn) should
    call `Runtime.close(drain_s=…)` where it shuts down. Call it on the main thread; elsewhere it is
    a `ValueError`, as by `signal.signal`. Python runs handlers on the main thread once it is awake:
    have it wake now and then rather than wait for ever, since a signal that comes in the moment
    before it falls asleep does not wake it.
    """
    if not seconds >= 0:
        raise ValueError(f"seconds must be at least 0, got {seconds}")
    signal.signal(signal.SIGTERM, _Drain(seconds, signal.getsignal(signal.SIGTERM)))


_AGAIN_S = 0.5


class _Drain:
    """A handler. It runs on the main thread, which may hold any lock and must go on meanwhile: so
    another thread drains, and sends the signal once more."""

    def __init__(self, seconds: float, before: object) -> None:
        self._seconds, self._before = seconds, before
        self._thread: threading.Thread | None = None
        self._is_done = False
        self._heard = threading.Event()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="drain")
            self._thread.start()
        elif self._is_done or not self._thread.is_alive():  # the latter in a fork
            self._heard.set()
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)  # type: ignore[arg-type]
            signal.raise_signal(signal.SIGTERM)

    def _run(self) -> None:
        ends = [
            threading.Thread(target=one.end, args=(self._seconds,), name="end")
            for one in tuple(_running)
        ]
        for thread in ends:
            thread.start()
        for thread in ends:
            thread.join()
        self._is_done = True
        # One that comes just before the main thread falls asleep is heard when it wakes, perhaps
        # never: it is sent until it is heard, unless somebody else has taken the signal over.
        main = threading.main_thread().ident
        heard = self._heard
        while main is not None and signal.getsignal(signal.SIGTERM) is self:
            signal.pthread_kill(main, signal.SIGTERM)
            if heard.wait(_AGAIN_S):
                break


@atexit.register
def _end_all() -> None:
    for one in tuple(_running):
        one.end(0.0)


def _orphan_all() -> None:
    for one in (*_running, *_shared):
        one.orphan()
    _running.clear()
    _shared.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_orphan_all)
