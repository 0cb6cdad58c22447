"""How long does asking for a virtual unit take, once it is known?"""

from __future__ import annotations

from benchmarks.harness import interleaved, publish, summary
from profiler.units import units


def main() -> None:
    units()
    times = summary(interleaved({"units": units}, 20_000)["units"])
    publish(
        "units", "Virtual unit look-up, warm (target: < 50 µs)",
        {"median µs": times["median"], "p99 µs": times["p99"], "max µs": times["max"]},
        repeats=times["n"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
