"""Policies on a suite of regimes and loads: the table, the JSON, and the order to draw it."""

from __future__ import annotations

import json as json_
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from evolve.cli.plain import say

if TYPE_CHECKING:
    from sims.evaluation.entrants import Entrant
    from sims.evaluation.results import ComparedPolicy, Comparison
    from sims.evaluation.statistics import ConfidenceInterval
    from sims.evaluation.suite import Suite
    from sims.service import Service

__all__ = ["SUITES", "Asked", "run_suite"]

SUITES = ("six-tiers",)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is compared on what; None: all there is."""

    policies: tuple[str, ...]
    regimes: tuple[str, ...] | None
    loads: tuple[float, ...] | None
    seconds: float
    seeds: int
    training_seeds: int
    workers: int
    slo_ms: float
    data: Path | None


def run_suite(name: str, asked: Asked, *, out: Path | None, plot: bool, json: bool) -> None:
    """Compare, then print; write `out`/results.json, and with `plot` the pictures beside it.

    Whatever is asked for wrongly is a BadParameter before anything runs.
    """
    if name not in SUITES:
        raise typer.BadParameter(
            f"suite must be {', '.join(SUITES)}, got {name!r}", param_hint="--suite"
        )
    if plot and out is None:
        raise typer.BadParameter("--plot needs a folder to draw into; add --out")
    if out is not None and out.exists() and not out.is_dir():
        raise typer.BadParameter(f"must be a folder, got the file {out}", param_hint="--out")
    from sims.evaluation.suite import six_tiers

    service = six_tiers(workers=asked.workers, slo_ms=asked.slo_ms)
    entrants = _entrants(asked.policies, service)
    cells, left_out = _suite(asked, service)
    if plot:
        from evolve.journal.plot import matplotlib

        matplotlib()  # whether it is there, before the minutes that follow
    found = _compared(cells, entrants, asked)
    told = {"suite": name, "seconds": asked.seconds, "left_out": left_out, **found.to_json()}
    files = _written(found, told, asked, out, plot=plot) if out is not None else []
    if json:
        say(json_.dumps(told, indent=2))
        return
    _print(found, name, asked, left_out)
    for file in files:
        say(f"written: {file}")


def _entrants(names: Sequence[str], service: Service) -> list[Entrant]:
    from policies.tactical import PolicyFileError
    from sims.evaluation.entrants import entrant

    found = []
    for name in names:
        try:
            found.append(entrant(name, service))
        except PolicyFileError:  # a folder that holds none: it failed, the usage is right
            raise
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--policies") from None
    return found


def _suite(asked: Asked, service: Service) -> tuple[Suite, list[str]]:
    """The suite as asked for, and which of its regimes are left out for want of data."""
    from sims.evaluation.suite import LOADS, RECORDED, suite

    wanted = asked.regimes
    recorded = wanted is None or any(name in RECORDED for name in wanted)
    if wanted is not None and recorded and asked.data is None:
        raise typer.BadParameter(
            f"{', '.join(name for name in wanted if name in RECORDED)} must have recorded traces; "
            "name their folder by --data or EVOLVE_DATA",
            param_hint="--regimes",
        )
    whole = suite(service, seconds=asked.seconds, data=asked.data if recorded else None)
    known = (*whole.regimes, *(name for name in RECORDED if name not in whole.regimes))
    for name in wanted or ():
        if name not in known:
            raise typer.BadParameter(
                f"regime must be {', '.join(known)}, got {name!r}", param_hint="--regimes"
            )
    regimes = {name: whole.regimes[name] for name in wanted or whole.regimes}
    left_out = list(RECORDED) if wanted is None and asked.data is None else []
    return replace(whole, regimes=regimes, loads=asked.loads or LOADS), left_out


def _compared(suite: Suite, entrants: Sequence[Entrant], asked: Asked) -> Comparison:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from evolve.cli.screen import screen
    from sims.evaluation.compare import compare

    columns = (TextColumn("Simulating"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen(stderr=True), transient=True) as bar:
        task = bar.add_task("Simulating", total=None)
        return compare(
            suite,
            entrants,
            asked.seeds,
            training_seeds=asked.training_seeds,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _written(
    found: Comparison, told: dict[str, Any], asked: Asked, out: Path, *, plot: bool
) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    results = out / "results.json"
    results.write_text(json_.dumps(told, indent=1) + "\n", encoding="utf-8")
    if not plot:
        return [results]
    from evolve.cli.simulations.pictures import draw

    return [results, *draw(found, asked.policies, out)]


def _print(found: Comparison, name: str, asked: Asked, left_out: Sequence[str]) -> None:
    from rich.table import Table

    from evolve.cli.screen import screen

    table = Table(
        title=f"{name}: {_counted(len(found.regimes), 'regime')} x "
        f"{_counted(len(found.suite.loads), 'load')}, {_counted(asked.seeds, 'seed')} of "
        f"{asked.seconds:g} s, {_counted(asked.workers, 'worker')}, {asked.slo_ms:g} ms",
        title_justify="left",
        caption=_notes(found, asked, left_out),
        caption_justify="left",
    )
    table.add_column("policy", overflow="fold")
    for title in ("utility", "points over rule", "met", "worst cell", "regret"):
        table.add_column(title, justify="right")
    for row in found.rows:
        table.add_row(*_line(found, row))
    table.add_section()
    table.add_row("clairvoyant bound", f"{found.bound.mean():.4f}", "", "", "", "0.00")
    console = screen()
    if not console.is_terminal:  # in a file or a pipe 80 columns would break every line
        console.width = max(console.width, 120)
    console.print(table)


def _line(found: Comparison, row: ComparedPolicy) -> tuple[str, ...]:
    utility, regret = found.utility(row), found.regret(row)
    points, cell = found.worst(row)
    first = row is found.rows[0]
    half = f" ± {utility.half:.4f}" if math.isfinite(utility.half) else ""
    return (
        row.label,
        f"{utility.mean:.4f}{half}",
        "–" if first else _signed(found.difference(row)),
        f"{row.met.mean():.1%}",
        "–" if first else f"{points:+.2f} {cell.regime} {cell.load:g}",
        f"{regret.mean:.2f}",
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _signed(points: ConfidenceInterval) -> str:
    if not math.isfinite(points.half):
        return f"{points.mean:+.2f}"
    return f"{points.mean:+.2f} [{points.low:+.2f}, {points.high:+.2f}]".replace("[", "\\[")


def _notes(found: Comparison, asked: Asked, left_out: Sequence[str]) -> str:
    spread = (
        f"± and \\[]: 95 % intervals, Student's t over {asked.seeds} seeds, each averaged over all "
        "cells first; differences and regret paired."
        if asked.seeds > 1
        else "One seed: no intervals."
    )
    lines = [
        "utility: summed accuracy of the answers in time over all requests offered; points: of "
        f"100 x utility. {spread}",
    ]
    how = {row.how for row in found.rows}
    if "tuned" in how:
        lines.append(
            f"tuned on {_counted(asked.training_seeds, 'training seed')}, other than those of the "
            "table, over all cells; then frozen:"
        )
        lines += [f"  {row.name}: {row.setting}" for row in found.rows if row.how == "tuned"]
    if "hindsight" in how:
        lines.append(
            "hindsight: for each trace the best of the grid on that very trace; nobody could have "
            "known it before."
        )
    lines.append(
        "regret: points below the clairvoyant bound, which knows every arrival and splits work at "
        "will; perhaps no policy can reach it."
    )
    if left_out:
        lines.append(
            f"Left out: {', '.join(left_out)}; they need recorded traces (--data, EVOLVE_DATA)."
        )
    return "\n".join(lines)
