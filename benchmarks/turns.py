"""Engines side by side, each in a process of its own, all driven alike through a pipe.

Settings of one compiler can't leak into another there, one that hangs or crashes takes nobody
with it, and whoever is not asked sleeps. Per cell (one batch shape) a contender is first made
ready (compiled for the shape, run, judged against eager), then timed in short turns.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from benchmarks.peers import Job, Open, Run, engine
from supernet.capture.calls.pytree import flatten
from supernet.fidelity import error
from supernet.jobs import malloc

__all__ = ["Contender", "LeftOut", "Readied"]

_WARM_RUNS = 2
# A turn is a burst: the first run finds its weights in memory, the timed ones in the caches, as
# they are where one engine serves alone. Slow runs fill the caches by themselves.
_BURST_S = 0.05
_SLOW_S = 0.25
_STARTING_S = 300.0
_ENDING_S = 5.0


class LeftOut(Exception):
    """Why a contender takes no further part."""


@dataclass(frozen=True, slots=True)
class Readied:
    """How long it took to be made ready, one warm run, and the errors against eager.

    ``relative_l2`` is the worst row's, ``natural`` (by the model's metric) the mean over rows.
    """

    ready_s: float
    run_ms: float
    relative_l2: float
    natural: float


class Contender:
    """The handle of one engine's process."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, job), daemon=True)
        with _heap_of(job):
            self._process.start()
        theirs.close()

    def ready(self, inputs: Mapping[str, Any], budget_s: float) -> Readied:
        """Make it ready for these inputs (numpy arrays and constants)."""
        found: Readied = self._ask(inputs, budget_s)
        return found

    def turn_ms(self) -> float:
        """Median of one burst of runs."""
        return float(self._ask("turn", _STARTING_S))

    def started(self) -> None:
        """Wait until its model is loaded."""
        self._ask(None, _STARTING_S)

    def close(self) -> None:
        """End the process: by the end of its pipe, or by force where it is busy."""
        self._pipe.close()
        self._process.join(_ENDING_S)
        if self._process.exitcode is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._process.pid:
                os.killpg(self._process.pid, signal.SIGKILL)  # its compilers with it
        self._process.kill()
        self._process.join()

    def _ask(self, what: Any, limit_s: float) -> Any:
        try:
            self._pipe.send(what)
            if not self._pipe.poll(limit_s):
                raise LeftOut(f"it took longer than {limit_s:g} s")
            answer = self._pipe.recv()
        except (EOFError, OSError) as gone:
            self._process.join(10)
            raise LeftOut(f"its process ended with status {self._process.exitcode}") from gone
        if isinstance(answer, str):
            raise LeftOut(answer)
        return answer


@contextlib.contextmanager
def _heap_of(job: Job) -> Iterator[None]:
    """Plans run in processes started as evolve starts its workers, peers as they come."""
    before = dict(os.environ)
    if job.peer == "plan":
        os.environ.update(malloc.environment(before))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _serve(pipe: Connection, job: Job) -> None:
    """The contender's process: answers one request after another until the pipe ends."""
    os.setpgrp()
    quiet = os.open(os.devnull, os.O_WRONLY)  # compilers talk; what fails is said by the pipe
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    torch.set_num_threads(job.threads)
    run: Run = _nothing
    with contextlib.nullcontext() if job.peer == "plan" else torch.inference_mode():
        try:
            make = engine(job)
        except Exception as failure:
            make = _failing(failure)
        with contextlib.suppress(EOFError):
            while True:
                asked = pipe.recv()
                try:
                    if isinstance(asked, dict):
                        run = _nothing  # what it held for the last cell goes first
                        run, answer = _ready(job, make, asked)
                        pipe.send(answer)
                    else:
                        pipe.send(_burst_ms(run) if asked == "turn" else 0.0)
                except Exception as failure:
                    pipe.send(f"{type(failure).__name__}: {_first_line(failure)}")


def _ready(job: Job, make: Open, inputs: Mapping[str, Any]) -> tuple[Run, Readied]:
    gc.collect()
    began = time.perf_counter()
    run = make(inputs)
    outputs = run()
    ready_s = time.perf_counter() - began
    for _ in range(_WARM_RUNS):
        began = time.perf_counter()
        outputs = run()
        run_s = time.perf_counter() - began
        if run_s > _SLOW_S:
            break
    flat = outputs if isinstance(outputs, list) else flatten(outputs)[0]
    if job.peer == "eager":
        for index, output in enumerate(flat):
            np.save(job.answers / f"{index}.npy", output.numpy())
    wanted = [np.load(job.answers / f"{i}.npy", mmap_mode="r") for i in range(len(flat))]
    return run, Readied(ready_s, run_s * 1e3, *_errors(flat, wanted, job.metric))


def _errors(got: Sequence[Any], wanted: Sequence[Any], metric: str) -> tuple[float, float]:
    """Row by row: a language model's answers are too large to be judged at once."""
    rows = [
        ([g[i : i + 1] for g in got], [w[i : i + 1] for w in wanted]) for i in range(len(wanted[0]))
    ]
    worst = max(error("relative_l2", g, w) for g, w in rows)
    return worst, statistics.fmean(error(metric, g, w) for g, w in rows)


def _burst_ms(run: Run) -> float:
    times: list[float] = []
    gc.collect()
    gc.disable()
    try:
        begun = time.perf_counter()
        run()
        if (took_s := time.perf_counter() - begun) > _SLOW_S:
            return took_s * 1e3
        begun = time.perf_counter()
        while not times or time.perf_counter() - begun < _BURST_S:
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
    finally:
        gc.enable()
    return statistics.median(times) * 1e3


def _failing(failure: Exception) -> Open:
    def make(inputs: Mapping[str, Any]) -> Run:
        raise failure

    return make


def _nothing() -> Any:
    return None


def _first_line(failure: Exception) -> str:
    lines: Iterator[str] = (line.strip() for line in str(failure).splitlines())
    return next((line for line in lines if line), "")[:200]
