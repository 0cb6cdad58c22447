"""What is left of the service when far more arrives than it can do?

Callers on threads of this very process send single rows, open loop, at 1 to 50 times the rate at
which most is answered in time (or as fast as Python lets them); then at half of the rate at which
99 % is.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

import evolve
from benchmarks.harness import Figure, encoder, publish
from evolve.data_plane.promise import Promise
from evolve.errors import DeadlineExceeded

SECONDS = 4.0
FACTORS = (3.0, 10.0, 50.0)
REPEATS = 3  # of each in turn; figures are medians
CALLERS = 4
STEP = 1.5
LEAST_SHARE, RECOVERY_S = 0.8, 1.0
WINDOW_S = 0.5
"""In a tenth of a second one pause of 20 ms, which a shared machine makes at any load, is a miss:
the rows "nothing before" show how often."""
QUESTION = "Overload by arrival rate (targets: goodput 80 % of its peak, p99 within the SLO)"


@dataclass(frozen=True, slots=True)
class Sent:
    """When each request was sent and answered, seconds; ``ended_s`` is NaN where it was refused."""

    sent_s: np.ndarray[Any, Any]
    ended_s: np.ndarray[Any, Any]
    seconds: float

    def goodput_per_s(self, slo_s: float) -> float:
        with np.errstate(invalid="ignore"):
            return float((self.ended_s - self.sent_s <= slo_s).sum() / self.seconds)

    def met(self, slo_s: float) -> float:
        """The share of those sent that was answered in time."""
        return self.goodput_per_s(slo_s) * self.seconds / len(self.sent_s)

    @property
    def offered_per_s(self) -> float:
        return len(self.sent_s) / self.seconds

    def p99_ms(self) -> float:
        stayed = (self.ended_s - self.sent_s)[~np.isnan(self.ended_s)]
        return float(np.quantile(stayed, 0.99) * 1e3) if len(stayed) else float("nan")


def main() -> None:
    rows: dict[str, Any] = {}
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)).eval()
    x = torch.randn(1, 64)
    rows |= overloaded("MLP", mlp, (x,), 20.0, lambda runtime: runtime.submit(x), 1000.0)
    model, examples = encoder()
    one = examples[0]
    rows |= overloaded(
        "MiniLM", model, examples, 50.0, lambda runtime: runtime.submit(**one), 100.0
    )
    publish("overload", QUESTION, rows, seconds=SECONDS, callers=CALLERS)


def overloaded(
    name: str, model: nn.Module, examples: Any, slo_ms: float,
    submit: Callable[[evolve.Runtime], Future[Any]], first_per_s: float,
) -> dict[str, Any]:  # fmt: skip
    """Figures of one model."""
    rows: dict[str, Any] = {}
    with evolve.wrap(model, examples, slo=evolve.SLO(p99_ms=slo_ms)) as runtime:
        runtime.wait_for_plans()
        peak_per_s = peak(lambda: submit(runtime), slo_ms / 1e3, first_per_s)
        rows[f"{name}: peak of goodput /s"] = peak_per_s
        # Not half of the peak, at which less than 99 % is met even without an overload before it.
        calm_per_s = 0.5 * capacity(lambda: submit(runtime), slo_ms / 1e3, first_per_s)
        rows[f"{name}: afterwards /s"] = calm_per_s
        for window_s in (0.1, WINDOW_S):
            calm = send(lambda: submit(runtime), calm_per_s, 2 * RECOVERY_S)
            last_s = recovered_s(calm, slo_ms / 1e3, window_s)
            rows[f"{name}: nothing before, s until all of {window_s:g} s are met"] = last_s
        found: dict[float, list[tuple[float, ...]]] = {factor: [] for factor in FACTORS}
        for factor in FACTORS * REPEATS:
            sent = send(lambda: submit(runtime), factor * peak_per_s, SECONDS)
            after = send(lambda: submit(runtime), calm_per_s, 2 * RECOVERY_S)
            share = sent.goodput_per_s(slo_ms / 1e3) / peak_per_s
            again_s = recovered_s(after, slo_ms / 1e3)
            found[factor].append((share, sent.p99_ms() / slo_ms, again_s, sent.offered_per_s))
    for factor, rounds in found.items():
        share, p99, again_s, offered_per_s = (median(one) for one in zip(*rounds, strict=True))
        title = f"{name}: {factor:g} ×"
        rows[f"{title}, offered /s"] = offered_per_s
        rows[f"{title}, share of the peak"] = Figure(share, LEAST_SHARE, at_most=False)
        rows[f"{title}, p99 of the answered / SLO"] = Figure(p99, 1.0)
        rows[f"{title}, s until it is met again"] = Figure(again_s, RECOVERY_S)
    return rows


def peak(submit: Callable[[], Future[Any]], slo_s: float, first_per_s: float) -> float:
    """The most that is answered in time per second, at whatever rate: higher ones are tried until
    that falls."""
    best, rate = 0.0, first_per_s
    while (good := send(submit, rate, SECONDS).goodput_per_s(slo_s)) >= 0.95 * best:
        best, rate = max(best, good), STEP * rate
    return best


def capacity(submit: Callable[[], Future[Any]], slo_s: float, first_per_s: float) -> float:
    """The highest rate at which 99 % is answered in time; two higher ones are not."""
    best, rate, misses = first_per_s, first_per_s, 0
    while misses < 2:
        if send(submit, rate, SECONDS).met(slo_s) >= 0.99:
            best, misses = rate, 0
        else:
            misses += 1
        rate *= STEP**0.5
    return best


def recovered_s(sent: Sent, slo_s: float, window_s: float = WINDOW_S) -> float:
    """When the last window in which less than 99 % was met had passed."""
    with np.errstate(invalid="ignore"):
        met = sent.ended_s - sent.sent_s <= slo_s
    began = sent.sent_s - sent.sent_s.min()
    bad = [
        (k + 1) * window_s
        for k in range(int(began.max() / window_s))
        if len(some := met[(began >= k * window_s) & (began < (k + 1) * window_s)])
        and some.mean() < 0.99
    ]
    return max(bad, default=0.0)


def send(submit: Callable[[], Future[Any]], rate_per_s: float, seconds: float) -> Sent:
    """Requests at a steady rate from several callers, each a part of them.

    Nobody keeps a future: some ten thousand of them make Python's collector stop everything for
    half a second and more.
    """
    due = np.arange(0.0, seconds, 1.0 / rate_per_s)
    parts: list[tuple[list[float], list[float]]] = [([], []) for _ in range(CALLERS)]
    began = time.perf_counter() + 0.05

    def call(part: int) -> None:
        sent_s, ended_s = parts[part]
        finished: list[BaseException | None] = []

        def ended(index: int, future: weakref.ref[Promise]) -> Callable[[], None]:
            def note() -> None:
                promise = future()
                error = None if promise is None else promise.exception()
                if error is None:
                    ended_s[index] = time.perf_counter()
                finished.append(None if isinstance(error, DeadlineExceeded) else error)

            return note

        for at_s in due[part::CALLERS]:
            wait_s = began + at_s - time.perf_counter()
            if wait_s > 0:
                time.sleep(wait_s)
            elif time.perf_counter() - began > seconds:
                break  # as fast as Python lets it
            sent_s.append(time.perf_counter())
            ended_s.append(float("nan"))
            future = submit()
            assert isinstance(future, Promise)
            # As `asubmit` does: the moment of the answer, not of a thread that is told of it.
            future.when_done(ended(len(sent_s) - 1, weakref.ref(future)))
        until_s = time.perf_counter() + 60
        while len(finished) < len(sent_s) and time.perf_counter() < until_s:
            time.sleep(0.005)
        if len(finished) < len(sent_s):
            raise TimeoutError(f"{len(sent_s) - len(finished)} requests were never answered")
        for error in filter(None, finished):
            raise error

    threads = [threading.Thread(target=call, args=(part,)) for part in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent, ended = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return Sent(sent, ended, seconds)


if __name__ == "__main__":
    main()
