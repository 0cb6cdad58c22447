"""`kill -9` of workers and of build processes under load: how many requests fail?"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil

import evolve
from benchmarks.harness import encoder, publish
from evolve.demo.load import Phase, arrivals, drive

SECONDS = 40.0
RATE_PER_S = 60.0
EVERY_S = 2.0


def main() -> None:
    model, examples = encoder()
    killed = {"workers": 0, "builds": 0}
    stop = threading.Event()
    with tempfile.TemporaryDirectory() as cache:
        config = evolve.Config().replace(
            workers={"kind": "process"}, plans={"cache_dir": Path(cache)}
        )
        # Builds go on during the whole load, so that there are some to kill.
        with evolve.wrap(model, examples, slo=evolve.SLO(p99_ms=5000.0), config=config) as runtime:

            def reaper() -> None:
                while not stop.wait(EVERY_S):
                    for process in psutil.Process().children(recursive=True):
                        kind = _kind(process)
                        if kind is not None and killed[kind] <= min(killed.values()):
                            os.kill(process.pid, signal.SIGKILL)
                            killed[kind] += 1
                            break

            def submit(index: int) -> Future[Any]:
                return runtime.submit(**examples[index % len(examples)])

            thread = threading.Thread(target=reaper)
            thread.start()
            outcome = drive(submit, arrivals([Phase(SECONDS, RATE_PER_S)], seed=0))
            stop.set()
            thread.join()
            counts = runtime.status()["counts"]
    publish(
        "kill", "kill -9 of workers and builds under load (target: 0 failed)",
        {
            "requests": len(outcome.sent_s),
            "workers killed": killed["workers"],
            "builds killed": killed["builds"],
            "failed": int(outcome.failed.sum()),
            "refused": int(outcome.refused.sum()),
            "retried on the original": counts["retried"],
        },
        seconds=SECONDS, rate_per_s=RATE_PER_S,
    )  # fmt: skip


def _kind(process: psutil.Process) -> str | None:
    try:
        command = process.cmdline()
    except psutil.Error:
        return None
    if "evolve.workers.child" in command:
        return "workers"
    return "builds" if "supernet.build" in command else None


if __name__ == "__main__":
    main()
