"""The order of `evolve demo --evolve`: wrap, a burst, a day that the model evolves in, the burst
again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table

import evolve
from evolve.demo import minilm
from evolve.demo.day import BEGINS, Day, live, part
from evolve.demo.day_picture import draw
from evolve.demo.main import EXAMPLES, wait
from evolve.demo.text import sentences
from profiler.units import host_database

if TYPE_CHECKING:
    from evolve.journal.decision import Decision

__all__ = ["main"]

SLO = evolve.SLO(p99_ms=50.0, max_error=0.005, min_quality=0.9)
MINUTES = 10.0
PEAK = 1.5  # of what the plans of the model carry
BURST_S = 8.0
FIRST_PER_S = 50.0
ENOUGH = 0.9  # of what is offered: a service that answers so much in time carries more
GENERATIONS = 10  # in the day, at most
BUDGET_S = 80.0
TEXTS = 4000
PARTS = (("night, 21 to 7 h", 0, 10), ("morning, 7 to 12 h", 10, 15),
         ("afternoon, 12 to 17 h", 15, 20), ("evening, 17 to 21 h", 20, 24))  # fmt: skip


def main(
    *,
    json_path: Path | None = None,
    out_dir: Path | None = None,
    seconds: float | None = None,
    seed: int = 0,
) -> int:
    """Runs the day, prints what was decided meanwhile, saves picture, journal and figures.

    Args:
        json_path: Where the figures go as JSON; default `evolve.json` in `out_dir`.
        out_dir: Where picture and journal go; default `out/demo`.
        seconds: How long the day takes; default 600.
        seed: Of arrivals and of the order of the sentences.
    """
    console = Console()
    out = out_dir or Path("out/demo")
    out.mkdir(parents=True, exist_ok=True)
    day_s = seconds or 60.0 * MINUTES
    device = host_database().fingerprints()[0]
    console.print(f"[bold]evolve demo --evolve[/] on {device.name}, {device.cores} cores")
    with console.status("Loading MiniLM-L6 with its real weights"):
        model, tokenizer = minilm.load()
        texts = minilm.tokenize(tokenizer, sentences(TEXTS, seed=seed))
    journal = out / "evolve.jsonl"
    journal.unlink(missing_ok=True)
    config = evolve.Config().replace(
        workers={"kind": "process"}, journal={"path": journal},
        evolution={"every_s": day_s / GENERATIONS, "budget_s": BUDGET_S, "reservoir": 4096},
    )  # fmt: skip
    with evolve.wrap(model, texts[:EXAMPLES], slo=SLO, config=config) as runtime:
        wait(runtime, console, "building plans beside the serving model")
        carried_per_s = _carried_per_s(runtime, model, texts, seed)
        peak_per_s = PEAK * carried_per_s
        burst = _steady(texts, peak_per_s, seed + 1)
        before = live(runtime, model, burst)
        console.print(
            f"The model carries {carried_per_s:.0f} sentences/s within {SLO.p99_ms:g} ms. A day "
            f"of {day_s / 60:.3g} minutes follows, with {peak_per_s:.0f}/s at its peaks; every "
            f"{config.evolution.every_s:.0f} s a generation, where nobody is served meanwhile. "
            f"Smaller models must agree by {SLO.min_quality:.0%} with this one."
        )
        began_s = runtime.decisions(1)[-1].uptime_s
        day = Day.of(texts, day_s, peak_per_s, seed=seed)
        lived = live(runtime, model, day, _teller(runtime, console, day_s))
        after = live(runtime, model, burst)
        decisions = [d for d in runtime.decisions(1000) if d.kind in ("generation", "tier")]
        tiers = {tier.name: tier for tier in runtime.tiers()}
    rows = {title: part(lived, SLO.p99_ms, day_s * a / 24, day_s * b / 24) for title, a, b in PARTS}
    rows["at the peak's load, before"] = part(before, SLO.p99_ms, 0, BURST_S)
    rows["the same, afterwards"] = part(after, SLO.p99_ms, 0, BURST_S)
    console.print(_table(rows))
    for name, tier in tiers.items():
        console.print(f"{name}: {tier.state}, quality {tier.quality:.4f}; {tier.reason}")
    picture, figures = out / "evolve.png", json_path or out / "evolve.json"
    draw(picture, lived, day, SLO, [(d.uptime_s - began_s, d) for d in decisions])
    failed = sum(one.failed for one in (before, lived, after))
    record = {
        "rows": rows, "carried_per_s": carried_per_s, "peak_per_s": peak_per_s, "failed": failed,
        "tiers": {n: {"state": t.state, "quality": t.quality} for n, t in tiers.items()},
        "decisions": [_told(d) for d in decisions], "seed": seed, "day_s": day_s,
        "fingerprint": device.to_json(),
    }  # fmt: skip
    figures.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
    console.print(f"Saved {picture}, {journal} and {figures}. Next:")
    for decision in [d for d in decisions if d.kind == "generation" and d.applied][-1:]:
        console.print(f"  evolve log {journal} --explain {decision.seq}")
    return 1 if failed else 0


def _carried_per_s(
    runtime: evolve.Runtime, model: torch.nn.Module, texts: list[dict[str, torch.Tensor]], seed: int
) -> float:
    """What it answers in time at most: of twice as much again and again, until that is too much."""
    best, rate_per_s = 0.0, FIRST_PER_S
    while True:
        outcome = live(runtime, model, _steady(texts, rate_per_s, seed)).outcome
        met = outcome.met(SLO.p99_ms)
        best = max(best, float(met.sum()) / BURST_S)
        if met.mean() < ENOUGH:
            return best
        rate_per_s *= 2


def _steady(texts: list[dict[str, torch.Tensor]], rate_per_s: float, seed: int) -> Day:
    return Day.of(texts, BURST_S, rate_per_s, seed=seed, hours=(1.0,))


def _teller(runtime: evolve.Runtime, console: Console, day_s: float) -> Callable[[float], None]:
    """Prints each decision about generations and tiers once it is taken."""
    told = runtime.decisions(1)[-1].seq

    def tell(elapsed_s: float) -> None:
        nonlocal told
        minutes = int(elapsed_s / day_s * 1440) + 60 * BEGINS
        clock = f"{minutes // 60 % 24:02}:{minutes % 60:02}"
        for d in runtime.decisions(50):
            if d.seq > told and d.kind in ("generation", "tier"):
                state = d.after.get("state", "") if d.kind == "tier" else ""
                console.print(f"[bold]{clock}[/] {d.kind} {d.subject} {state}: {d.reason}")
            told = max(told, d.seq)

    return tell


def _table(rows: dict[str, dict[str, float]]) -> Table:
    table = Table(title=f"MiniLM-L6, real sentences, SLO {SLO.p99_ms:g} ms", title_justify="left")
    for column in ("", "offered/s", "in time", "p99, ms", "by smaller models", "agreement"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for title, row in rows.items():
        if row:
            table.add_row(
                title, f"{row['offered_per_s']:.0f}", f"{row['met']:.1%}", f"{row['p99_ms']:.1f}",
                f"{row['by_tiers']:.1%}", f"{row['agreement']:.4f}",
            )  # fmt: skip
    return table


def _told(d: Decision) -> dict[str, Any]:
    return {"at_s": d.uptime_s, "kind": d.kind, "subject": d.subject, "reason": d.reason,
            "applied": d.applied}  # fmt: skip
