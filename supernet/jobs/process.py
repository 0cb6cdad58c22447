"""Run one step of the control plane's work in a process of its own, and say how it ended."""

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
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from supernet.errors import BuildInterrupted
from supernet.jobs import malloc
from supernet.jobs.pausing import Pauses

__all__ = ["Step", "run_step"]

_POLL_S = 0.1
_HELD_POLL_S = 0.005
_GRACE_S = 10.0
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LONGEST_LINE = 300
_NO_MORE: Mapping[str, Any] = MappingProxyType({})


@dataclass(slots=True)
class Step:
    """What to run and for how long; the time left is shared by the steps of one build.

    `module` is run with the path of the job's JSON file; it prints JSON records, one a line. Time
    in which `pauses` holds it does not count.
    """

    job: Mapping[str, Any]
    scratch: Path
    threads: int
    budget_s: float
    on_progress: Callable[[str, float], None]
    cancelled: Callable[[], bool]
    module: str = "supernet.building.build"
    pauses: Pauses = field(default_factory=Pauses)
    deadline_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.deadline_s = self.pauses.running_s() + self.budget_s


def run_step(step: Step, name: str, more: Mapping[str, Any] = _NO_MORE) -> dict[str, Any]:
    """The last record the process printed; ``{"failed": reason, "kind": …}`` if it failed.

    ``more`` is added to the job. Kinds: "full" (disk), "verdict" (the backend refused), "crash"
    (died of a signal of its own), "mistake" (an exception), "error" and "timeout". Raises
    ``BuildInterrupted`` when somebody killed it.
    """
    job = step.scratch / f"{name}.json"
    job.write_text(json.dumps({**step.job, "step": name, **more}), encoding="utf-8")
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", step.module, str(job)],
            stdin=subprocess.PIPE,  # kept open: its end tells the process that we are gone
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_environment(step),
            start_new_session=True,
            text=True,
            encoding="utf-8",
        )
        last: dict[str, Any] | None = None
        try:
            last = _follow(step, process)
        finally:
            _end(process, grace_s=_GRACE_S if last is not None else 0.0)
        if last is None:
            took = f"it took longer than {step.budget_s:g} s"
            return {"failed": took, "kind": "timeout"}
        return _outcome(process.returncode, last, errors)


def _follow(step: Step, process: subprocess.Popen[str]) -> dict[str, Any] | None:
    """Pass progress on until the process is done; the last record, None if time ran out."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
    last: dict[str, Any] = {}
    with contextlib.ExitStack() as pausable:
        while True:
            if step.cancelled():
                raise BuildInterrupted("the build was cancelled")
            if step.pauses.running_s() > step.deadline_s:
                return None
            step.pauses.resume()
            try:
                line = lines.get(timeout=_HELD_POLL_S if step.pauses.is_held else _POLL_S)
            except queue.Empty:
                continue
            if line is None:
                return last
            record = _record(line)
            if record and not last:  # it has begun: it would hear of our end even while stopped
                pausable.enter_context(step.pauses.including(process.pid))
            last = record or last
            if "stage" in last:
                step.on_progress(str(last["stage"]), float(last.get("share", 0.0)))


def _pump(stream: IO[str] | None, lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream or ():
        lines.put(line)
    lines.put(None)


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _end(process: subprocess.Popen[str], grace_s: float) -> None:
    """Give a process that closed its output time to exit; then kill it and all it started."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=grace_s)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _outcome(code: int, last: dict[str, Any], errors: IO[bytes]) -> dict[str, Any]:
    if code == 0 and "stage" not in last and last:
        return last
    said = _last_line(errors)
    if code < 0:
        number = signal.Signals(-code)
        if number in _FROM_OUTSIDE:
            raise BuildInterrupted(f"its process was killed ({number.name})")
        return {"failed": f"it crashed with {number.name}{said}", "kind": "crash"}
    return {"failed": f"its process ended with status {code}{said}", "kind": "error"}


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - 8192))
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return f": {last[:_LONGEST_LINE]}" if last else ""


def _environment(step: Step) -> dict[str, str]:
    scratch = step.scratch
    package_home = str(Path(__file__).resolve().parents[2])
    paths = [package_home, *(path for path in sys.path if path)]
    return {
        **malloc.environment(os.environ),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(step.threads),
        # Inductor's cache key does not cover everything that shapes its code: a folder per
        # build. Both are removed with the scratch folder.
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "TMPDIR": str(scratch),
    }
