"""How near the best sub-networks does the strategic search come, for how many measurements?

On truths of which every member is known: 3⁶ architectures by a formula with strong interactions
(`search_truth`), another for each seed, or one measured on a real model, from `--truth FILE`.
Beside it the same budget at random, by (μ + λ), by local search and by DP on the additive model.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Figure, publish
from benchmarks.search_rivals import BATCH, RIVALS
from benchmarks.search_truth import Truth, read, synthetic
from policies.strategic import Evaluation, Gene, Objectives, Rule, Space, StrategicSearch

SEEDS = 20
BUDGET = 73
STEPS = (16, 32, 48, 64, BUDGET)
REGRET_PERCENT = 1.0
GENERATION_S = 10.0
SEARCH = "NSGA-II + predictor"


def main(arguments: Sequence[str] = ()) -> int:
    """Runs all methods over all seeds, prints and saves figures and curves; always 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks search_strategic")
    parser.add_argument("--truth", type=Path, help="JSON of a truth that was measured")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"at least 10, {SEEDS} usually")
    asked = parser.parse_args(list(arguments))
    if asked.seeds < 10:
        parser.error(f"--seeds must be at least 10, got {asked.seeds}")
    one = read(asked.truth) if asked.truth else None
    truths = [one or synthetic(seed) for seed in range(asked.seeds)]
    curves = {name: _curves(name, truths) for name in RIVALS}
    rows: dict[str, Any] = {"genomes": truths[0].space.size, "measured": BUDGET}
    rows["loss beyond every additive model, %"] = 100.0 * float(
        np.median([truth.beyond_additive() for truth in truths])
    )
    for name, curve in curves.items():
        low, median, high = curve["regret_percent"][-1]
        worst, missed = curve["worst_percent"][-1][1], curve["area_percent"][-1][1]
        if name == SEARCH:
            rows[f"{name}: regret %, median"] = Figure(median, REGRET_PERCENT)
        else:
            rows[f"{name}: regret %, median"] = median
        rows[f"{name}: regret %, quartiles"] = f"{low:.2f} to {high:.2f}"
        rows[f"{name}: worst bound, area missed, %"] = f"{worst:.2f}, {missed:.2f}"
    rows["longest generation of a large space, s"] = Figure(_longest_s(), GENERATION_S)
    publish(
        "search_strategic", "Sub-networks found within a tenth of all measurements", rows,
        truth=str(asked.truth or "synthetic"), seeds=asked.seeds, batch=BATCH, steps=STEPS,
        curves=curves,
    )  # fmt: skip
    return 0


def _curves(name: str, truths: Sequence[Truth]) -> dict[str, list[list[float]]]:
    """Quartiles over the seeds after each of `STEPS` measurements, in percent."""
    runs = [RIVALS[name](truth, BUDGET, seed) for seed, truth in enumerate(truths)]
    measures = {
        "regret_percent": Truth.regret,
        "worst_percent": lambda truth, found: max(truth.regrets(found)),
        "area_percent": lambda truth, found: 1.0 - truth.hypervolume(found),
    }
    return {
        what: [
            (100.0 * np.quantile(
                [measure(truth, found[:n]) for truth, found in zip(truths, runs, strict=True)],
                (0.25, 0.5, 0.75),
            )).tolist()
            for n in STEPS
        ]
        for what, measure in measures.items()
    }  # fmt: skip


def _longest_s() -> float:
    """Seconds of the longest of eight generations of 32, in a space of 10¹² genomes."""
    search, rng = StrategicSearch(_large(), seed=0), np.random.default_rng(0)
    lengths_s = []
    for _ in range(8):
        began = time.perf_counter()
        asked = search.ask(32)
        lengths_s.append(time.perf_counter() - began)
        search.tell(
            Evaluation(
                g, Objectives(float(rng.random()), 1.0 + sum(g), 50.0 + sum(g)), search.weights
            )
            for g in asked
        )
    return max(lengths_s)


def _large() -> Space:
    """Six layers of attention, heads, FFN share and precision."""
    genes, rules = [], []
    for i in range(6):
        genes += [
            Gene(f"{i}.attention", ("none", "linear", "window", "softmax"), "attention"),
            Gene(f"{i}.heads", (0, 4, 8, 12), "heads"),
            Gene(f"{i}.ffn", (0.0, 0.25, 0.5, 0.75, 1.0), "ffn"),
            Gene(f"{i}.precision", ("mixed", "fp32"), "precision"),
        ]
        rules += [
            Rule(f"{i}.attention", "none", (f"{i}.heads",)),
            Rule(f"{i}.heads", 0, (f"{i}.attention",)),
        ]
    return Space(genes, rules)


if __name__ == "__main__":
    main()
