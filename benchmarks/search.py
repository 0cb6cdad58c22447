"""What does a search for better plans cost the requests that are served meanwhile?

Windows of the same Poisson load in turn: in the one the search takes the moments in which nothing
is served, in the other it is held throughout. At most three minutes, or until it is done.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import evolve
from benchmarks.harness import encoder, publish
from evolve.demo.load import Outcome, Phase, arrivals, drive
from evolve.runtime import Runtime

RATE_PER_S = 100.0
WINDOW_S = 8.0
MOST_PAIRS = 12


def main() -> None:
    model, examples = encoder()
    latency_ms: dict[str, list[float]] = {"held": [], "searching": []}
    ratios = []
    failed = refused = 0
    with tempfile.TemporaryDirectory() as folder:
        config = evolve.Config().replace(
            plans={
                "cache_dir": Path(folder), "search": True,
                "backends": ("fused", "onnxruntime", "openvino"),
            },
            workers={"kind": "process"},
        )  # fmt: skip
        with evolve.wrap(model, examples[:24], slo=evolve.SLO(p99_ms=50.0), config=config) as it:
            while not it.progress.stage.startswith("searching"):
                time.sleep(0.05)
            it.parts.pauses.hold("benchmark")
            _load(it, examples, seed=0)  # both workers warm
            before_s, done = it.parts.pauses.running_s(), False
            for pair in range(MOST_PAIRS):
                kept: dict[str, list[float]] = {}
                for name in ("held", "searching") if pair % 2 else ("searching", "held"):
                    if name == "searching":
                        it.parts.pauses.let_go("benchmark")
                    outcome = _load(it, examples, seed=1000 + pair)
                    done = it.wait_for_plans(0)
                    it.parts.pauses.hold("benchmark")
                    answered = ~outcome.refused & ~outcome.failed
                    kept[name] = outcome.latency_ms[answered].tolist()
                    failed += int(outcome.failed.sum())
                    refused += int(outcome.refused.sum())
                    if done:
                        break
                if done:  # a window in which the search ended is not one of searching
                    break
                for name, some in kept.items():
                    latency_ms[name] += some
                ratios.append(_p99(kept["searching"]) / _p99(kept["held"]))
            ran_s = it.parts.pauses.running_s() - before_s
            told = [d.reason for d in it.decisions(200) if d.subject == "fused"]
            it.parts.pauses.let_go("benchmark")
    rows = {
        **{f"{name}: p50 ms": float(np.median(some)) for name, some in latency_ms.items()},
        **{f"{name}: p99 ms": _p99(some) for name, some in latency_ms.items()},
        "p99 searching / held": _p99(latency_ms["searching"]) / _p99(latency_ms["held"]),
        "p99 searching / held, median of the pairs": float(np.median(ratios)),
        "requests each": len(latency_ms["held"]),
        "failed": failed,
        "refused": refused,
        "search done": str(done),
        "the search ran, s": ran_s,
        "of serving, s": 2 * WINDOW_S * len(ratios),
        "found": told[-1] if told else "",
    }
    publish("search", f"{RATE_PER_S:g} requests/s while a search runs (target: p99 + 10 %)", rows)


def _load(runtime: Runtime, examples: list[dict[str, torch.Tensor]], seed: int) -> Outcome:
    sent_s = arrivals([Phase(WINDOW_S, RATE_PER_S)], seed=seed)
    return drive(lambda i: runtime.submit(**examples[i % len(examples)]), sent_s)


def _p99(some: list[float]) -> float:
    return float(np.quantile(some, 0.99))


if __name__ == "__main__":
    main()
