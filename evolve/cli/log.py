"""`evolve log`: why the runtime did what it did."""

from __future__ import annotations

import json as json_
import time
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evolve.cli.plain import say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from evolve.journal.decision import Decision
    from evolve.journal.query import Filter
    from evolve.journal.reader import Damage

__all__ = ["log"]

FOLLOW_PERIOD_S = 0.2
MAX_WARNINGS = 20
TONES = {
    "tick": "cyan",
    "plan": "green",
    "worker": "yellow",
    "request": "blue",
    "runtime": "white",
    "tier": "magenta",
    "generation": "bright_magenta",
}


def log(
    path: Annotated[Path, typer.Argument(help="The journal, JSON lines.")],
    tail: Annotated[
        int, typer.Option("--tail", "-n", min=0, help="How many of the newest; 0 for all.")
    ] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as decisions are made.")
    ] = False,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these: FIELD=VALUE, FIELD~PART, FIELD>NUMBER; several must all hold. "
            "Fields are those of docs/journal.md, entries as in seen.p99_ms>50."
        ),
    ] = None,
    explain: Annotated[
        int | None, typer.Option(metavar="SEQ", help="Tell one decision in words.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw load, latency and decisions.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every record; status 1 if any is damaged.")
    ] = False,
) -> None:
    """Show, follow, filter, explain, plot or check a journal of decisions."""
    if sum((follow, explain is not None, plot is not None, verify)) > 1:
        raise typer.BadParameter("--follow, --explain, --plot and --verify exclude each other")
    if verify:
        raise typer.Exit(_verify(path))
    filters = _filters(where or [])
    if explain is not None:
        say(_explained(path, explain))
    elif plot is not None:
        say(f"drawn: {_plotted(path, filters, plot)}")
    else:
        _show(path, filters, tail, follow=follow, line=_json_line if json else None)


def _filters(texts: list[str]) -> tuple[Filter, ...]:
    from evolve.journal.query import Filter

    try:
        return tuple(Filter.parse(text) for text in texts)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--where") from None


def _all(path: Path) -> Iterator[Decision]:
    from evolve.journal.reader import read, segments

    warn = _Warnings()
    for segment in segments(path):
        yield from read(segment, on_damage=warn)


class _Warnings:
    """Tells of damaged records, the first few of them."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, damage: Damage) -> None:
        self._count += 1
        if self._count <= MAX_WARNINGS:
            say(f"warning: damaged record left out: {damage}", err=True)
        elif self._count == MAX_WARNINGS + 1:
            say("warning: more records are damaged; --verify lists them all", err=True)


def _verify(path: Path) -> int:
    from evolve.journal.reader import segments, verify

    whole = True
    for segment in segments(path):
        verdict = verify(segment)
        whole = whole and verdict.intact
        span = f", {verdict.first_seq} to {verdict.last_seq}" if verdict.records else ""
        say(f"{segment}: {verdict.records} records{span}")
        if verdict.torn_bytes:
            say(f"{segment}: {verdict.torn_bytes} bytes of an incomplete record at the end")
        for damage in verdict.damage:
            say(str(damage))
    say("intact" if whole else "NOT intact")
    return 0 if whole else 1


def _explained(path: Path, seq: int) -> str:
    from evolve.journal.explain import explain, follower
    from evolve.journal.file import JournalError

    decisions = _all(path)
    first = last = 0
    for decision in decisions:
        if decision.seq == seq:
            return explain(decision, follower(decision, decisions))
        first, last = first or decision.seq, decision.seq
    have = f"{first} to {last}" if last else "none"
    raise JournalError(f"SEQ must be the number of a decision in {path} ({have}), got {seq}")


def _plotted(path: Path, filters: tuple[Filter, ...], out: Path) -> Path:
    from evolve.journal.plot import plot
    from evolve.journal.query import matching

    return plot(tuple(matching(_all(path), filters)), out)


def _show(
    path: Path,
    filters: tuple[Filter, ...],
    tail: int,
    *,
    follow: bool,
    line: Callable[[Decision], str] | None,
) -> None:
    from evolve.cli.screen import screen
    from evolve.journal.follow import Follower
    from evolve.journal.query import matching
    from evolve.journal.reader import read, segments

    warn = _Warnings()
    follower = Follower(path, on_damage=warn)
    if tail:
        until = follower.skip()
        latest = _newest_first(path, until, warn)
        past = list(islice(matching(latest, filters), tail))[::-1]
    else:
        older = (d for s in segments(path)[:-1] for d in read(s, on_damage=warn))
        past = list(matching(chain(older, follower.new()), filters))
    console = screen(soft_wrap=True)
    for decision in past:
        _print(console, decision, line)
    try:
        while follow:
            time.sleep(FOLLOW_PERIOD_S)
            for decision in matching(follower.new(), filters):
                _print(console, decision, line)
    except KeyboardInterrupt:  # the way to end it: no failure
        pass
    finally:
        follower.close()
    if not past and not follow:
        say("no decision matches" if filters else "the journal is empty", err=True)


def _newest_first(path: Path, until: int, warn: _Warnings) -> Iterator[Decision]:
    """All decisions from the end back to the beginning; ``until``: where the newest file ends."""
    from evolve.journal.reader import newest, segments

    *older, latest = segments(path)
    yield from newest(latest, on_damage=warn, before=until)
    for segment in reversed(older):
        yield from newest(segment, on_damage=warn)


def _print(console: Console, decision: Decision, line: Callable[[Decision], str] | None) -> None:
    if line:
        say(line(decision))
        return
    text = _row(decision)
    if console.is_terminal:
        text.truncate(console.width, overflow="ellipsis")
    console.print(text)


def _json_line(decision: Decision) -> str:
    return json_.dumps(decision.to_json(), allow_nan=False)


def _row(d: Decision) -> Text:
    """Number, time, kind, subject, what changed and why, on one line."""
    from rich.text import Text

    from evolve.journal.explain import headline

    row = Text()
    row.append(f"{d.seq:>6}  ", style="dim")
    row.append(f"{d.at[11:23]}  ", style="dim")
    row.append(f"{d.kind:<10} ", style=TONES.get(d.kind, ""))
    row.append(f"{d.subject}  ", style="bold")
    if what := headline(d):
        row.append(f"{what}  ", style="magenta")
    if not d.applied:
        row.append("not applied  ", style="red")
    row.append(d.reason)
    return row
