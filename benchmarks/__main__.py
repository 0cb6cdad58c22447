"""Runs the named benchmarks, or all of `NAMES` in the order below."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import verdict

NAMES = ("units", "tick", "overhead", "swap", "start", "memory", "kill", "surge", "capacity",
         "fleet", "twin", "search", "search_strategic", "overload")  # fmt: skip
# From minutes to hours: run only when asked for.
LONG = ("chaos", "cycles", "evolve_minilm", "fresh", "fusion", "gym", "tail", "trust", "zoo")
# With options of their own: `python -m benchmarks NAME --help`.
OPTIONS = ("evolve_minilm", "search_strategic", "trust")
RESULTS = Path("out/bench")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for; the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in OPTIONS:
        status: int = importlib.import_module(f"benchmarks.{given[0]}").main(given[1:])
        return status
    known = (*NAMES, *LONG)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    parser.add_argument(
        "--verdict", action="store_true",
        help=f"run nothing; print the promised figures that fall short, from {RESULTS}",
    )  # fmt: skip
    asked = parser.parse_args(given)
    if asked.verdict and asked.names:
        parser.error("--verdict must be given without NAME: it reads what is there")
    if asked.verdict:
        return verdict.main(RESULTS)
    if unknown := sorted(set(asked.names) - set(known)):
        parser.error(f"NAME must be of {', '.join(known)}, got {', '.join(unknown)}")
    status = 0
    for name in asked.names or NAMES:
        # What a benchmark returns is its exit status; most only measure, and return nothing.
        status = max(status, importlib.import_module(f"benchmarks.{name}").main() or 0)
    return status


if __name__ == "__main__":
    sys.exit(main())
