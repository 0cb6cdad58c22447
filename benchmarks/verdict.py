"""Which promised figures fall short, from the results that are there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["Promise", "Verdict", "main", "read"]


@dataclass(frozen=True, slots=True)
class Promise:
    """One promised figure as a file in `out/bench` tells it."""

    name: str
    value: Any
    target: Any
    at_most: bool
    holds: bool
    file: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all files of a folder promise, the files that promise nothing, and why some could
    not be read."""

    promises: tuple[Promise, ...]
    without: tuple[str, ...]
    unreadable: Mapping[str, str]

    @property
    def short(self) -> tuple[Promise, ...]:
        """The promises that are not kept."""
        return tuple(promise for promise in self.promises if not promise.holds)

    @property
    def passes(self) -> bool:
        """Whether all that is promised holds. A file that can't be read may promise anything."""
        return not self.short and not self.unreadable


def read(folder: Path) -> Verdict:
    """The verdict over every JSON file in `folder`."""
    promises: list[Promise] = []
    without: list[str] = []
    unreadable: dict[str, str] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found = _promises(path)
        except (OSError, ValueError) as error:
            unreadable[path.name] = str(error)
            continue
        promises += found
        if not found:
            without.append(path.name)
    return Verdict(tuple(promises), tuple(without), unreadable)


def _promises(path: Path) -> list[Promise]:
    record = json.loads(path.read_text())
    figures = record.get("figures") if isinstance(record, dict) else None
    if not isinstance(figures, dict):
        return []
    return [
        Promise(
            name, figure["value"], figure["target"], bool(figure.get("at_most", True)),
            bool(figure["holds"]), path.name,
        )
        for name, figure in figures.items()
        if isinstance(figure, dict) and {"value", "target", "holds"} <= figure.keys()
    ]  # fmt: skip


def main(folder: Path) -> int:
    """Prints the verdict over `folder`; 1 if a promise is not kept, else 0."""
    verdict = read(folder)
    console = Console()
    if verdict.short:
        table = Table(
            "figure", "value", "target", "file", title="Falls short", title_justify="left"
        )
        for promise in verdict.short:
            sign = "≤" if promise.at_most else "≥"
            table.add_row(promise.name, _number(promise.value), f"{sign} {_number(promise.target)}",
                          promise.file)  # fmt: skip
        console.print(table)
    for name, why in verdict.unreadable.items():
        console.print(f"{name}: unreadable, {why}", highlight=False)
    for name in verdict.without:
        console.print(f"{name}: no figures that were promised", highlight=False)
    kept = len(verdict.promises) - len(verdict.short)
    console.print(f"{kept} of {len(verdict.promises)} promised figures hold ({folder})")
    return 0 if verdict.passes else 1


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
