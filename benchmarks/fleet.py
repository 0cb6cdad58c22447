"""Simulated fleets: a surge of 50 times the load, and unlike devices at 95 % of their capacity.

Ten seeds each, the same arrivals for everybody; means with 95 % intervals (Student's t).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import publish
from policies.presets import DEFAULT, PRESETS
from sims.reference import reference_service
from sims.scenarios.mixed_fleet import (
    FleetResult,
    mixed_fleet,
    own_per_s,
    partitioned,
    pooled,
    service,
)
from sims.scenarios.surge import Surge, SurgeResult, drivers, fleet_for, measure, play
from sims.service import PLACEMENTS, Disturbances, noise
from sims.simulation import simulate
from sims.traces import bursty, poisson

SEEDS = range(10)
STUDENT = 2.262  # 97.5 % quantile at 9 degrees of freedom
LOAD = 0.95
SECONDS = 20.0
PATIENCE = (10.0, 2.0)  # SLO over the slowest unit's latency of one request
TRAFFIC = {"poisson": 1.0, "gamma-8": 8.0}  # squared coefficient of variation of the gaps
SOME = ("default", "published", "lenient", "strict", "hold", "small")


def interval(values: Sequence[float], scale: float = 1.0, digits: int = 1) -> str:
    """Mean ± 95 % interval of those that are finite, and how many of them are not."""
    finite = np.array([value for value in values if math.isfinite(value)]) * scale
    never = len(values) - finite.size
    if finite.size == 0:
        return "never"
    told = f"{finite.mean():.{digits}f}"
    if finite.size == len(SEEDS):
        told += f" ± {STUDENT * finite.std(ddof=1) / math.sqrt(finite.size):.{digits}f}"
    return told + (f" ({never} never)" if never else "")


def surges() -> tuple[dict[str, list[SurgeResult]], dict[str, Any]]:
    """Every driver on every seed, and the fleet they share."""
    shape, base = Surge(), reference_service()
    workers = fleet_for(base, shape.peak_per_s, SECONDS, range(5))
    needed = fleet_for(base, shape.base_per_s, 60.0, range(5))
    fleet = replace(base, workers=workers)
    carries = measure(fleet, shape.peak_per_s, SECONDS, seed=0)
    steady = [
        simulate(fleet, poisson(shape.peak_per_s, SECONDS, seed=seed), DEFAULT).met_ratio
        for seed in SEEDS
    ]
    runs = {
        driver.name: [play(fleet, shape, driver, seed=seed, needed=needed) for seed in SEEDS]
        for driver in drivers(carries)
    }
    told = {"workers": workers, "needed at the base": needed, "steady": steady}
    return runs, told | {"shape": asdict(shape), "carries": asdict(carries)}


def mixed(cv2: float, patience: float) -> dict[str, list[FleetResult]]:
    """Every way of placing and a few settings on every seed of one kind of traffic."""
    runs: dict[str, list[FleetResult]] = {}
    presets = [preset for preset in PRESETS if preset.name in SOME]
    for seed in SEEDS:
        hidden = Disturbances(noise(np.random.default_rng(seed), scatter=0.1, spike_share=0.01))
        fleet = service(mixed_fleet(), slo_times=patience, hidden=hidden)
        rate = LOAD * float(own_per_s(fleet).sum())
        trace = bursty(rate, SECONDS, cv2=cv2, seed=seed, lengths=np.ones(1, np.int32))
        found = [partitioned(fleet, trace, DEFAULT, seed=seed)]
        for placement in PLACEMENTS:
            placed = replace(fleet, units=replace(fleet.units, placement=placement))
            settings = presets if placement == "order" else [DEFAULT]
            found += [pooled(placed, trace, setting) for setting in settings]
        for result in found:
            runs.setdefault(result.name, []).append(result)
    return runs


def show(title: str, runs: dict[str, list[Any]], columns: dict[str, Callable[..., str]]) -> None:
    """One row per driver, one column per figure."""
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for head in columns:
        table.add_column(head, justify="right")
    for name, results in runs.items():
        table.add_row(name, *(tell(results) for tell in columns.values()))
    console = Console()
    Console(width=None if console.is_terminal else 170).print(table)


def of(name: str, scale: float = 1.0, digits: int = 1) -> Callable[[list[Any]], str]:
    """A column: one figure of every result."""
    return lambda results: interval([getattr(r, name) for r in results], scale, digits)


SURGE = {
    "first second %": of("first_second", 100), "surge %": of("surge", 100),
    "outside %": of("outside", 100, 2), "over 2 s for s": of("slow_s"),
    "absorbed s": of("absorbed_s"), "released s": of("released_s"),
    "idle worker s": of("idle_worker_s", 1, 0), "most used": of("used"),
}  # fmt: skip
MIXED = {
    "met %": of("met", 100, 2), "busy, mean %": of("busy_mean", 100, 2),
    "busy, max - min": of("busy_spread", 100, 2), "busy, CV %": of("busy_cv", 100, 2),
    "work, mean %": of("work_mean", 100, 2), "work, max - min": of("work_spread", 100, 2),
    "had a choice %": of("choice", 100, 2),
}  # fmt: skip


def main() -> None:
    surged, told = surges()
    show(
        f"100 -> 5000/s for 120 s, {told['workers']} workers (steady 5000/s: "
        f"{interval(told['steady'], 100)} %)", surged, SURGE,
    )  # fmt: skip
    fleets = {
        f"{name}, SLO x {patience:g}": mixed(cv2, patience)
        for patience in PATIENCE
        for name, cv2 in TRAFFIC.items()
    }
    for name, runs in fleets.items():
        show(f"Mixed fleet at load {LOAD}, {name}", runs, MIXED)
    calm = fleets["poisson, SLO x 10"]["default, order"]
    publish(
        "fleet", "Simulated fleets (targets: < 30 s, < 10 s; >= 90 %, < 5, >= 99 %)",
        {
            "surge: first second met, %": interval([r.first_second for r in surged["evolve"]], 100),
            "surge: longest time over 2 s, s": max(r.slow_s for r in surged["evolve"]),
            "surge: idle capacity after, s": max(r.released_s for r in surged["evolve"]),
            "mixed: utilisation, mean %": interval([r.busy_mean for r in calm], 100, 2),
            "mixed: spread, points": interval([r.busy_spread for r in calm], 100, 2),
            "mixed: in time %": interval([r.met for r in calm], 100, 2),
            "mixed: share of own capacity delivered, mean %": interval(
                [r.work_mean for r in calm], 100, 2
            ),
        },
        seeds=list(SEEDS), load=LOAD, seconds=SECONDS, fleet=told,
        surge={name: [asdict(r) for r in runs] for name, runs in surged.items()},
        mixed={
            name: {
                key: [asdict(r) | {"busy": r.busy.tolist(), "work": r.work.tolist()} for r in rows]
                for key, rows in runs.items()
            }
            for name, runs in fleets.items()
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
