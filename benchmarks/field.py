"""One model's contenders: who takes part, made ready and timed in turns, cell by cell."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.models import Subject
from benchmarks.peers import Job
from benchmarks.standings import ORIGINAL, Entry, Race, Row, cell_name
from benchmarks.turns import Contender, LeftOut, Readied
from profiler.costs import CostTable
from profiler.shapes import Shape

__all__ = ["Field", "Options", "say"]

_ROUNDS_MS = 10_000.0  # so long may eager's turns in one cell take together


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for. ``compile_s``: what a peer may take to be made ready for a cell."""

    models: tuple[str, ...]
    cells: tuple[Shape, ...]
    peers: tuple[str, ...]
    rounds: tuple[int, int]
    threads: int
    compile_s: float
    build_s: float
    plans: str
    slowest_ms: float
    cache: Path


class Field:
    """The contenders of one model, each started when it is first needed."""

    def __init__(self, race: Race, job: Job, asked: Options, costs: CostTable) -> None:
        self._race, self._job, self._asked, self._costs = race, job, asked, costs
        self._live: dict[str, Contender] = {}

    def close(self) -> None:
        for contender in self._live.values():
            contender.close()

    def cell(self, shape: Shape) -> None:
        """One row of the race, or why the cell is skipped."""
        race, cell = self._race, cell_name(shape, self._race.subject)
        if race.skipped:  # cells come from small to large
            race.skipped[cell] = "a smaller one took eager too long"
            return
        inputs = _inputs(race.subject, shape)
        ready = {name: self._ready(name, inputs) for name in self._asked.peers[:1]}
        first = ready[ORIGINAL]
        if first is None or first.run_ms > self._asked.slowest_ms:
            race.skipped[cell] = f"eager takes {first.run_ms:.0f} ms" if first else "eager failed"
            return
        ready |= {name: self._ready(name, inputs) for name in self._asked.peers[1:]}
        expected = self._expected_ms(shape)
        if self._asked.plans == "all":
            ready |= {name: self._ready(name, inputs) for name in expected}
        chosen = self._serve(race.exact & set(expected), expected, ready, inputs)
        quality = self._serve(set(expected), expected, ready, inputs)
        least, most = self._asked.rounds
        rounds = max(least, min(most, round(_ROUNDS_MS / first.run_ms)))
        entries = self._turns({n: r for n, r in ready.items() if r is not None}, rounds)
        peers = tuple(name for name in self._asked.peers if name in entries)
        race.rows.append(Row(cell, rounds, entries, peers, chosen, quality, expected))
        row = race.rows[-1]
        say(
            f"{race.subject.name} {cell}: {chosen} {entries[chosen].ms:.2f} ms, "
            f"{row.ratio(chosen, row.fastest_peer):.2f} × {row.fastest_peer}"
        )

    def _serve(
        self,
        among: Collection[str],
        expected: Mapping[str, float],
        ready: dict[str, Readied | None],
        inputs: Mapping[str, Any],
    ) -> str:
        """The plan expected to be fastest that runs, made ready; the original if none does."""
        for name in sorted(among, key=lambda name: expected[name]):
            if name not in ready:
                ready[name] = self._ready(name, inputs)
            if ready[name] is not None:
                return name
        return ORIGINAL

    def _expected_ms(self, shape: Shape) -> dict[str, float]:
        return {name: self._costs.estimate(name, shape).p50_ms for name in self._costs.plans()}

    def _ready(self, name: str, inputs: Mapping[str, Any]) -> Readied | None:
        """None once it has failed: it takes no further part with this model."""
        if name in self._race.left_out:
            return None
        try:
            if name not in self._live:
                self._live[name] = Contender(self._job_of(name))
                self._live[name].started()
            return self._live[name].ready(inputs, self._asked.compile_s)
        except LeftOut as why:
            self._drop(name, why)
            return None

    def _drop(self, name: str, why: LeftOut) -> None:
        self._race.left_out[name] = str(why)
        self._live.pop(name).close()
        say(f"  {name} is left out: {why}")

    def _job_of(self, name: str) -> Job:
        plan = self._race.plans.get(name)
        if plan is None:
            return replace(self._job, peer=name)
        return replace(
            self._job,
            peer="plan",
            spec=plan.spec,
            artifact=plan.artifact,
            microbatches=plan.microbatches,
        )

    def _turns(self, ready: Mapping[str, Readied], rounds: int) -> dict[str, Entry]:
        """Everybody once per round, another one first each time."""
        names = list(ready)
        times: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(rounds):
            start = turn % len(names)
            for name in names[start:] + names[:start]:
                times[name].append(self._live[name].turn_ms())
        return {name: Entry.of(times[name], ready[name]) for name in names}


def _inputs(subject: Subject, shape: Shape) -> dict[str, Any]:
    call = subject.call(shape.rows, shape.length)
    return {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in call.items()}


def say(text: str) -> None:
    """One line of progress."""
    Console().print(text, highlight=False, soft_wrap=True)
