"""A job from the inside: `main` protects its process, follows its parent, and says how it ends.

The process prints JSON records, one a line, and nothing else: stages of progress, at last the
result or the error. Whatever else writes to stdout lands in stderr.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from supernet.errors import CacheFull, WrongArgument
from supernet.jobs.checkpoints import Checkpoints
from supernet.jobs.errors import (
    BadRequest,
    JobError,
    JobFailed,
    JobOutOfDisk,
    JobOutOfMemory,
    JobRaised,
    JobStopped,
)
from supernet.jobs.pausing import wake_with_parent

__all__ = ["STOP", "Say", "be_named", "follow_parent", "is_out_of_memory", "main"]

STOP = b"stop\n"
"""What a parent writes to ask for a stop at the next checkpoint."""

_Request = TypeVar("_Request")
_NICENESS = 10
_PR_SET_NAME = 15
_PARENT_POLL_MS = 500
_CHECKPOINT_EVERY_S = 60.0
_LONGEST_LINE = 300
_FULL = (errno.ENOSPC, errno.EDQUOT)
# torch says on a CPU in words alone what other libraries raise a MemoryError for
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "std::bad_alloc")


class Say:
    """How work tells its parent where it is, and keeps states to go on from.

    Call it with a stage in words and the share of that which is done.
    """

    def __init__(
        self,
        send: Callable[[Mapping[str, Any]], None],
        checkpoints: Checkpoints | None = None,
        is_stop_asked: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._checkpoints = checkpoints
        self._is_stop_asked = is_stop_asked
        self._clock = clock
        self._kept_at_s = clock()

    def __call__(self, stage: str, share: float) -> None:
        self._send({"stage": stage, "share": share})

    def resumed(self) -> Path | None:
        """What `save` wrote at the last checkpoint of the same request, to go on from; None at a
        first start. It lies there until the next checkpoint."""
        return None if self._checkpoints is None else self._checkpoints.newest()

    def checkpoint(self, save: Callable[[Path], None]) -> None:
        """To be called, as often as you like, where the work could go on from later.

        `save` writes the state into the empty folder that it is given: once a minute, and when a
        stop is asked for; then this raises `JobStopped`, which work lets pass.
        """
        is_last = self._is_stop_asked()
        is_due = self._clock() - self._kept_at_s >= _CHECKPOINT_EVERY_S
        if self._checkpoints is not None and (is_last or is_due):
            self._checkpoints.add(save)
            self._kept_at_s = self._clock()
        if is_last:
            raise JobStopped("it stopped at a checkpoint")


def main(
    request: type[_Request],
    work: Callable[[_Request, Say], Mapping[str, Any]],
    *,
    niceness: int = _NICENESS,
) -> None:
    """Do ``work`` in this process, which was started with the path of the job's file.

    The file holds the fields of ``request``, a frozen dataclass, as JSON. What ``work`` gives must
    be JSON, too.
    """
    if len(sys.argv) != 2:
        sys.exit("usage: python -m MODULE JOB.json")
    spec = sys.modules["__main__"].__spec__
    be_named("" if spec is None else spec.name.rpartition(".")[2])
    send = _own_stdout()
    stop = threading.Event()
    follow_parent(stop.set)
    send({"begun": True})  # from now on it may be stopped: it would hear of its parent's end
    os.nice(niceness)
    with contextlib.suppress(OSError):  # were memory short, this process is the one to go
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        asked, checkpoints = _read(Path(sys.argv[1]), request)
        send({"result": work(asked, Say(send, checkpoints, stop.is_set))})
    except Exception as error:
        told = _named(error)
        send({"error": type(told).__name__, "said": str(told)})


def _read(path: Path, request: type[_Request]) -> tuple[_Request, Checkpoints | None]:
    try:
        job = json.loads(path.read_text(encoding="utf-8"))
        keep = job["keep"]
        asked = request(**job["request"])
        return asked, None if keep is None else Checkpoints(Path(keep), job["request"])
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise BadRequest(f"the request in {path.name} is not one: {_line(error)}") from error


def _named(error: Exception) -> JobError:
    """The error that the parent is told of."""
    if isinstance(error, JobError):
        return error
    if isinstance(error, CacheFull):
        return JobOutOfDisk(str(error))
    if isinstance(error, WrongArgument):
        return BadRequest(str(error))
    said = f"{type(error).__name__}: {_line(error)}"[:_LONGEST_LINE]
    if is_out_of_memory(error):
        return JobOutOfMemory(said)
    if isinstance(error, OSError):
        return (JobOutOfDisk if error.errno in _FULL else JobFailed)(said)
    return JobRaised(said)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was not the memory for something, of the host or of a GPU.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    True
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def _line(error: Exception) -> str:
    """The first line of what it says that says anything."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def be_named(name: str) -> None:
    """Go by this name in lists of processes, where it is one: a copy has the command line of what
    it is copied from."""
    if sys.platform == "linux" and name:
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def _own_stdout() -> Callable[[Mapping[str, Any]], None]:
    """Keep stdout for records; what libraries print goes to stderr."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def send(record: Mapping[str, Any]) -> None:
        line = json.dumps(record) + "\n"
        with lock:
            channel.write(line)
            channel.flush()

    return send


def follow_parent(on_stop: Callable[[], None] = lambda: None) -> None:
    """End with everything it started once the parent is gone, even while stopped; call ``on_stop``
    when it asks for a stop."""
    wake_with_parent()
    threading.Thread(target=_follow, args=(os.getppid(), on_stop), daemon=True).start()


def _follow(parent: int, on_stop: Callable[[], None]) -> None:
    """Waits for the end of stdin, which the parent holds open, or for another parent: a fork of
    the first may hold the same open for longer than it lives."""
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    while os.getppid() == parent:
        if poll.poll(_PARENT_POLL_MS):
            said = os.read(0, 1024)
            if not said:
                break
            if STOP in said:
                on_stop()
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
