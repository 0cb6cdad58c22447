"""Does the twin tell the truth? The same requests, live and simulated, under the same rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.harness import encoder, publish, wrapped
from evolve.demo.contenders import Stream, run_runtime
from evolve.retraining import live_twin
from evolve.runtime import Runtime
from policies.presets import DEFAULT
from sims.traces import Trace, bursty, poisson
from sims.twin import Twin

SLO_MS = 50.0
SECONDS = 12.0
CALIBRATION_S = 20.0
CASES = (("poisson", 100.0), ("poisson", 250.0), ("bursty", 150.0), ("poisson", 400.0),
         ("bursty", 300.0), ("poisson", 600.0))  # fmt: skip
FIGURES = ("p50_ms", "p99_ms", "goodput_per_s")


def main() -> None:
    model, requests = encoder()
    with wrapped(model, requests[:24], workers={"kind": "process"}) as runtime:
        rows: dict[str, Any] = {}
        details = []
        for number, (kind, rate_per_s) in enumerate(CASES):
            _warm(runtime, model, requests, seed=100 + number)
            twin = _mirror(runtime)
            trace = _trace(kind, rate_per_s, requests, seed=number)
            told = run_runtime(runtime, model, _stream(trace, requests, number), _silent)[0]
            simulated = replace(twin, traffic=trace).replay(DEFAULT)
            for name in FIGURES:
                live, sim = float(getattr(told, name)), float(getattr(simulated, name))
                rows[f"{kind} {rate_per_s:g}/s, {name}: live"] = live
                rows[f"{kind} {rate_per_s:g}/s, {name}: twin / live"] = sim / live
                details.append(
                    {"kind": kind, "rate": rate_per_s, "figure": name, "ratio": sim / live}
                )
            Console().print(
                f"{kind} {rate_per_s:g}/s: live {told.met_ratio:.1%} met, twin "
                f"{simulated.met_ratio:.1%}, overhead {twin.service.overhead_ms:.2f} ms"
            )
    worst = {
        name: max(abs(d["ratio"] - 1) for d in details if d["figure"] == name) for name in FIGURES
    }
    rows |= {f"largest difference, {name}": f"{value:.1%}" for name, value in worst.items()}
    publish("twin", "Is the twin within 10 % of the live runtime?", rows, details=details)


def _mirror(runtime: Runtime) -> Twin:
    parts = runtime.parts
    twin = live_twin(
        runtime.slo, len(parts.fleet.lanes), parts.serving.scheduler, parts.serving.tally,
        parts.library,
    )  # fmt: skip
    assert twin is not None  # it was warmed
    return twin


def _warm(runtime: Runtime, model: Any, requests: list[Any], seed: int) -> None:
    """Steady load, from which the cost table and the twin learn this moment's speed."""
    trace = _trace("poisson", 200.0, requests, seed, CALIBRATION_S)
    run_runtime(runtime, model, _stream(trace, requests, seed), _silent)


def _trace(
    kind: str, rate_per_s: float, requests: list[Any], seed: int, seconds: float = SECONDS
) -> Trace:
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
