"""A job that ends in the way it is told to, to try the harness by."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from supernet.errors import CacheFull, WrongArgument
from supernet.jobs.child import Say, main
from supernet.jobs.errors import JobRefused


@dataclass(frozen=True, slots=True)
class Request:
    """``end`` says how it ends; ``place`` is a folder to leave traces in; ``steps`` to count."""

    end: str
    place: str = ""
    steps: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps must be at least 0, got {self.steps}")


def work(request: Request, say: Say) -> dict[str, Any]:
    return _ENDS[request.end](request, say)


def _result(request: Request, say: Say) -> dict[str, Any]:
    print("libraries print what they like")
    os.write(1, b'{"result": {"false": "a library speaks JSON"}}\n')
    subprocess.run([sys.executable, "-c", "print('{}')"], check=True)
    say("counting", 0.5)
    Path(tempfile.mkdtemp(), "left behind").write_text("")
    return {
        "niceness": os.nice(0),
        "threads": os.environ["OMP_NUM_THREADS"],
        "temporary": tempfile.gettempdir(),
        "goes_first": Path("/proc/self/oom_score_adj").read_text().strip(),
    }


def _parent(request: Request, say: Say) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "folder": os.getcwd(),
        "tested": os.environ.get("EVOLVE_TESTED"),
    }


def _raising(error: Exception) -> Callable[[Request, Say], NoReturn]:
    def end(request: Request, say: Say) -> NoReturn:
        raise error

    return end


def _signalled(number: signal.Signals) -> Callable[[Request, Say], dict[str, Any]]:
    def end(request: Request, say: Say) -> dict[str, Any]:
        say("counting", 0.5)
        os.kill(os.getpid(), number)
        return {}

    return end


def _crash(request: Request, say: Say) -> dict[str, Any]:
    sys.stderr.write("what the engine said last\n")
    sys.stderr.flush()
    ctypes.string_at(0)
    return {}


def _crash_at_exit(request: Request, say: Say) -> dict[str, Any]:
    import atexit

    atexit.register(ctypes.string_at, 0)
    return {"said": "before"}


def _leave(request: Request, say: Say) -> NoReturn:
    sys.stderr.write("it had enough\n")
    sys.stderr.flush()
    os._exit(3)


def _hang(request: Request, say: Say) -> NoReturn:
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    note = Path(request.place) / "pids.new"
    note.write_text(json.dumps([os.getpid(), child.pid]))
    note.rename(Path(request.place) / "pids")
    say("hanging", 0.0)
    threading.Event().wait()
    raise AssertionError("nobody sets it")


def _count(request: Request, say: Say) -> dict[str, Any]:
    """Counts up to ``steps``; a first time half the way, where it waits to be asked to stop."""
    before = say.resumed()
    began = done = 0 if before is None else int((before / "done").read_text())
    while done < request.steps:
        done += 1
        say("counting", done / request.steps)
        while before is None and 2 * done == request.steps:
            say.checkpoint(partial(_write, done))
    return {"began": began, "done": done}


def _write(done: int, folder: Path) -> None:
    (folder / "done").write_text(str(done))


_ENDS: dict[str, Callable[[Request, Say], dict[str, Any]]] = {
    "result": _result,
    "parent": _parent,
    "refuse": _raising(JobRefused("nothing to do here")),
    "raise": _raising(KeyError("a mistake\nof two lines")),
    "crash": _crash,
    "crash at exit": _crash_at_exit,
    "leave": _leave,
    "memory": _raising(MemoryError("1 TiB")),
    "torch memory": _raising(RuntimeError("[enforce fail] can't allocate memory: 1 TiB")),
    "cache full": _raising(CacheFull("no room left for /cache")),
    "disk full": _raising(OSError(errno.ENOSPC, "No space left on device")),
    "file": _raising(FileNotFoundError(errno.ENOENT, "No such file", "twin.npz")),
    "wrong": _raising(WrongArgument("steps must be even, got 7")),
    "no json": lambda request, say: {"set": {1, 2}},
    "killed": _signalled(signal.SIGKILL),
    "terminated": _signalled(signal.SIGTERM),
    "aborted": _signalled(signal.SIGABRT),
    "hang": _hang,
    "count": _count,
}  # fmt: skip


if __name__ == "__main__":
    main(Request, work)
