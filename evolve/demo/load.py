"""Open-loop load: requests leave at their intended times, whatever became of the others.

A closed loop waits for each answer and so hides the queue it causes; here latency counts from
the *intended* send time, as a user would feel it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from evolve.errors import DeadlineExceeded

__all__ = ["Outcome", "Phase", "arrivals", "drive"]


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of steady Poisson load."""

    seconds: float
    rate_per_s: float


def arrivals(phases: Sequence[Phase], *, seed: int) -> npt.NDArray[np.float64]:
    """Send times in seconds from the start, ascending, Poisson within each phase."""
    rng = np.random.default_rng(seed)
    times = []
    start = 0.0
    for phase in phases:
        count = rng.poisson(phase.rate_per_s * phase.seconds)
        times.append(start + np.sort(rng.uniform(0.0, phase.seconds, count)))
        start += phase.seconds
    return np.concatenate(times)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of each request, by index: `sent_s` intended send time and `latency_ms` until
    the answer, `refused` and `failed` flags, and the `kept` answers by request index."""

    sent_s: npt.NDArray[np.float64]
    latency_ms: npt.NDArray[np.float64]
    refused: npt.NDArray[np.bool_]
    failed: npt.NDArray[np.bool_]
    kept: dict[int, Any]
    errors: tuple[str, ...]

    def met(self, slo_ms: float) -> npt.NDArray[np.bool_]:
        """Answered, and within the objective."""
        return ~self.refused & ~self.failed & (self.latency_ms <= slo_ms)


def drive(
    submit: Callable[[int], Future[Any]],
    sent_s: npt.NDArray[np.float64],
    *,
    keep: Callable[[int], bool] = lambda index: False,
    on_second: Callable[[float], None] = lambda elapsed_s: None,
    grace_s: float = 60.0,
) -> Outcome:
    """Sends request `i` at `sent_s[i]` seconds from now and waits for every ending.

    Args:
        submit: Sends one request and returns its future, without blocking.
        keep: Which answers to hold on to for comparison.
        on_second: Called about once a second with the elapsed time.
        grace_s: How long to wait for stragglers; what is missing then counts as failed.
    """
    n = len(sent_s)
    done_s = np.full(n, np.nan)
    refused, failed = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    kept: dict[int, Any] = {}
    errors: list[str] = []
    left = threading.Semaphore(0)
    start_s = time.perf_counter() + 0.05

    def ended(index: int, future: Future[Any]) -> None:
        done_s[index] = time.perf_counter() - start_s
        error = future.exception()
        if isinstance(error, DeadlineExceeded):
            refused[index] = True
        elif error is not None:
            failed[index] = True
            errors.append(f"{type(error).__name__}: {error}")
        elif keep(index):
            kept[index] = future.result()
        left.release()

    second = 0
    for index, at_s in enumerate(sent_s):
        # Never spins: that would take a core from whoever is measured.
        if (early_s := start_s + at_s - time.perf_counter()) > 0:
            time.sleep(early_s)
        submit(index).add_done_callback(partial(ended, index))
        if at_s >= second + 1:
            second = int(at_s)
            on_second(at_s)
    give_up_s = time.perf_counter() + grace_s
    for _ in range(n):
        if not left.acquire(timeout=max(give_up_s - time.perf_counter(), 0.0)):
            break
    missing = np.isnan(done_s)
    return Outcome(
        sent_s, (done_s - sent_s) * 1e3, refused, failed | missing, kept,
        tuple(errors) + ("never answered",) * int(missing.sum()),
    )  # fmt: skip
