"""Goodput at the surge, and capacity: the plain loop, the best static setting, evolve.

The static setting is found by a sweep in the simulator over the measured costs of the very same
plans; the best few then run live and the best of those is taken. Batches form in order of arrival
as in common servers; a second static row groups like lengths, to show what that alone is worth.
All contenders run in turn, several times; medians and their ratios are reported.

Capacity is the highest steady Poisson rate at which at least 99 % of the requests offered are
answered within the SLO, by bisection.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from rich.console import Console

import evolve
from benchmarks.harness import publish
from evolve.demo import minilm
from evolve.demo.contenders import Figures, Stream, run_plain, run_runtime
from evolve.demo.load import Phase, arrivals
from evolve.demo.plain import PlainLoop
from evolve.demo.static import Layout, StaticSetting, sweep
from evolve.demo.text import sentences
from profiler.fingerprint import fingerprint
from supernet.plans import PlanState

SLO = evolve.SLO(p99_ms=50.0, max_error=0.005)
ROUNDS = 5
SECONDS = 10.0
SURGE = 5.0  # of what the plain loop carries
FINALISTS = 3
STEADY_S = 8.0
STEPS = 6

Contender = Callable[[Stream], Figures]


def main() -> None:
    console = Console()
    model, tokenizer = minilm.load()
    examples = minilm.tokenize(tokenizer, sentences(24, seed=1))
    requests = minilm.tokenize(tokenizer, sentences(6000, seed=0))
    loop = PlainLoop(model, examples, length_name="input_ids", slo_ms=SLO.p99_ms)
    loop.close()
    plain_per_s = loop.capacity_per_s

    def stream(rate_per_s: float, seconds: float, seed: int, kept: int = 50) -> Stream:
        sent_s = arrivals([Phase(seconds, rate_per_s)], seed=seed)
        some = [requests[(i + 97 * seed) % len(requests)] for i in range(len(sent_s))]
        every = max(1, len(sent_s) // kept)
        return Stream(some, sent_s, (0.0, seconds), seconds, SLO.p99_ms, every)

    with ExitStack() as stack:
        base = evolve.Config().replace(workers={"kind": "process"})

        def serve(config: evolve.Config, **options: Any) -> evolve.Runtime:
            runtime = stack.enter_context(
                evolve.wrap(model, examples, slo=SLO, config=config, **options)
            )
            runtime.wait_for_plans()
            return runtime

        ours = serve(base)
        cores = fingerprint("cpu", measure=False).cores
        wide = serve(base.replace(workers={"count": 1, "threads": cores}))
        layouts = [Layout(cores, 1, _admitted(ours)), Layout(1, cores, _admitted(wide))]
        trial = stream(SURGE * plain_per_s, SECONDS, seed=100)

        def contender(runtime: evolve.Runtime) -> Contender:
            return lambda load: run_runtime(runtime, model, load, _silent)[0]

        contenders: dict[str, Contender] = {
            "plain": lambda load: run_plain(model, load, _silent)[0],
            "evolve": contender(ours),
        }
        settings: dict[str, StaticSetting] = {}
        for name, spread in (("static", math.inf), ("static, grouped", 1.5)):
            best: tuple[float, StaticSetting, evolve.Runtime] | None = None
            for setting in _finalists(sweep(layouts, ours.grid, trial, spread=spread)):
                runtime = serve(setting.config(base), policy=setting.policy())
                goodput = contender(runtime)(trial).goodput_per_s
                console.print(f"{name}: {setting.describe()}: {goodput:.0f}/s")
                if best is None or goodput > best[0]:
                    if best is not None:
                        best[2].close()
                    best = (goodput, setting, runtime)
                else:
                    runtime.close()
            assert best is not None
            settings[name] = best[1]
            contenders[name] = contender(best[2])

        surges: dict[str, list[Figures]] = {name: [] for name in contenders}
        for round_ in range(ROUNDS):
            load = stream(SURGE * plain_per_s, SECONDS, seed=round_)
            for name, run in contenders.items():
                surges[name].append(run(load))
                console.print(f"round {round_ + 1}, {name}: {surges[name][-1].goodput_per_s:.0f}/s")
        capacities = {
            name: _capacity(lambda rate, run=run: run(stream(rate, STEADY_S, seed=7)), plain_per_s)
            for name, run in contenders.items()
        }
    _publish(surges, capacities, settings, plain_per_s)


def _silent(elapsed_s: float) -> None:
    """No progress bar in a benchmark."""


def _admitted(runtime: evolve.Runtime) -> list[Any]:
    return [plan for plan in runtime.plans() if plan.state is PlanState.ADMITTED]


def _finalists(found: list[StaticSetting]) -> list[StaticSetting]:
    """The best few that differ in more than the strictness of refusal."""
    chosen: dict[tuple[Any, ...], StaticSetting] = {}
    for setting in found:
        plan, params = setting.plan, setting.params
        chosen.setdefault((plan.key, params.max_rows, params.wait_ms, setting.workers), setting)
    return list(chosen.values())[:FINALISTS]


def _capacity(run: Callable[[float], Figures], plain_per_s: float) -> float:
    low, high = 0.1 * plain_per_s, 8.0 * plain_per_s
    for _ in range(STEPS):
        middle = math.sqrt(low * high)
        if run(middle).met_ratio >= 0.99:
            low = middle
        else:
            high = middle
    return low


def _publish(
    surges: dict[str, list[Figures]],
    capacities: dict[str, float],
    settings: dict[str, StaticSetting],
    plain_per_s: float,
) -> None:
    def median(name: str, field: str) -> float:
        return statistics.median(getattr(figures, field) for figures in surges[name])

    def ratio(name: str) -> float:
        pairs = zip(surges["evolve"], surges[name], strict=True)
        return statistics.median(a.goodput_per_s / b.goodput_per_s for a, b in pairs)

    rows: dict[str, Any] = {"plain loop carries, by calibration /s": plain_per_s}
    for name in surges:
        rows[f"{name}: goodput at the surge /s"] = median(name, "goodput_per_s")
        rows[f"{name}: p99 ms"] = median(name, "p99_ms")
        rows[f"{name}: met of offered"] = median(name, "met_ratio")
        rows[f"{name}: error"] = max(figures.error for figures in surges[name])
        rows[f"{name}: failed"] = sum(figures.failed for figures in surges[name])
        rows[f"{name}: capacity at 99 % met /s"] = capacities[name]
    for name in ("plain", "static", "static, grouped"):
        rows[f"evolve / {name}: goodput"] = ratio(name)
        rows[f"evolve / {name}: capacity"] = capacities["evolve"] / capacities[name]
    publish(
        "capacity", "Goodput at the surge and capacity (targets: 3 × plain, 1.1 × static)", rows,
        rounds=ROUNDS, surge_of_plain=SURGE, seconds=SECONDS, slo_ms=SLO.p99_ms,
        static={name: setting.describe() for name, setting in settings.items()},
        samples={
            name: [replace(f, memory_mib=round(f.memory_mib)).to_json() for f in runs]
            for name, runs in surges.items()
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
