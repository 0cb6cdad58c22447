"""Runs the named benchmarks, or all of `NAMES` in the order below."""

from __future__ import annotations

import argparse
import importlib

NAMES = ("units", "tick", "overhead", "swap", "start", "kill", "surge", "capacity", "fleet", "twin",
         "search")  # fmt: skip
LONG = ("fusion", "gym")  # hours and half an hour: run only when asked for


def main() -> None:
    known = (*NAMES, *LONG)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    names = parser.parse_args().names or NAMES
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"NAME must be of {', '.join(known)}, got {', '.join(unknown)}")
    for name in names:
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
