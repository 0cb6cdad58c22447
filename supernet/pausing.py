"""Processes that stand still while something more urgent needs the machine.

A low priority shares the memory bus and the caches all the same: beside a niced search the p99 of
served requests rose five times (decision 0011). A stopped process shares nothing but memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

__all__ = ["Pauses", "wake_with_parent"]

_PR_SET_PDEATHSIG = 1


class Pauses:
    """Process groups that stand still while there is any reason to hold them; thread-safe.

    `hold` and `let_go` take microseconds, and less than one where no process is concerned.
    Elsewhere than on Linux, where a stopped process would not hear of the death of its parent,
    nothing is stopped.

    >>> pauses = Pauses()
    >>> pauses.hold("serving")
    >>> pauses.is_held
    True
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._reasons: set[str] = set()
        self._held_since_s = 0.0
        self._held_s = 0.0

    @property
    def is_held(self) -> bool:
        """Whether the processes stand still at this moment."""
        return bool(self._reasons)

    def hold(self, reason: str) -> None:
        """Stop every process of these groups, and those that join, until `let_go`."""
        with self._lock:
            if not self._reasons:
                self._held_since_s = self._clock()
                self._tell(signal.SIGSTOP)
            self._reasons.add(reason)

    def let_go(self, reason: str) -> None:
        """All of them go on, unless there is another reason."""
        with self._lock:
            if self._reasons == {reason}:
                self._held_s += self._clock() - self._held_since_s
                self._tell(signal.SIGCONT)
            self._reasons.discard(reason)

    @contextlib.contextmanager
    def including(self, group: int) -> Iterator[None]:
        """Within the block the process group `group`, a child's own, is one of them."""
        with self._lock:
            self._groups.add(group)
            if self._reasons:
                _signal(group, signal.SIGSTOP)
        try:
            yield
        finally:
            with self._lock:
                self._groups.discard(group)
                _signal(group, signal.SIGCONT)

    def running_s(self) -> float:
        """A clock that stands still with the processes, seconds."""
        with self._lock:
            now_s = self._held_since_s if self._reasons else self._clock()
            return now_s - self._held_s

    def _tell(self, number: signal.Signals) -> None:
        for group in self._groups:
            _signal(group, number)


def wake_with_parent() -> None:
    """Have this process go on, were it stopped, when its parent dies: then it can end itself."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGCONT))


def _signal(group: int, number: signal.Signals) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
