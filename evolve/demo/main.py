"""The order of the demo: plain loop, wrap and build, evolve, best static setting, report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import evolve
from evolve.demo import minilm, report
from evolve.demo.contenders import Figures, Stream, run_plain, run_runtime
from evolve.demo.load import Outcome, Phase, arrivals
from evolve.demo.plain import PlainLoop
from evolve.demo.static import Layout, StaticSetting, contenders, sweep
from evolve.demo.text import sentences
from profiler.units import host_database
from supernet.plans import Plan

__all__ = ["main", "wait"]

SLO = evolve.SLO(p99_ms=50.0, max_error=0.005)
SECONDS = 12.0
CALM = 0.5  # of what the plain loop carries
SURGE = 5.0
EXAMPLES = 24  # sentences that `wrap` learns from


def main(
    *,
    json_path: Path | None = None,
    out_dir: Path | None = None,
    seconds: float | None = None,
    seed: int = 0,
) -> int:
    """Runs the demo, prints the comparison and saves plot, journal and figures.

    Args:
        json_path: Where the figures go as JSON; default `figures.json` in `out_dir`.
        out_dir: Where plot and journal go; default `out/demo`.
        seconds: Length of the stream for each contender; default 12.
        seed: Of arrivals and of the order of the sentences.
    """
    console = Console()
    out = out_dir or Path("out/demo")
    out.mkdir(parents=True, exist_ok=True)
    with console.status("Looking at this machine (measured once, then remembered)"):
        device = host_database().fingerprints()[0]
    console.print(f"[bold]evolve demo[/] on {device.name}, {device.cores} cores")
    with console.status("Loading MiniLM-L6 with its real weights"):
        model, tokenizer = minilm.load()
    stream, examples = _stream(model, tokenizer, seconds or SECONDS, seed, console)
    results: dict[str, Figures] = {}
    outcomes: dict[str, Outcome] = {}
    with _bar(console, "plain PyTorch loop", stream.seconds) as on_second:
        results["plain"], outcomes["plain"] = run_plain(model, stream, on_second)

    config = evolve.Config().replace(workers={"kind": "process"})
    journal = out / "journal.jsonl"
    journal.unlink(missing_ok=True)
    with evolve.wrap(
        model, examples, slo=SLO, config=config.replace(journal={"path": journal})
    ) as runtime:
        wait(runtime, console, "building plans beside the serving model")
        plans = runtime.plans()
        _print_plans(runtime, console)
        began_s = runtime.decisions(1)[-1].uptime_s
        with _bar(console, "evolve", stream.seconds) as on_second:
            results["evolve"], outcomes["evolve"] = run_runtime(runtime, model, stream, on_second)
        decisions = runtime.decisions(1000)
        slowdown = runtime.parts.serving.scheduler.tables.slowdowns[-1]
    setting = _static_setting(model, examples, config, plans, slowdown, stream, console)
    with evolve.wrap(
        model, examples, slo=SLO, config=setting.config(config), policy=setting.policy()
    ) as runtime:
        wait(runtime, console, "loading the static setting")
        with _bar(console, "best static setting", stream.seconds) as on_second:
            results["static"], outcomes["static"] = run_runtime(runtime, model, stream, on_second)

    ordered = {name: results[name] for name in ("plain", "static", "evolve")}
    console.print(report.figures_table(ordered, stream))
    console.print(f"static: {setting.describe()}")
    picture, figures = out / "demo.png", json_path or out / "figures.json"
    report.plot(picture, outcomes, stream, decisions, began_s)
    report.write_json(
        figures, ordered, stream=stream, device=device,
        static_setting=setting.describe(), seed=seed,
    )  # fmt: skip
    console.print(f"Saved {picture}, {journal} and {figures}. Next:")
    console.print(f"  evolve log {journal} --tail 5")
    busiest = max(decisions, key=lambda decision: decision.seen.get("offered_per_s", -1.0))
    console.print(f"  evolve log {journal} --explain {busiest.seq}")
    console.print("  evolve profile")
    return 1 if any(figures.failed for figures in ordered.values()) else 0


def _stream(
    model: torch.nn.Module, tokenizer: Any, seconds: float, seed: int, console: Console
) -> tuple[Stream, list[dict[str, torch.Tensor]]]:
    """The stream, sized by what the plain loop carries here, and examples to wrap with."""
    examples = minilm.tokenize(tokenizer, sentences(EXAMPLES, seed=seed + 1))
    # No spinner here: its thread would take time from the two that the plain loop computes with.
    console.print("Timing the plain loop ...")
    loop = PlainLoop(model, examples, length_name="input_ids", slo_ms=SLO.p99_ms)
    loop.close()
    calm_s, surge_s = seconds * 0.2, seconds * 0.6
    sent_s = arrivals(
        [
            Phase(calm_s, CALM * loop.capacity_per_s),
            Phase(surge_s, SURGE * loop.capacity_per_s),
            Phase(calm_s, CALM * loop.capacity_per_s),
        ],
        seed=seed,
    )
    console.print(
        f"The plain loop carries about {loop.capacity_per_s:.0f} sentences/s. The stream offers "
        f"{CALM:g} × that, then a surge of {SURGE:g} ×, then {CALM:g} × again: "
        f"{len(sent_s)} requests in {seconds:g} s, each due within {SLO.p99_ms:g} ms."
    )
    texts = sentences(len(sent_s), seed=seed)
    requests = minilm.tokenize(tokenizer, texts)
    keep_every = max(1, len(sent_s) // 200)
    return Stream(
        requests, sent_s, (calm_s, calm_s + surge_s), seconds, SLO.p99_ms, keep_every
    ), examples


def _static_setting(
    model: torch.nn.Module,
    examples: list[dict[str, torch.Tensor]],
    config: evolve.Config,
    plans: Sequence[Plan],
    slowdown: float,
    stream: Stream,
    console: Console,
) -> StaticSetting:
    """Measures the plans worth it with all cores in one worker too, then sweeps; `slowdown` is what
    the surge just seen has shown of workers beside each other."""
    cores = host_database().fingerprints()[0].cores
    narrow = contenders([plan for plan in plans if plan.state.may_serve])
    wide = config.replace(
        workers={"count": 1, "threads": cores},
        plans={"only": tuple(replace(p.spec, threads=cores).key for p in narrow)},
    )
    with evolve.wrap(model, examples, slo=SLO, config=wide) as runtime:
        wait(runtime, console, f"timing the plans with {cores} threads")
        layouts = [
            Layout(cores, 1, narrow, slowdown),
            Layout(1, cores, [p for p in runtime.plans() if p.state.may_serve]),
        ]
        grid = runtime.grid
    with console.status("Sweeping the static settings in the simulator"):
        return sweep(layouts, grid, stream)[0]


def wait(runtime: evolve.Runtime, console: Console, title: str) -> None:
    """A bar until every plan was tried."""
    with _progress(console) as progress:
        task = progress.add_task(title, total=1.0)
        while not runtime.wait_for_plans(0.1):
            now = runtime.progress
            if now is not None:
                done = (now.done + now.share) / max(now.total, 1)
                progress.update(
                    task, completed=done, description=f"{title}: {now.plan} {now.stage}"
                )
        progress.update(task, completed=1.0, description=title)


def _print_plans(runtime: evolve.Runtime, console: Console) -> None:
    table = Table(title="Plans; ms for 1 and 8 of the shortest sentences", title_justify="left")
    for column in ("plan", "state", "error", "MiB", "ms × 1", "ms × 8"):
        table.add_column(column, no_wrap=True)
    for plan in runtime.plans():
        error = "" if plan.error is None else f"{plan.error:.1e}"
        costs = {shape.rows: ms for shape, ms in sorted(plan.costs_ms.items(), reverse=True)}
        times = [f"{costs[rows]:.1f}" if rows in costs else "" for rows in (1, 8)]
        table.add_row(plan.spec.title, plan.state.value, error, f"{plan.memory_mib:.0f}", *times)
    console.print(table)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        refresh_per_second=2,
    )


@contextmanager
def _bar(console: Console, title: str, seconds: float) -> Iterator[Callable[[float], None]]:
    """A bar over the stream's seconds; yields what to call with the elapsed time."""
    with _progress(console) as progress:
        task = progress.add_task(title, total=seconds)
        yield lambda elapsed_s: progress.update(task, completed=elapsed_s)
        progress.update(task, completed=seconds)
