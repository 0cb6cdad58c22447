"""Goodput within the SLO while several times the plain loop's load is offered."""

from __future__ import annotations

import statistics
from typing import Any

from rich.console import Console

from benchmarks.contest import SLO, contest
from benchmarks.harness import publish
from evolve.demo.contenders import Figures

ROUNDS = 3
SECONDS = 10.0
SURGE = 5.0  # of what the plain loop carries


def main() -> None:
    with contest(SURGE, SECONDS) as field:
        runs: dict[str, list[Figures]] = {name: [] for name in field.contenders}
        for round_ in range(ROUNDS):
            load = field.stream(SURGE * field.plain_per_s, SECONDS, seed=round_)
            for name, run in field.contenders.items():
                runs[name].append(run(load))
                goodput = runs[name][-1].goodput_per_s
                Console().print(f"round {round_ + 1}, {name}: {goodput:.0f}/s")
    rows: dict[str, Any] = {
        "plain loop carries, undisturbed /s": field.plain_per_s,
        "offered /s": SURGE * field.plain_per_s,
    }
    for name, figures in runs.items():
        rows[f"{name}: goodput /s"] = statistics.median(f.goodput_per_s for f in figures)
        rows[f"{name}: p99 ms"] = statistics.median(f.p99_ms for f in figures)
        rows[f"{name}: padded tokens"] = statistics.median(f.padded_token_ratio for f in figures)
        rows[f"{name}: largest error"] = max(f.error for f in figures)
        rows[f"{name}: failed"] = sum(f.failed for f in figures)
    for name in runs:
        if name != "evolve":
            pairs = zip(runs["evolve"], runs[name], strict=True)
            rows[f"evolve / {name}"] = statistics.median(
                ours.goodput_per_s / theirs.goodput_per_s for ours, theirs in pairs
            )
    evolve_per_s = rows["evolve: goodput /s"]
    rows["evolve / what plain carries undisturbed"] = evolve_per_s / field.plain_per_s
    publish(
        "surge", "Goodput at the surge (targets: 3 × plain, 1.1 × static)", rows,
        rounds=ROUNDS, seconds=SECONDS, slo_ms=SLO.p99_ms, static=field.settings,
        samples={name: [f.to_json() for f in figures] for name, figures in runs.items()},
    )  # fmt: skip


if __name__ == "__main__":
    main()
