"""`evolve profile`: what this machine is and what it reaches."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import Annotated

import typer

from evolve.cli.paths import cache_folder
from evolve.cli.plain import say

__all__ = ["profile"]


def profile(
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Measure again, even if it was before.")
    ] = False,
    measure: Annotated[
        bool, typer.Option(help="Measure what is not known yet; without, facts only.")
    ] = True,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the measurements are kept.")
    ] = None,
) -> None:
    """Show devices, instruction sets, caches, measured rates and the units plans can run on."""
    from evolve.cli.screen import screen
    from profiler.report import describe, render
    from profiler.units import FingerprintDatabase

    if refresh and not measure:
        raise typer.BadParameter("--refresh and --no-measure exclude each other")
    database = FingerprintDatabase(cache_folder(cache) / "fingerprints.json", measure=measure)
    with screen(stderr=True).status("Measuring what is not known yet"):
        units = database.refresh() if refresh else database.units()
    devices = database.fingerprints()
    if json:
        told = describe(devices, units, absent=database.absent, faults=database.faults)
        say(json_.dumps(told, indent=2))
    else:
        screen().print(render(devices, units, absent=database.absent, faults=database.faults))
