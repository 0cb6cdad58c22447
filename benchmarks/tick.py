"""How long does one tick take to see, choose, swap and record, under load?"""

from __future__ import annotations

import threading
import time

import numpy as np

from benchmarks.harness import encoder, publish, summary, wrapped

TICKS = 2000


def main() -> None:
    model, examples = encoder()
    with wrapped(model, examples, workers={"kind": "process"}, tick_ms=60_000.0) as runtime:
        stop = threading.Event()

        def load() -> None:
            rng = np.random.default_rng(0)
            while not stop.wait(float(rng.exponential(1 / 150))):
                runtime.submit(**examples[int(rng.integers(len(examples)))])

        sender = threading.Thread(target=load)
        sender.start()
        wall_us, cpu_us = np.empty(TICKS), np.empty(TICKS)
        for i in range(TICKS):
            began, began_cpu = time.perf_counter(), time.thread_time()
            runtime.parts.controller.tick()
            wall_us[i] = (time.perf_counter() - began) * 1e6
            cpu_us[i] = (time.thread_time() - began_cpu) * 1e6
            time.sleep(0.005)  # ticks apart, so that requests get their turn between them
        stop.set()
        sender.join()
    wall, cpu = summary(wall_us), summary(cpu_us)
    publish(
        "tick", "One tick under 150 requests/s (target: < 1 ms at p99)",
        {
            "processor time, median µs": cpu["median"],
            "processor time, p99 µs": cpu["p99"],
            "on the wall, median µs": wall["median"],
            "on the wall, p99 µs": wall["p99"],
        },
        repeats=TICKS, policy="rule",
    )  # fmt: skip


if __name__ == "__main__":
    main()
