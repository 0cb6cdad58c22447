"""The memory pattern of a captured program on this machine, found in a process of its own.

Not in the serving process: rehearsing a program sets flags of torch that hold for all its threads
(`TorchDispatchMode`), so that an export or `torch.compile` beside it could be left with them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

from profiler.fingerprint import DeviceFingerprint
from profiler.patterns import MIB, Demand, knots
from profiler.shapes import Shape
from supernet.cache import MEMO, ArtifactCache
from supernet.capture.stored import StoredCapture
from supernet.errors import BuildFailed
from supernet.jobs.process import Step, run_step

__all__ = ["demand", "find_demand"]

BUDGET_S = 60.0
_NICENESS = 10


def find_demand(
    cache: ArtifactCache,
    capture_dir: Path,
    device: DeviceFingerprint,
    *,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[Shape, Demand]:
    """What a batch asks of `device` at the knots of the grid; found once and remembered.

    `capture_dir` is what `ArtifactCache.stored` gave. About 0.1 s a shape for an encoder of 200
    operators, and 4 s for the process. Raises `BuildFailed` where the program can't be followed,
    `BuildInterrupted` once `cancelled()`.
    """
    about = {"capture": str(capture_dir), "device": device.to_json()}
    stored = StoredCapture.read(capture_dir)
    # Not by the folder's name: the same model wrapped with other examples is asked the same.
    program = [stored.graph_hash, stored.signature.to_json(), stored.grid.to_json()]
    asked = json.dumps([program, about["device"]], sort_keys=True)
    name = f"{MEMO}pattern-{hashlib.sha256(asked.encode()).hexdigest()[:20]}"
    known = cache.report(name)
    if known is None:
        with cache.scratch() as scratch:
            step = Step(
                job=about, scratch=scratch, threads=1, budget_s=BUDGET_S, on_progress=_unheard,
                cancelled=cancelled, module="supernet.building.memory_demand",
            )  # fmt: skip
            known = run_step(step, "pattern")
        if "failed" in known:
            raise BuildFailed(str(known["failed"]))
        cache.put_report(name, known)
    return {Shape(int(rows), int(length)): Demand(*of) for rows, length, *of in known["points"]}


def demand(capture: StoredCapture, device: DeviceFingerprint) -> Iterator[tuple[Shape, Demand]]:
    """Shape by shape. Of a device that was never measured nobody knows the balance: no work."""
    from supernet.fusion.graph.memory import extract_memory_pattern
    from supernet.fusion.graph.op_graph import OpGraph

    program = capture.program()
    for shape in knots(capture.grid):
        graph = OpGraph.of(program, capture.signature, shape)
        found = extract_memory_pattern(graph, device)
        read, written = found.bytes_read / MIB, found.bytes_written / MIB
        work = found.balance * (read + written) if device.measured else 0.0
        yield shape, Demand(work, read, written, found.served_by["memory"] * read)


def main(path: str) -> None:
    """`python -m supernet.building.memory_demand JOB.json`: a record a shape, then all."""
    from supernet.building.build_job import follow_parent

    follow_parent()
    os.nice(_NICENESS)
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    _say({"stage": "memory pattern", "share": 0.0})
    found = demand(
        StoredCapture.read(Path(job["capture"])), DeviceFingerprint.from_json(job["device"])
    )
    _say({"points": [[shape.rows, shape.length, *astuple(of)] for shape, of in found]})


def _say(record: dict[str, Any]) -> None:
    print(json.dumps(record), flush=True)


def _unheard(stage: str, share: float) -> None:
    """A few seconds interest nobody."""


if __name__ == "__main__":
    main(sys.argv[1])
