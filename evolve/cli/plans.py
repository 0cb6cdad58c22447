"""`evolve plans`: the ways of running models that are built, and what is known about each."""

from __future__ import annotations

import json as json_
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evolve.cli.paths import cache_folder
from evolve.cli.plain import say

if TYPE_CHECKING:
    from supernet.cache import ArtifactCache
    from supernet.findings import Finding
    from supernet.plans import Plan

__all__ = ["plans"]

TONES = {"verified": "green", "quarantined": "red"}


def plans(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="The beginning of a graph or a plan listed."),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The cache, as plans.cache_dir.")
    ] = None,
    max_error: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Judge by this error limit.")
    ] = 0.005,
    metric: Annotated[
        str, typer.Option(help="Which error: relative_l2, cosine or top1.")
    ] = "relative_l2",
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Which ops MODEL's fused plans run as one, and why.")
    ] = False,
    shape: Annotated[
        str | None,
        typer.Option(metavar="ROWSxLENGTH", help="Count bytes at this shape; 4x32 unless told."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw a layer before and after: .mmd, .dot, or with Graphviz .svg, .png, .pdf.",
        ),
    ] = None,
) -> None:
    """List the plans in the cache: model graph, plan, state, error, memory, cost.

    With MODEL and --explain: what its fused plans run as one, on what, and what that saves.
    """
    _check(metric, model, explain=explain, more=bool(shape or plot))
    root = cache_folder(cache)
    found = _known(root, max_error, metric)
    if model is not None and found:
        from evolve.cli.explaining.explain import explain as tell

        tell(_store(root), found, model, limit=max_error, shape=shape, plot=plot, json=json)
    elif model is not None:
        raise typer.BadParameter(f"no plans in {root}; serve a model first", param_hint="MODEL")
    elif json:
        rows = [_row(plan) for plan in found]
        graphs = {
            graph: {name: finding.to_json() for name, finding in findings.items()}
            for graph, findings in _findings(root, found).items()
        }
        say(json_.dumps({"cache": str(root), "plans": rows, "graphs": graphs}, indent=2))
    elif found:
        _print_table(root, found)
    else:
        say(f"no plans in {root}; they are built when a wrapped model serves")


def _check(metric: str, model: str | None, *, explain: bool, more: bool) -> None:
    from evolve.slo import METRICS

    if metric not in METRICS:
        known = ", ".join(METRICS)
        raise typer.BadParameter(f"must be one of {known}, got {metric!r}", param_hint="--metric")
    if explain != (model is not None):
        raise typer.BadParameter("MODEL and --explain must be given together")
    if more and not explain:
        raise typer.BadParameter("--shape and --plot must be given with MODEL and --explain")


def _known(root: Path, max_error: float, metric: str) -> tuple[Plan, ...]:
    # Looking must not create anything.
    if not (root / "reports").is_dir():
        return ()
    from supernet.building.build import BuildLimits, known_plans

    return known_plans(_store(root), BuildLimits(max_error=max_error, metric=metric))


def _store(root: Path) -> ArtifactCache:
    from supernet.cache import ArtifactCache

    return ArtifactCache(root, on_discard=_warn)


def _findings(root: Path, found: Sequence[Plan]) -> dict[str, dict[str, Finding]]:
    """By graph: whether requests may share a batch and be padded, as last captured."""
    if not found:
        return {}  # looking must not create a cache
    from supernet.capture.stored import StoredCapture, newest

    cache = _store(root)
    made = {}
    for graph in dict.fromkeys(plan.spec.graph_hash for plan in found):
        folder = newest(cache, graph)
        if folder is not None:
            stored = StoredCapture.read(folder)
            made[graph] = {"batching": stored.batching, "padding": stored.padding}
    return made


def _warn(entry: str, reason: str) -> None:
    say(f"warning: {entry} was thrown away: {reason}", err=True)


def _row(plan: Plan) -> dict[str, Any]:
    error = plan.error
    return {
        "graph": plan.spec.graph_hash,
        "plan": plan.key,
        "state": plan.state.value,
        # JSON has no infinity: a plan whose answers are not finite has no error to state.
        "error": error if error is not None and math.isfinite(error) else None,
        "metric": plan.metric,
        "memory_mib": plan.memory_mib,
        "costs_ms": [[s.rows, s.length, ms] for s, ms in sorted_costs(plan)],
        "reason": plan.reason,
        "spec": plan.spec.to_json(),
    }


def sorted_costs(plan: Plan) -> list[tuple[Any, float]]:
    """Measured shapes and milliseconds, smallest shape first."""
    return sorted(plan.costs_ms.items(), key=lambda pair: (pair[0].rows, pair[0].length))


def _print_table(root: Path, found: tuple[Plan, ...]) -> None:
    from rich.table import Table
    from rich.text import Text

    from evolve.cli.screen import screen
    from evolve.journal.decision import printable

    table = Table(
        title=f"Plans in {root}",
        title_justify="left",
        caption="cost: measured ms at the smallest and the largest shape, rows × length",
        caption_justify="left",
    )
    for title in ("graph", "plan", "state"):
        table.add_column(title, overflow="fold")
    for title in ("error", "MiB"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("cost", overflow="fold")
    table.add_column("why", overflow="fold")
    for plan in sorted(
        found, key=lambda p: (p.spec.graph_hash, p.state.value != "verified", p.key)
    ):
        state = plan.state.value
        table.add_row(
            plan.spec.graph_hash[:8],
            plan.key,
            Text(state, style=TONES.get(state, "")),
            "–" if plan.error is None else f"{plan.error:.1e}",
            f"{plan.memory_mib:.0f}" if plan.memory_mib else "–",
            _cost(plan),
            Text(printable(plan.reason, 300)),
        )
    screen().print(table)
    for graph, findings in _findings(root, found).items():
        for name, finding in findings.items():
            screen().print(Text(printable(f"{graph[:8]} {name} {finding}", 300)))


def _cost(plan: Plan) -> str:
    costs = sorted_costs(plan)
    ends = costs if len(costs) < 2 else [costs[0], costs[-1]]
    return "\n".join(f"{s.rows} × {s.length}: {ms:.3g}" for s, ms in ends) or "–"
