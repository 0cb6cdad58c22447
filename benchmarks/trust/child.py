"""The process that serves some models of the corpus, one after another.

Reads a job as JSON from its input and writes a line of JSON as each model begins and ends. What it
is doing when it dies is what killed it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.trust.corpus import Entry
from benchmarks.trust.families import FAMILIES
from benchmarks.trust.serve import Setting, serve

__all__ = ["Job", "main"]


@dataclass(frozen=True, slots=True)
class Job:
    """What one process is to do."""

    entries: Sequence[Entry]
    requests: int
    cache: Path
    workers: str

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @staticmethod
    def from_json(text: str) -> Job:
        data: dict[str, Any] = json.loads(text)
        return Job(
            [Entry.from_json(entry) for entry in data["entries"]], data["requests"],
            Path(data["cache"]), data["workers"],
        )  # fmt: skip


def main() -> None:
    job = Job.from_json(sys.stdin.read())
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines print where they like; what is told stays apart
    torch.set_num_threads(1)
    for entry in job.entries:
        print(json.dumps({"began": asdict(entry)}), file=told, flush=True)
        case = FAMILIES[entry.family].case(entry.seed, job.requests)
        setting = Setting(job.cache, entry.backends, entry.precisions, job.workers)
        outcome = serve(case, setting)
        print(json.dumps({"ended": asdict(outcome)}), file=told, flush=True)
        if outcome.lost:
            os._exit(0)  # a thread that hangs would keep the process; another one goes on
    print(json.dumps({"all": len(job.entries)}), file=told, flush=True)
