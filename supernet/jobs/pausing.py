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
    """Process groups that stand still while there is any reason to, and a while after; thread-safe.

    `hold` stops them at once. They go on when `resume`, which whoever waits for them calls every
    few milliseconds, finds that nobody has held them for `patience_s`: who comes right after
    another has enough to wait for, and should not find cold caches as well. Every method takes
    microseconds. Elsewhere than on Linux, where a stopped process would not hear of the death of
    its parent, nothing is stopped.

    >>> pauses = Pauses(patience_s=0.0)
    >>> pauses.hold("serving")
    >>> pauses.is_held
    True
    >>> pauses.let_go("serving")
    >>> pauses.resume()
    >>> pauses.is_held
    False
    """

    def __init__(
        self, *, patience_s: float = 0.01, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._reasons: set[str] = set()
        self._free_since_s = 0.0
        self._held_since_s: float | None = None
        self._held_s = 0.0
        self._followers: tuple[Pauses, ...] = ()

    @contextlib.contextmanager
    def follower(self) -> Iterator[Pauses]:
        """Others that are held whenever these are, within the block; at its end nothing holds
        them."""
        other = Pauses(patience_s=self._patience_s, clock=self._clock)
        with self._lock:
            self._followers = (*self._followers, other)
            for reason in self._reasons:
                other.hold(reason)
        try:
            yield other
        finally:
            with self._lock:
                self._followers = tuple(one for one in self._followers if one is not other)
                other.free()

    def free(self) -> None:
        """No reason counts any more."""
        with self._lock:
            self._reasons.clear()
            self._free_since_s = self._clock()

    @property
    def is_held(self) -> bool:
        """Whether the processes stand still at this moment."""
        return self._held_since_s is not None

    def hold(self, reason: str) -> None:
        """Stop every process of these groups, and those that join."""
        with self._lock:
            self._reasons.add(reason)
            if self._held_since_s is None:
                self._held_since_s = self._clock()
                self._tell(signal.SIGSTOP)
            for other in self._followers:
                other.hold(reason)

    def let_go(self, reason: str) -> None:
        """They may go on, unless there is another reason."""
        with self._lock:
            self._reasons.discard(reason)
            self._free_since_s = self._clock()
            for other in self._followers:
                other.let_go(reason)

    def resume(self) -> None:
        """Have them go on where they may."""
        with self._lock:
            now_s = self._clock()
            if self._held_since_s is None or self._reasons:
                return
            if now_s - self._free_since_s >= self._patience_s:
                self._held_s += now_s - self._held_since_s
                self._held_since_s = None
                self._tell(signal.SIGCONT)

    @contextlib.contextmanager
    def including(self, group: int) -> Iterator[None]:
        """Within the block the process group `group`, a child's own, is one of them."""
        with self._lock:
            self._groups.add(group)
            if self._held_since_s is not None:
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
            now_s = self._clock() if self._held_since_s is None else self._held_since_s
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
