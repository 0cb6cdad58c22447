"""Journals to test with."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evolve.journal.decision import Decision
from evolve.journal.journal import Journal


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def journal_at(
    path: Path | None, clock: Callable[[], float] = lambda: 100.0, **options: Any
) -> Journal:
    return Journal(path, device="cpu-1a2b", clock=clock, wall=lambda: 1.7e9, **options)


def filled(path: Path, count: int) -> list[Decision]:
    with journal_at(path) as journal:
        return [tick(journal, i) for i in range(count)]


def tick(journal: Journal, number: int = 0) -> Decision:
    return journal.append(
        "tick",
        "dispatch",
        policy="rule",
        seen={"p99_ms": 12.5 + number, "queue": number},
        before={"name": "default", "spread": 1.5},
        after={"name": "surge", "spread": math.inf},
        reason=f"reason {number}",
        scores={"surge": 0.5},
    )
