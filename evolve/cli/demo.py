"""`evolve demo`: a real model under a real surge, beside the plain loop and a static setting."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    evolve: Annotated[
        bool,
        typer.Option(
            "--evolve", help="A day of traffic in ten minutes instead, in which the model evolves."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of arrivals and sentences.")] = 0,
) -> None:
    """Serve a real model under a surge and compare with the plain PyTorch loop."""
    if evolve:
        from evolve.demo.evolving import main
    else:
        from evolve.demo.main import main

    raise typer.Exit(main(json_path=json, out_dir=out, seconds=seconds, seed=seed))
