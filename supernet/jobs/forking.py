"""A piece of work in a fork of this process: it has the model in memory, and may die of anything.

The child is a copy of a process that may be serving. It therefore lets go of everything that is not
its own before it does anything else: open files and sockets, signal handlers, what would run at
exit. It speaks JSON lines through one pipe, and ends with `os._exit`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import json
import logging
import os
import resource
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["ForkedChild", "can_fork"]

_PR_SET_PDEATHSIG = 1
_STANDSTILL_S = 10.0
"""Without using any CPU time a child waits for a lock that another thread held at the fork."""

Say = Callable[[Mapping[str, Any]], None]


def can_fork() -> bool:
    """Whether a fork of this process can compute: on Linux, where nobody began to use a GPU."""
    return sys.platform == "linux"


class ForkedChild:
    """The child, seen from the thread that made it, which must outlive it.

    Make it in a fresh thread: OpenMP's threads do not survive a fork, and a thread that never used
    any has none to miss. `errors` is a file that takes what the child and its libraries print.
    """

    def __init__(self, work: Callable[[Say], None], errors: Path) -> None:
        self._errors = errors
        read, write = os.pipe()
        parent = os.getpid()
        # No handler of the user's runs in the child before it has put them away.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            with warnings.catch_warnings():
                # From 3.12 on Python warns of forks beside threads; see the text of this module.
                warnings.simplefilter("ignore", DeprecationWarning)
                self.pid = os.fork()
            if self.pid == 0:
                _work_and_exit(work, write, errors, parent)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(write)
        self._read = read
        self._rest = b""
        self._status: int | None = None
        self._cpu_s, self._moved_at_s = -1.0, time.monotonic()

    def lines(self, every_s: float) -> Iterator[dict[str, Any] | None]:
        """What it says, until it ends; None every `every_s` in which it said nothing."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN | select.POLLHUP)
        while True:
            if not poll.poll(every_s * 1e3):
                yield None
                continue
            piece = os.read(self._read, 65_536)
            if not piece:
                return
            *whole, self._rest = (self._rest + piece).split(b"\n")
            for line in whole:
                yield json.loads(line)

    def stands_still(self) -> bool:
        """Whether it has used no CPU time for a while."""
        now_s, cpu_s = time.monotonic(), _cpu_s(self.pid)
        if cpu_s != self._cpu_s:
            self._cpu_s, self._moved_at_s = cpu_s, now_s
        return now_s - self._moved_at_s > _STANDSTILL_S

    def give_way(self) -> None:
        """From now on it runs only where nobody else wants the CPU."""
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{self.pid}/task").iterdir():
                os.setpriority(os.PRIO_PROCESS, int(thread.name), 10)

    def end(self) -> None:
        """Kills it where it still runs, and lets go of it."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            try:
                self._status = os.waitpid(self.pid, 0)[1]
            except ChildProcessError:  # a handler of SIGCHLD that waits for every child was faster
                self._status = 0
            os.close(self._read)

    def why(self) -> str:
        """How a child ended that did not say it itself. It must have ended."""
        code = os.waitstatus_to_exitcode(self._status or 0)
        how = f"crashed with {signal.Signals(-code).name}" if code < 0 else "ended"
        with contextlib.suppress(OSError):
            said = self._errors.read_text(encoding="utf-8", errors="replace").split("\n")
            if last := next((line.strip() for line in reversed(said) if line.strip()), ""):
                return f"its process {how}: {last[:200]}"
        return f"its process {how}"


def _cpu_s(pid: int) -> float:
    """CPU time used so far; -1 where it cannot be told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _work_and_exit(
    work: Callable[[Say], None], channel: int, errors: Path, parent: int
) -> NoReturn:
    status = 1
    try:
        _leave_everything(channel, errors, parent)

        def say(record: Mapping[str, Any]) -> None:
            line = json.dumps(record).encode() + b"\n"
            while line:
                line = line[os.write(channel, line) :]

        work(say)
        status = 0
    except BaseException as error:
        with contextlib.suppress(BaseException):
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def _leave_everything(channel: int, errors: Path, parent: int) -> None:
    gc.freeze()  # no finaliser of the parent's objects may run here
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _close_files(channel, errors)
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # were memory short, this process is the one to go
        Path("/proc/self/oom_score_adj").write_text("1000")


def _close_files(channel: int, errors: Path) -> None:
    """Replaced rather than closed: no number is free for a file of ours that a forgotten object of
    the parent's would then close."""
    nothing = os.open(os.devnull, os.O_RDWR)
    said = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number in [int(name) for name in os.listdir("/proc/self/fd")]:
        if number not in (channel, nothing, said):
            with contextlib.suppress(OSError):
                os.dup2(said if number in (1, 2) else nothing, number, inheritable=False)
    sys.stdin = io.StringIO()
    sys.stdout = sys.stderr = io.TextIOWrapper(
        io.FileIO(os.dup(said), "w"), encoding="utf-8", errors="replace", line_buffering=True
    )
