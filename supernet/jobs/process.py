"""A job run in a process of its own, from the outside: started, followed, held up, ended.

`supernet.jobs.child` is the other side. What a job is and how to write one: ARCHITECTURE.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from supernet.jobs import malloc
from supernet.jobs.checkpoints import Checkpoints
from supernet.jobs.child import STOP
from supernet.jobs.errors import (
    JobCancelled,
    JobCrashed,
    JobFailed,
    JobKilled,
    JobOutOfTime,
    named,
)
from supernet.jobs.pausing import Pauses
from supernet.jobs.progress import Pace, Stage
from supernet.jobs.warm import Copy, NoCopy, copy

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["Terms", "run_job"]

Process: TypeAlias = "subprocess.Popen[bytes] | Copy"

_POLL_S = 0.1
_HELD_POLL_S = 0.005
_GRACE_S = 10.0
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LONGEST_LINE = 300


def _unheard(stage: Stage) -> None:
    """Nobody asked for progress."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms a job runs.

    ``scratch`` is a folder for what is temporary (`ArtifactCache.scratch`), the caller's to remove.
    Time in which ``pauses`` hold the job does not count to ``budget_s``. The budget begins with the
    job; jobs that share one say since when, on the clock of `Pauses.running_s`. While
    ``cancelled()`` it is killed; once ``stopping()`` it is asked to stop at its next checkpoint.
    ``keep`` is the folder for its checkpoints, to be given again for it to go on, which goes once
    there is a result; None: it keeps none. With ``imports``, names of modules, it may be a copy of
    a process that has them already (`supernet.jobs.warm`); without any it is a fresh process.
    """

    scratch: Path
    budget_s: float
    threads: int = 1
    on_progress: Callable[[Stage], None] = _unheard
    cancelled: Callable[[], bool] = lambda: False
    stopping: Callable[[], bool] = lambda: False
    pauses: Pauses = field(default_factory=Pauses)
    since_s: float | None = None
    keep: Path | None = None
    imports: tuple[str, ...] = ()


def run_job(request: DataclassInstance, terms: Terms) -> dict[str, Any]:
    """The result of the job whose module defines the class of ``request``; blocks until there is.

    Without one it raises a `JobError` (`supernet.jobs.errors`). Whatever happens, the process and
    all that it started have ended by then.
    """
    asked = {f.name: getattr(request, f.name) for f in fields(request)}
    keep = None if terms.keep is None else str(terms.keep)
    folder = tempfile.TemporaryDirectory(
        prefix="job-", dir=terms.scratch, ignore_cleanup_errors=True
    )
    with folder as own, tempfile.TemporaryFile() as errors:
        job = Path(own) / "job.json"
        job.write_text(json.dumps({"request": asked, "keep": keep}), encoding="utf-8")
        process = _started(
            type(request).__module__, str(job), _environment(terms, own), errors, terms
        )
        grace_s = 0.0
        try:
            last = _Followed(process, terms).to_its_end()
            grace_s = _GRACE_S
        finally:
            exited = _end(process, grace_s)
        result = _outcome(process.wait(), exited, last, errors)
    if terms.keep is not None:
        Checkpoints(terms.keep, asked).clear()
    return result


def _started(
    module: str, job: str, environment: Mapping[str, str], errors: IO[bytes], terms: Terms
) -> Process:
    """Its stdin is kept open: the end of that tells the process that we are gone."""
    if terms.imports:
        with contextlib.suppress(NoCopy):
            check = partial(_heed_cancelling, terms)
            return copy(module, job, environment, terms.imports, errors, check)
    return subprocess.Popen(
        [sys.executable, "-m", module, job], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=errors, env=environment, start_new_session=True,
    )  # fmt: skip


def _heed_cancelling(terms: Terms) -> None:
    if terms.cancelled():
        raise JobCancelled("it was cancelled")


class _Followed:
    """A job's process while it runs."""

    def __init__(self, process: Process, terms: Terms) -> None:
        self._process, self._terms = process, terms
        self._pace = Pace(terms.pauses.running_s)
        since_s = terms.pauses.running_s() if terms.since_s is None else terms.since_s
        self._deadline_s = since_s + terms.budget_s
        self._is_stop_asked = False
        self._last: dict[str, Any] = {}

    def to_its_end(self) -> dict[str, Any]:
        """Pass progress on until it closes its output; the last record, empty without any."""
        lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=_pump, args=(self._process.stdout, lines), daemon=True).start()
        pauses = self._terms.pauses
        with contextlib.ExitStack() as pausable:
            while True:
                self._heed()
                try:
                    line = lines.get(timeout=_HELD_POLL_S if pauses.is_held else _POLL_S)
                except queue.Empty:
                    continue
                if line is None:
                    return self._last
                record = _record(line)
                if record and not self._last:  # it would hear of our end even while stopped
                    pausable.enter_context(pauses.including(self._process.pid))
                self._last = record or self._last
                if "stage" in record:
                    told = self._pace.update(str(record["stage"]), float(record["share"]))
                    self._terms.on_progress(told)

    def _heed(self) -> None:
        """Do what its terms ask for at this moment."""
        terms = self._terms
        _heed_cancelling(terms)
        if terms.pauses.running_s() > self._deadline_s:
            raise JobOutOfTime(f"it took longer than {terms.budget_s:g} s")
        if not self._is_stop_asked and terms.stopping():
            self._is_stop_asked = True
            with contextlib.suppress(OSError):  # it is ending anyway
                os.write(_number(self._process.stdin), STOP)
        terms.pauses.resume()


def _number(stream: IO[bytes] | None) -> int:
    return -1 if stream is None else stream.fileno()


def _pump(stream: IO[bytes] | None, lines: queue.SimpleQueue[bytes | None]) -> None:
    for line in stream or ():
        lines.put(line)
    lines.put(None)


def _record(line: bytes) -> dict[str, Any]:
    """What a line says; nothing for one that is not a record."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _end(process: Process, grace_s: float) -> bool:
    """Give a process that closed its output time to exit; then kill it and all it started.
    Whether it exited by itself."""
    exited = True
    try:
        process.wait(timeout=grace_s)
    except subprocess.TimeoutExpired:
        exited = False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    return exited


def _outcome(code: int, exited: bool, last: Mapping[str, Any], errors: IO[bytes]) -> dict[str, Any]:
    """The result, or the error raised. A crash at exit counts, whatever was said before; that it
    had to be killed does not."""
    if "result" in last and (code == 0 or not exited):
        return dict(last["result"])
    if "error" in last and (code >= 0 or not exited):
        raise named(str(last["error"]))(str(last["said"]))
    said = _last_line(errors)
    if code < 0:
        number = signal.Signals(-code)
        if number in _FROM_OUTSIDE:
            raise JobKilled(f"its process was killed ({number.name})")
        raise JobCrashed(f"it crashed with {number.name}{said}")
    raise JobFailed(f"its process ended with status {code}{said}")


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - 8192))
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return f": {last[:_LONGEST_LINE]}" if last else ""


def _environment(terms: Terms, folder: str) -> dict[str, str]:
    package_home = str(Path(__file__).resolve().parents[2])
    paths = [package_home, *(path for path in sys.path if path)]
    return {
        **malloc.environment(os.environ),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(terms.threads),
        # Inductor's cache key does not cover everything that shapes its code: a folder for jobs
        # that belong together, removed with the scratch folder.
        "TORCHINDUCTOR_CACHE_DIR": str(terms.scratch / "inductor"),
        "TMPDIR": folder,
    }
