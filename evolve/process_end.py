"""What becomes of running runtimes when their process forks or ends.

A fork copies a runtime without its threads and with its locks as they happened to be: in the child
it must be touched no more. The child's copies of sockets would keep workers alive that wait for
their end, and its copy of the journal's file would keep that locked: they are closed.

At the end of the interpreter, a lane's thread that is still inside native code would be torn out of
it, which ends the process by SIGABRT: so runtimes are closed before, once all threads that are
waited for have ended.
"""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Protocol

__all__ = ["Runs", "Shares", "share", "started", "stopped"]


class Shares(Protocol):
    """Something that holds a file or a socket which a fork must let go of."""

    def orphan(self) -> None:
        """This process is a fork of the one that it belongs to; takes no lock."""
        ...


class Runs(Protocol):
    """Something with threads, alive from `started` to `stopped`."""

    def close(self) -> None:
        """Ends the threads, within a bounded time."""
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


@atexit.register
def _close_all() -> None:
    for one in tuple(_running):
        one.close()


def _orphan_all() -> None:
    for one in (*_running, *_shared):
        one.orphan()
    _running.clear()
    _shared.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_orphan_all)
