"""`kill -9` under load: how many requests fail when builds die, and when workers die mid-batch?"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

import evolve
from benchmarks.harness import encoder, publish
from evolve.demo.load import Outcome, Phase, arrivals, drive

SECONDS = 40.0
EVERY_S = 4.0
SLO = evolve.SLO(p99_ms=5000.0)

Victim = Literal["worker", "build"]


@dataclass(frozen=True, slots=True)
class Raid:
    """What became of a load under which processes were killed."""

    outcome: Outcome
    killed: int
    counts: dict[str, int]

    def rows(self, name: str) -> dict[str, int]:
        return {
            f"{name}: requests": len(self.outcome.sent_s),
            f"{name}: killed": self.killed,
            f"{name}: failed": int(self.outcome.failed.sum()),
            f"{name}: refused": int(self.outcome.refused.sum()),
            f"{name}: answered by the original instead": self.counts["retried"],
        }


def main() -> None:
    model, examples = encoder()
    processes = evolve.Config().replace(workers={"kind": "process"})
    with tempfile.TemporaryDirectory() as cache:
        # With nothing in the cache there are builds to kill during the whole load.
        config = processes.replace(plans={"cache_dir": Path(cache)})
        with evolve.wrap(model, examples, slo=SLO, config=config) as runtime:
            builds = raid(runtime, examples, "build", rate_per_s=60.0)
    with evolve.wrap(model, examples, slo=SLO, config=processes) as runtime:
        runtime.wait_for_plans()
        workers = raid(runtime, examples, "worker", rate_per_s=150.0)
    publish(
        "kill", "kill -9 of builds and of workers under load (target: 0 failed)",
        {**builds.rows("builds"), **workers.rows("workers")},
        seconds=SECONDS, every_s=EVERY_S,
    )  # fmt: skip


def raid(
    runtime: evolve.Runtime,
    examples: list[dict[str, torch.Tensor]],
    victim: Victim,
    *,
    rate_per_s: float,
) -> Raid:
    """Steady load while one process of a kind is killed every `EVERY_S`."""
    killed = 0
    stop = threading.Event()

    def reaper() -> None:
        nonlocal killed
        while not stop.wait(EVERY_S):
            found = [p for p in psutil.Process().children(recursive=True) if _kind(p) == victim]
            if found:
                os.kill(found[killed % len(found)].pid, signal.SIGKILL)
                killed += 1

    def submit(index: int) -> Future[Any]:
        return runtime.submit(**examples[index % len(examples)])

    thread = threading.Thread(target=reaper)
    thread.start()
    outcome = drive(submit, arrivals([Phase(SECONDS, rate_per_s)], seed=0))
    stop.set()
    thread.join()
    return Raid(outcome, killed, runtime.status()["counts"])


def _kind(process: psutil.Process) -> Victim | None:
    try:
        name, command = process.name(), process.cmdline()
    except psutil.Error:
        return None
    if "evolve.workers.child" in command:
        return "worker"
    return "build" if name == "build_job" else None


if __name__ == "__main__":
    main()
