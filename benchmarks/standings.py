"""What one comparison of engines found: rows of medians, their table and their figures."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.models import Subject
from benchmarks.turns import Readied
from profiler.shapes import Shape
from supernet.plans import Plan, PlanState

__all__ = ["ORIGINAL", "Entry", "Race", "Row", "cell_name", "figures", "show", "tried"]

ORIGINAL = "eager"  # also what evolve serves with where no plan is good enough
KEEPS_UP = 1.02  # × the fastest peer: as fast, within what such timings are good for
_WORST = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One contender in one cell: median, and what each round found."""

    ms: float
    turns_ms: tuple[float, ...]
    readied: Readied

    @staticmethod
    def of(turns_ms: Sequence[float], readied: Readied) -> Entry:
        return Entry(statistics.median(turns_ms), tuple(turns_ms), readied)


@dataclass(frozen=True, slots=True)
class Row:
    """One cell. ``chosen`` and ``quality`` name the entries that evolve would have served with,
    ``expected_ms`` what its cost table held for its plans; ``peers`` are the others' entries."""

    cell: str
    rounds: int
    entries: Mapping[str, Entry]
    peers: tuple[str, ...]
    chosen: str
    quality: str
    expected_ms: Mapping[str, float]

    @property
    def fastest_peer(self) -> str:
        return min(self.peers, key=lambda name: self.entries[name].ms)

    def ratio(self, of: str, over: str) -> float:
        """Median over the rounds: what disturbed a whole round counts on neither side."""
        pairs = zip(self.entries[of].turns_ms, self.entries[over].turns_ms, strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)


@dataclass(slots=True)
class Race:
    """One model: its plans (and which are exact), its rows, and who was left out and why."""

    subject: Subject
    eager_mib: float
    plans: Mapping[str, Plan]
    exact: frozenset[str]
    rows: list[Row] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def sizes_mib(self) -> dict[str, float]:
        """Resident memory of the original and of every plan within the error."""
        passed = {n: p.memory_mib for n, p in self.plans.items() if p.state is PlanState.VERIFIED}
        return {ORIGINAL: self.eager_mib, **passed}

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.subject.title,
            "metric": self.subject.metric,
            "eager_mib": self.eager_mib,
            "plans": {
                name: {
                    "state": plan.state.value, "exact": name in self.exact,
                    "memory_mib": plan.memory_mib, "reason": plan.reason,
                }
                for name, plan in self.plans.items()
            },
            "cells": [asdict(row) for row in self.rows],
            "skipped": self.skipped,
            "left_out": self.left_out,
        }  # fmt: skip


def cell_name(shape: Shape, subject: Subject) -> str:
    return f"{shape.rows}x{shape.length}" if subject.lengths else str(shape.rows)


def tried(name: str, plan: Plan, exact: frozenset[str]) -> str:
    """One line on a plan that was built."""
    tier = "exact tier" if name in exact else plan.state.value
    return f"  {name}: {tier}, {plan.memory_mib:.0f} MiB; {plan.reason}"


def show(race: Race) -> None:
    """The table of one model: milliseconds per cell, and each one's largest error."""
    peers = list(dict.fromkeys(name for row in race.rows for name in row.peers))
    table = Table(
        title=f"{race.subject.title}: milliseconds (errors: relative L2)", title_justify="left"
    )
    heads = (*peers, "chosen", "by", "× peer", "quality", "by", race.subject.metric)
    table.add_column("rows x length" if race.subject.lengths else "rows", no_wrap=True)
    for head in heads:
        # Names of peers may break at their hyphens, names of plans may not.
        left = head == "by"
        table.add_column(head.replace("-", " "), justify="left" if left else "right", no_wrap=left)
    for row in race.rows:
        quality = row.entries[row.quality]
        table.add_row(
            row.cell,
            *(_ms(row.entries[name], name == row.fastest_peer) if name in row.entries else "–"
              for name in peers),
            _ms(row.entries[row.chosen]), row.chosen,
            f"{row.ratio(row.chosen, row.fastest_peer):.2f}",
            _ms(quality), row.quality, f"{quality.readied.natural:.1g}",
        )  # fmt: skip
    table.add_section()
    table.add_row(
        "largest error",
        *(_largest(row.entries.get(name) for row in race.rows) for name in peers),
        _largest(row.entries[row.chosen] for row in race.rows), "", "",
        _largest(row.entries[row.quality] for row in race.rows), "", "",
    )  # fmt: skip
    console = Console()
    # Read from a file or a pipe, a table cut to 80 columns says nothing.
    Console(width=None if console.is_terminal else 170).print(table)
    for name, why in {**race.skipped, **race.left_out}.items():
        console.print(f"  left out: {name}: {why}", highlight=False)


def figures(races: Sequence[Race]) -> dict[str, Any]:
    """The summary, per model and then for all cells together."""
    found: dict[str, Any] = {}
    for race in races:
        if not race.rows:
            continue
        title = race.subject.name
        found |= {f"{title}: {key}": value for key, value in _ratios([race]).items()}
        sizes = race.sizes_mib()
        smallest = min(sizes, key=lambda name: sizes[name])
        largest = max((row.quality for row in race.rows), key=lambda name: sizes[name])
        found[f"{title}: eager resident, MiB"] = race.eager_mib
        for role, name in (("smallest plan", smallest), ("largest quality plan", largest)):
            found[f"{title}: {role}"] = name
            found[f"{title}: {role} / eager, resident"] = sizes[name] / race.eager_mib
    return found | {f"all: {key}": value for key, value in _ratios(races).items()}


def _ratios(races: Sequence[Race]) -> dict[str, Any]:
    """Geometric means over cells. The worst cells by chosen / fastest peer, worst first."""
    cells = [(race, row) for race in races for row in race.rows]
    if not cells:
        return {}
    over_peer = [row.ratio(row.chosen, row.fastest_peer) for _, row in cells]
    ranked = sorted(zip(over_peer, cells, strict=True), key=lambda item: -item[0])
    behind = [
        f"{race.subject.name} {row.cell} {ratio:.2f} ({row.chosen}; {row.fastest_peer})"
        for ratio, (race, row) in ranked
        if ratio > KEEPS_UP
    ]
    mean = statistics.geometric_mean
    return {
        "cells": len(cells),
        "chosen / fastest peer": mean(over_peer),
        "chosen / eager": mean([row.ratio(row.chosen, ORIGINAL) for _, row in cells]),
        "quality / fastest peer": mean([r.ratio(r.quality, r.fastest_peer) for _, r in cells]),
        "quality / eager": mean([row.ratio(row.quality, ORIGINAL) for _, row in cells]),
        f"cells with chosen <= {KEEPS_UP} × fastest peer": len(cells) - len(behind),
        "worst of the other cells": "; ".join(behind[:_WORST]) or "none",
    }


def _ms(entry: Entry, best: bool = False) -> str:
    return f"[bold]{entry.ms:.2f}[/bold]" if best else f"{entry.ms:.2f}"


def _largest(entries: Iterable[Entry | None]) -> str:
    return f"{max((e.readied.relative_l2 for e in entries if e), default=0.0):.0e}"
