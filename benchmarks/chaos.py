"""Who behaves is answered in time, whatever the others send and whoever kills workers."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import evolve
from benchmarks.harness import Figure, publish
from benchmarks.overload import capacity, send
from evolve.errors import DeadlineExceeded

SECONDS = 6.0
LOAD, BAD = 0.8, 0.1
SLO = evolve.SLO(p99_ms=50.0)
KILLS, KILL_EVERY_S, KILLS_S = 100, 0.3, 900.0
QUESTION = "Bad input of 10 % at 80 % load, and 100 kills from outside"


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)).eval()
    x = torch.randn(1, 64)
    publish("chaos", QUESTION, {**bad_input(model, x), **kills(model, x)}, seconds=SECONDS)


def bad_input(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """What share of the good requests is met beside each kind of bad ones."""
    kinds: dict[str, Tensor] = {
        "NaN": torch.full((1, 64), float("nan")),
        "infinite": torch.full((1, 64), float("inf")),
        "another dtype": x.double(),
        "another width": torch.randn(1, 63),
        "400 rows": torch.randn(400, 64),
        "far from the examples": x * 1e9,
    }
    rows: dict[str, Any] = {}
    with evolve.wrap(model, (x,), slo=SLO) as runtime:
        runtime.wait_for_plans()
        # A share of the rate at which 99 % is met, not of the peak of goodput, where less is.
        load = LOAD * capacity(lambda: runtime.submit(x), SLO.p99_ms / 1e3, 1000.0)
        rows["good and bad requests /s"] = load
        alone = _met(runtime, x, (1 - BAD) * load, lambda: None)
        rows["good requests met, alone"] = alone
        for name, bad in kinds.items():
            met = _met(runtime, x, (1 - BAD) * load, _sender(runtime, bad, BAD * load))
            rows[f"good requests met beside: {name}"] = Figure(met, 0.99, at_most=False)
    return rows


def _met(
    runtime: evolve.Runtime, x: Tensor, rate_per_s: float, meanwhile: Callable[[], None]
) -> float:
    other = threading.Thread(target=meanwhile)
    other.start()
    sent = send(lambda: runtime.submit(x), rate_per_s, SECONDS)
    other.join()
    return sent.met(SLO.p99_ms / 1e3)


def _sender(runtime: evolve.Runtime, bad: Tensor, rate_per_s: float) -> Callable[[], None]:
    """Sends these, whatever comes of them, for as long as the good ones are sent."""

    def run() -> None:
        began = time.perf_counter()
        futures = []
        for k in range(int(rate_per_s * SECONDS)):
            if (wait_s := began + k / rate_per_s - time.perf_counter()) > 0:
                time.sleep(wait_s)
            elif time.perf_counter() - began > SECONDS:
                break
            futures.append(runtime.submit(bad))
        for future in futures:
            future.exception(timeout=60)  # the model's own, or a refusal

    return run


def kills(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """What 100 kills of workers cost: plans, and answers."""
    config = evolve.Config().replace(workers={"kind": "process", "count": 2})
    rng, wrong, answered = random.Random(0), 0, 0
    lost: Counter[str] = Counter()
    with evolve.wrap(model, (x,), slo=evolve.SLO(p99_ms=5_000.0), config=config) as runtime:
        runtime.wait_for_plans()
        with torch.no_grad():
            wanted = model(x)
        before = {plan.key for plan in runtime.parts.library.admitted()}
        killed = 0
        until_s = time.monotonic() + KILLS_S
        while killed < KILLS and time.monotonic() < until_s:
            futures = [runtime.submit(x) for _ in range(20)]
            lanes = [lane.worker for lane in runtime.parts.pool.lanes]
            alive = [worker for worker in lanes if worker is not None and worker.alive]
            if alive:
                os.kill(rng.choice(alive).pid, signal.SIGKILL)
                killed += 1
            for future in futures:
                try:
                    answer = future.result(timeout=30)
                except DeadlineExceeded:
                    continue
                except Exception as error:
                    lost[repr(error)[:80]] += 1
                else:
                    answered += 1
                    wrong += not torch.allclose(answer, wanted, rtol=1e-2, atol=1e-3)
            time.sleep(KILL_EVERY_S)
        gone = before - {plan.key for plan in runtime.parts.library.admitted()}
    return {
        "workers killed": Figure(killed, KILLS, at_most=False),
        "kills: answers": answered,
        "kills: plans lost": Figure(len(gone), 0),
        "kills: requests lost": Figure(lost.total(), 0),
        "kills: lost by": ", ".join(f"{n} × {what}" for what, n in lost.items()) or "nothing",
        "kills: wrong answers": Figure(wrong, 0),
    }


if __name__ == "__main__":
    main()
