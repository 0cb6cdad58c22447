"""Does the twin tell the truth? The same requests, live and simulated, under the same rule.

Live they are sent twice: what the machine itself makes of the same requests a few seconds later is
the difference that no simulation can be expected to go below.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean, median
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.harness import encoder, publish, wrapped
from evolve.control_plane.retraining import live_twin
from evolve.demo.contenders import Stream, run_runtime
from evolve.runtime import Runtime
from policies.presets import DEFAULT
from sims.traces import Trace, bursty, poisson
from sims.twin import Twin

SLO_MS = 50.0
SECONDS = 10.0
CALIBRATION_S = 12.0
ROUNDS = 3
CASES = (("poisson", 100.0), ("bursty", 150.0), ("poisson", 250.0), ("bursty", 300.0),
         ("poisson", 400.0), ("poisson", 600.0))  # fmt: skip
FIGURES = ("p50_ms", "p99_ms", "goodput_per_s")


def main() -> None:
    model, requests = encoder()
    samples: dict[str, list[dict[str, float]]] = {}
    with wrapped(model, requests[:24], workers={"kind": "process"}) as runtime:
        for round_ in range(ROUNDS):
            for number, (kind, rate_per_s) in enumerate(CASES):
                seed = 100 * round_ + number
                # Other requests at the same load: what the twin learns this moment's speed from.
                before = _trace(kind, rate_per_s, requests, 1000 + seed, CALIBRATION_S)
                run_runtime(runtime, model, _stream(before, requests, 1000 + seed), _silent)
                twin = _mirror(runtime)
                trace = _trace(kind, rate_per_s, requests, seed, SECONDS)
                lives = [
                    run_runtime(runtime, model, _stream(trace, requests, seed), _silent)[0]
                    for _ in range(2)
                ]
                simulated = replace(twin, traffic=trace).replay(DEFAULT)
                found = {"delay_ms": twin.service.delay_ms, "overhead_ms": twin.service.overhead_ms}
                for name in FIGURES:
                    first, again = (float(getattr(live, name)) for live in lives)
                    found[f"{name}, live"] = fmean((first, again))
                    found[f"{name}, twin / live"] = getattr(simulated, name) / fmean((first, again))
                    found[f"{name}, live again / live"] = again / first
                case = f"{kind} {rate_per_s:g}/s"
                samples.setdefault(case, []).append(found)
                Console().print(f"{case}: {found}")
    rows: dict[str, Any] = {}
    for case, taken in samples.items():
        for name in FIGURES:
            for what in ("live", "twin / live"):
                rows[f"{case}, {name}, {what}"] = median(one[f"{name}, {what}"] for one in taken)
            rows[f"{case}, {name}, from run to run"] = _percent(
                median(abs(one[f"{name}, live again / live"] - 1.0) for one in taken)
            )
    for name in FIGURES:
        off = [abs(rows[f"{case}, {name}, twin / live"] - 1.0) for case in samples]
        rows[f"{name}: largest difference over the cases"] = _percent(max(off))
    publish("twin", "Is the twin within 10 % of the live runtime?", rows, samples=samples)


def _percent(ratio: float) -> str:
    return f"{ratio:.1%}"


def _mirror(runtime: Runtime) -> Twin:
    parts = runtime.parts
    twin = live_twin(
        runtime.slo, len(parts.pool.lanes), parts.serving.scheduler, parts.serving.stats,
        parts.library,
    )  # fmt: skip
    assert twin is not None  # it was warmed
    return twin


def _trace(kind: str, rate_per_s: float, requests: list[Any], seed: int, seconds: float) -> Trace:
    made = (
        poisson(rate_per_s, seconds, seed=seed)
        if kind == "poisson"
        else bursty(rate_per_s, seconds, cv2=4.0, seed=seed)
    )
    lengths = [
        requests[(i + 97 * seed) % len(requests)]["input_ids"].shape[1] for i in range(len(made))
    ]
    return replace(made, lengths=np.array(lengths, np.int32))


def _stream(trace: Trace, requests: list[Any], seed: int) -> Stream:
    some = [requests[(i + 97 * seed) % len(requests)] for i in range(len(trace))]
    seconds = trace.seconds
    return Stream(some, trace.arrivals_s, (0.0, seconds), seconds, SLO_MS, max(1, len(trace) // 20))


def _silent(elapsed_s: float) -> None:
    """No progress bar in a benchmark."""


if __name__ == "__main__":
    main()
