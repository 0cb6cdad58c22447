"""The subcommands, put together. Imports no framework: `evolve --help` answers at once."""

from __future__ import annotations

import typer

from evolve.cli.demo import demo
from evolve.cli.evolving.distill import distill
from evolve.cli.evolving.search import search
from evolve.cli.log import log
from evolve.cli.plans import plans
from evolve.cli.profile import profile
from evolve.cli.simulations.simulate import simulate
from evolve.cli.train import train

__all__ = ["app"]

app = typer.Typer(
    name="evolve",
    help="Wraps a PyTorch model and keeps improving how it runs while it serves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, profile, plans, search, distill, simulate, train, log):
    app.command()(command)
