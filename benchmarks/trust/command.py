"""The command line of the trust benchmark."""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from benchmarks.harness import publish
from benchmarks.trust import report
from benchmarks.trust.cases import KINDS
from benchmarks.trust.child import Job
from benchmarks.trust.corpus import BACKENDS, Entry, corpus, one_family
from benchmarks.trust.families import FAMILIES
from benchmarks.trust.processes import Result, run

__all__ = ["main"]

QUESTION = "Is any request answered wrong in silence? (target: 0 of them, no process lost)"


def main(arguments: Sequence[str] = ()) -> int:
    """Runs the corpus, prints what it found, saves it; 1 if anything was wrong, else 0."""
    asked = _parsed(arguments)
    console = Console()
    if asked.list:
        console.print("\n".join(FAMILIES), highlight=False)
        return 0
    entries = _entries(asked)

    def told(result: Result) -> None:
        console.print(escape(report.line(result)), highlight=False, soft_wrap=True)

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        job = Job(entries, asked.requests, Path(folder) / "plans", asked.workers)
        results = run(job, jobs=asked.jobs, minutes=asked.minutes, told=told)
    console.rule()
    report.show(results, console)
    if left := len(entries) - len(results):
        console.print(f"{left} of {len(entries)} models were left out: {asked.minutes:g} minutes")
    figures = report.figures(results)
    if not asked.only:
        publish(
            "trust", QUESTION, figures, seed=asked.seed, requests_each=asked.requests,
            backends=asked.backends, kinds=asked.kinds, workers=asked.workers,
            minutes=(time.monotonic() - began) / 60, by_kind=report.by_kind(results),
            failing=report.failing(results),
        )  # fmt: skip
    return int(bool(left) or not results or bool(report.failing(results)))


def _entries(asked: argparse.Namespace) -> list[Entry]:
    if asked.only:
        return one_family(asked.only, asked.models or 1, asked.seed, asked.backends)
    return corpus(asked.models or 200, asked.seed, asked.kinds, asked.backends)


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks trust", description=QUESTION)
    add = parser.add_argument
    add("--models", type=int, help="models to try (default 200; 1 with --only)")
    add("--requests", type=int, default=100, help="requests to each (default 100)")
    add("--seed", type=int, default=0, help="of the corpus; with --only, of the first model")
    add("--only", metavar="FAMILY", help="models of one family, as a run names it; saves nothing")
    add("--kinds", type=_among(KINDS), default=KINDS, help=f"of {','.join(KINDS)}")
    add("--backends", type=_among(BACKENDS), default=BACKENDS,
        help=f"of {','.join(BACKENDS)}; '' builds no plan")  # fmt: skip
    add("--workers", choices=("thread", "process"), default="thread")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    add("--minutes", type=float, default=math.inf, help="no model is begun after so many")
    add("--list", action="store_true", help="print the families and end")
    asked = parser.parse_args(list(arguments))
    if asked.only and asked.only not in FAMILIES:
        parser.error(f"--only must be a family that --list prints, got {asked.only!r}")
    return asked


def _among(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name for name in text.split(",") if name)
        if unknown := sorted(set(names) - set(known)):
            raise argparse.ArgumentTypeError(f"must be among {', '.join(known)}, got {unknown}")
        return names

    return parse
