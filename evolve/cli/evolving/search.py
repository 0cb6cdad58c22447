"""`evolve search`: what of a model can be made smaller, and what that would cost."""

from __future__ import annotations

import json as json_
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evolve.cli.evolving.subject import HELP, Subject, load
from evolve.cli.plain import say

if TYPE_CHECKING:
    from evolve.evolution.front import Point
    from evolve.evolution.survey import Survey

__all__ = ["search"]

_MOST_PLACES = 12


def search(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=HELP)],
    measured: Annotated[
        int, typer.Option(min=1, help="Sub-networks that are measured at most.")
    ] = 64,
    minutes: Annotated[float, typer.Option(min=0.01, help="Of measuring, at most.")] = 5.0,
    speedup: Annotated[
        list[float] | None, typer.Option(help="Mark the best so many times as fast; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Say what can be left out of MODEL, and search for what is worth leaving out.

    Nothing is trained: agreement with the original is that of the weights as they are.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from evolve.cli.screen import screen
    from evolve.evolution.settings import GenerationConfig
    from evolve.evolution.survey import survey

    config = GenerationConfig(
        speedups=_speedups(speedup), budget_s=60 * minutes, measured=measured, seed=seed
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen(stderr=True)) as bar:
        task = bar.add_task("capture", total=1.0)

        def told(words: str, share: float) -> None:
            bar.update(task, description=words, completed=min(1.0, share))

        subject = load(model)
        inputs = subject.prepared()
        found = survey(subject.net, subject.grid, inputs, config, time.monotonic, told)
        bar.update(task, completed=1.0)
    if plot is not None:
        from evolve.cli.evolving.picture import draw

        draw(found.front, plot, f"{model}, nothing trained")
    if json:
        say(json_.dumps(_record(subject, found), indent=2))
        return
    _print(subject, found)
    if plot is not None:
        say(f"drawn: {plot}")


def _speedups(given: list[float] | None) -> tuple[float, ...]:
    from evolve.evolution.choice import Bounds

    return Bounds(tuple(given)).speedups if given else Bounds().speedups


def _record(subject: Subject, found: Survey) -> dict[str, Any]:
    net = subject.net
    return {
        "genes": [{"name": g.name, "choices": list(g.choices)} for g in net.space.genes],
        "refused": [{"where": one.where, "why": one.why} for one in net.refused],
        "measured": found.measured,
        "measure": found.measure,
        "front": [point.to_json() for point in found.front],
        "latency": found.described,
        "notes": [*subject.notes, *found.notes],
    }


def _print(subject: Subject, found: Survey) -> None:
    net = subject.net
    layers = [layer for layer in net.anatomy.layers if layer.stream is not None]
    say(f"{len(layers)} layers can be left out, {len(net.anatomy.places)} widths cut:")
    places = [f"  {p.name}: {p.size} {p.kind}" for p in net.anatomy.places]
    for line in _some(places):
        say(line)
    for line in _some([f"  {one.where or 'it'} stays: {one.why}" for one in net.refused]):
        say(line)
    print_points(found.front, f"{found.measured} measured by {found.measure}, none trained")
    for note in (found.described, *subject.notes, *found.notes):
        say(note)


def _some(lines: Sequence[str]) -> list[str]:
    left = len(lines) - _MOST_PLACES
    return [*lines[:_MOST_PLACES], *([f"  and {left} more"] if left > 0 else [])]


def print_points(found: Sequence[Point], title: str) -> None:
    """A table of them, the best quality first."""
    from rich.table import Table
    from rich.text import Text

    from evolve.cli.screen import screen
    from evolve.journal.decision import printable

    table = Table(title=title, title_justify="left")
    for name in ("agreement", "ms", "times as fast", "MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("as")
    table.add_column("what it leaves out", overflow="fold")
    whole_ms = next(p.latency_ms for p in found if p.role == "original")
    for point in sorted(found, key=lambda p: (p.quality_loss, p.latency_ms)):
        table.add_row(
            f"{1 - point.quality_loss:.4f}", f"{point.latency_ms:.3g}",
            f"{whole_ms / point.latency_ms:.2f}", f"{point.memory_mib:.3g}", point.role,
            Text(printable(point.describe, 300)),
        )  # fmt: skip
    screen().print(table)
