"""`evolve simulate`: what policies would have made of a load, in the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from evolve.cli.simulations.simulated import KINDS, one_trace, print_json, print_table
from evolve.cli.simulations.suite import SUITES, Asked, run_suite

__all__ = ["simulate"]

ONE_TRACE = "rule,threshold,static"
SUITE = "rule,slackfit,slackfit-drop,drain-aware,clockwork,clipper,proteus,bentoml,threshold,static"


def simulate(
    trace: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(KINDS)}, or a CSV file of recorded arrivals. Default surge."
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Mean arrivals per second (for surge: before and after it, five times as much "
            "within). Default 150; for a file its own.",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help=f"Instead of one trace, regimes x loads: {', '.join(SUITES)}. See docs/gym.md."
        ),
    ] = None,
    regimes: Annotated[
        str | None, typer.Option(help="Of the suite, comma-separated. Default all.")
    ] = None,
    loads: Annotated[
        str | None,
        typer.Option(help="Of the suite, over the cheapest plan's capacity. Default 0.3 to 1.5."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", envvar="EVOLVE_DATA", help="Folder of the suite's recorded traces."
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.1, max=86_400, help="Length of a trace. Default 20, of the suite's 10."),
    ] = None,
    policies: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated: static, a registered name, or an exported folder; with --suite "
            f"also those of docs/gym.md. Default {ONE_TRACE}, with --suite all but presets."
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Traces to average over. Default 3, with --suite 5."),
    ] = None,
    training_seeds: Annotated[
        int, typer.Option(min=0, max=1000, help="Of the suite, to tune rivals on; others again.")
    ] = 2,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Default 2, of the suite 4.")
    ] = None,
    slo_ms: Annotated[
        float | None,
        typer.Option(min=0.1, help="Deadline of each request. Default 50, of the suite 36."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the suite's results.json.")
    ] = None,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw the suite's pictures into --out as well.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Compare policies on a simulated load, event by event, with the rule that serves."""
    if suite is not None:
        _exclude("--suite", **{"--trace": trace, "--rate": rate})
        asked = Asked(
            _names(policies or SUITE, "--policies", "policy"),
            _names(regimes, "--regimes", "regime") if regimes is not None else None,
            _loads(loads) if loads is not None else None,
            seconds or 10.0, seeds or 5, training_seeds, workers or 4, slo_ms or 36.0, data,
        )  # fmt: skip
        run_suite(suite, asked, out=out, plot=plot, json=json)
        return
    given = {"--regimes": regimes, "--loads": loads, "--out": out, "--plot": plot or None}
    _exclude("a single trace", **given)
    from sims.reference import reference_service

    service = reference_service(workers=workers or 2, slo_ms=slo_ms or 50.0)
    names = _names(ONE_TRACE if policies is None else policies, "--policies", "policy")
    found = one_trace(trace or "surge", rate, seconds or 20.0, names, seeds or 3, service)
    (print_json if json else print_table)(found)


def _exclude(what: str, **options: Any) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        rest = "; add --suite" if what.startswith("a ") else ""
        raise typer.BadParameter(f"{given[0]} does not go with {what}{rest}")


def _names(text: str, option: str, what: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise typer.BadParameter(f"name at least one {what}", param_hint=option)
    return names


def _loads(text: str) -> tuple[float, ...]:
    try:
        loads = tuple(sorted({float(part) for part in _names(text, "--loads", "load")}))
    except ValueError:
        loads = ()
    if not loads or not all(0.0 < load < float("inf") for load in loads):
        raise typer.BadParameter(
            f"loads must be numbers greater than 0, comma-separated, got {text!r}",
            param_hint="--loads",
        )
    return loads
