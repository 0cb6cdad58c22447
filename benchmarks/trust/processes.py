"""The corpus shared out among processes; one that dies costs the model it was serving."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.trust.child import Job
from benchmarks.trust.corpus import Entry

__all__ = ["Result", "run"]

CHUNK = 10
PROGRAM = (sys.executable, "-c", "from benchmarks.trust.child import main; main()")
SILENT_S = 420.0  # without a word for so long, a process hangs
_ENDING_S = 60.0  # from the last model to the end of the process


@dataclass(frozen=True, slots=True)
class Result:
    """One model and its outcome, or how its process ended (None: it hung and was killed)."""

    entry: Entry
    outcome: dict[str, Any] | None
    died: bool = False
    status: int | None = None
    last_words: str = ""


def run(
    job: Job,
    *,
    jobs: int,
    minutes: float,
    told: Callable[[Result], None],
    program: Sequence[str] = PROGRAM,
) -> list[Result]:
    """Results of the models that were begun before ``minutes`` were over.

    ``jobs`` processes run ``program`` at a time; ``told`` hears of each result as it comes.
    """
    until = time.monotonic() + minutes * 60
    chunks = [
        replace(job, entries=job.entries[i : i + CHUNK]) for i in range(0, len(job.entries), CHUNK)
    ]
    with ThreadPoolExecutor(jobs) as pool:
        done = pool.map(lambda chunk: _chunk(chunk, until, told, program), chunks)
        return [result for results in done for result in results]


def _chunk(
    job: Job, until: float, told: Callable[[Result], None], program: Sequence[str]
) -> list[Result]:
    results: list[Result] = []
    while len(results) < len(job.entries) and time.monotonic() < until:
        left = replace(job, entries=job.entries[len(results) :])
        results += _process(left, until, told, program)
    return results


def _process(
    job: Job, until: float, told: Callable[[Result], None], program: Sequence[str]
) -> list[Result]:
    """What one process came to: a result for each model that it began, at least one."""
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdin is not None
        process.stdin.write(job.to_json())
        process.stdin.close()
        results, open_entry, finished = _heard(process, until, told)
        stopped = not finished and time.monotonic() > until
        status = _status(process)
        errors.seek(0)
        last_words = errors.read()[-600:].decode(errors="replace").strip()
    if open_entry is not None and not stopped:
        results.append(Result(open_entry, None, True, status, last_words))
        told(results[-1])
    elif finished and status != 0:  # everything was answered, and then it died
        results[-1] = replace(results[-1], died=True, status=status, last_words=last_words)
        told(results[-1])
    if not results and not stopped:
        raise RuntimeError(f"the process ended with {status} before any model: {last_words}")
    return results


def _heard(
    process: subprocess.Popen[str], until: float, told: Callable[[Result], None]
) -> tuple[list[Result], Entry | None, bool]:
    """Results told by a process, the model that it had begun but not ended, and whether all is
    done. A process that says nothing for too long, or is still at it after ``until``, is killed."""
    results: list[Result] = []
    entry: Entry | None = None
    finished = False
    assert process.stdout is not None
    lines = iter(process.stdout)
    while True:
        patience_s = min(SILENT_S, max(until - time.monotonic(), 0) + 60)
        timer = threading.Timer(patience_s, process.kill)
        timer.start()
        line = next(lines, None)
        timer.cancel()
        if line is None:
            return results, entry, finished
        event = json.loads(line)
        if "began" in event:
            entry = Entry.from_json(event["began"])
        elif "ended" in event:
            assert entry is not None
            results.append(Result(entry, event["ended"]))
            told(results[-1])
            entry = None
        else:
            finished = True


def _status(process: subprocess.Popen[str]) -> int | None:
    try:
        return process.wait(_ENDING_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None
