"""`evolve demo`: a real model under a real surge, beside the plain loop and a static setting."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, cast

import typer

__all__ = ["demo"]


def demo(
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder for the plot and the journal."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=2.0, help="Length of the stream for each contender.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the arrivals.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A short look, rough figures.")] = False,
) -> None:
    """Serve a real model under a surge and compare with the plain PyTorch loop."""
    run = cast("Callable[..., int | None]", importlib.import_module("evolve.demo").main)
    status = run(json_path=json, out_dir=out, seconds=seconds, seed=seed, quick=quick)
    raise typer.Exit(status or 0)
