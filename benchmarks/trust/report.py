"""What a run found: a table by kind, each model that was answered wrong, and the figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.harness import Figure
from benchmarks.trust.cases import KINDS
from benchmarks.trust.processes import Result

__all__ = ["by_kind", "failing", "figures", "line", "show"]

_ANSWERS = ("models", "failing", "requests", "wrong", "raised", "lost", "refused", "died")
_FINDINGS = ("models", "not wrapped", "by plans", "batching", "padding")
_COUNTS = ("requests", "wrong", "raised", "lost", "refused")


def counts(result: Result) -> dict[str, int]:
    """Requests, and how many of them came to what. ``wrong``: in silence; ``raised``: an error
    instead of an answer, or another than the model's."""
    outcome = result.outcome or {}
    wrong = outcome.get("wrong", [])
    silent = sum(one["silent"] for one in wrong)
    return {
        "requests": outcome.get("requests", 0),
        "wrong": silent,
        "raised": len(wrong) - silent,
        "lost": outcome.get("lost", 0),
        "refused": outcome.get("refused", 0),
    }


def failed(result: Result) -> bool:
    """Whether anything but the right answers came of it."""
    found = counts(result)
    return result.died or bool(_unserved(result)) or any(found[key] for key in _COUNTS[1:])


def _unserved(result: Result) -> str:
    return str((result.outcome or {}).get("unserved", ""))


def by_kind(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Sums for each kind that was tried."""
    table: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        of_kind = [result for result in results if result.entry.kind == kind]
        if not of_kind:
            continue
        row: dict[str, Any] = {"models": len(of_kind)}
        row["failing"] = sum(failed(result) for result in of_kind)
        for key in _COUNTS:
            row[key] = sum(counts(result)[key] for result in of_kind)
        row["died"] = sum(result.died for result in of_kind)
        row["not wrapped"] = sum(bool(_unserved(result)) for result in of_kind)
        for what in ("batching", "padding"):
            row[what] = _tally([str((r.outcome or {}).get(what, "")) for r in of_kind])
        row["by plans"] = sum(bool((r.outcome or {}).get("by_plans")) for r in of_kind)
        table[kind] = row
    return table


def _tally(states: Sequence[str]) -> str:
    """``"3 off, 2 proven"``."""
    known = sorted({state for state in states if state})
    return ", ".join(f"{states.count(state)} {state}" for state in known)


def figures(results: Sequence[Result]) -> dict[str, Figure]:
    """What was promised of the corpus."""
    sums = {key: sum(counts(result)[key] for result in results) for key in _COUNTS}
    return {
        "models tried": Figure(len(results), 200, at_most=False),
        "requests sent": Figure(sums["requests"], 20_000, at_most=False),
        "wrong answers in silence": Figure(sums["wrong"], 0),
        "errors that are not the model's own": Figure(sums["raised"], 0),
        "requests without an answer": Figure(sums["lost"], 0),
        "requests refused": Figure(sums["refused"], 0),
        "processes lost": Figure(sum(result.died for result in results), 0),
        "models that wrap refused": Figure(sum(bool(_unserved(r)) for r in results), 0),
    }


def failing(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Each model that was not served right: how to try it again, and the first things wrong."""
    return [
        {
            "family": result.entry.family,
            "seed": result.entry.seed,
            "backends": result.entry.backends,
            **counts(result),
            "died": result.died,
            "status": result.status,
            "last_words": result.last_words if result.died else "",
            "not wrapped": _unserved(result),
            "first": (result.outcome or {}).get("wrong", [])[:3],
        }
        for result in results
        if failed(result)
    ]


def line(result: Result) -> str:
    """One model in a line, with what is wrong about it."""
    entry, found = result.entry, counts(result)
    outcome = result.outcome or {}
    name = f"--only {entry.family!r} --seed {entry.seed} [{','.join(entry.backends) or 'original'}]"
    told = [f"{found[key]} {key}" for key in _COUNTS[1:] if found[key]]
    if result.died:
        told.append(f"its process died ({result.status}): {result.last_words[-160:]}")
    if _unserved(result):
        told.append(f"wrap raised {_unserved(result)}")
    if wrong := outcome.get("wrong"):
        one = wrong[0]
        told.append(f"request {one['request']} ({one['note']}) {one['what']}")
    told.append(f"{outcome.get('by_plans', 0)} rows by plans, {outcome.get('seconds', 0.0):.0f} s")
    return f"{name}: {'; '.join(told) if failed(result) else f'right; {told[-1]}'}"


def show(results: Sequence[Result], console: Console) -> None:
    """Prints the tables by kind and every failing model."""
    rows = by_kind(results)
    for title, columns in (("Answers by kind of model", _ANSWERS), ("What was found", _FINDINGS)):
        table = Table("kind", *columns, title=title, title_justify="left", box=box.SIMPLE)
        table.padding = (0, 1, 0, 0)
        for kind, row in rows.items():
            table.add_row(kind, *(str(row[column]) for column in columns))
        console.print(table)
    for result in results:
        if failed(result):
            console.print(escape(line(result)), highlight=False, soft_wrap=True)
