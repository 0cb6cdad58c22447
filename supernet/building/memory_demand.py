"""The memory pattern of a captured program on this machine, found in a process of its own.

Not in the serving process: rehearsing a program sets flags of torch that hold for all its threads
(`TorchDispatchMode`), so that an export or `torch.compile` beside it could be left with them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from profiler.fingerprint import DeviceFingerprint
from profiler.patterns import MIB, MemoryDemand, knots
from profiler.shapes import Shape
from supernet.building.failures import as_build_errors, as_job_errors
from supernet.cache import MEMO, ArtifactCache
from supernet.capture.stored import StoredCapture
from supernet.jobs.child import Say, main
from supernet.jobs.process import Terms, run_job

__all__ = ["DemandRequest", "demand", "find_demand", "work"]

BUDGET_S = 60.0


@dataclass(frozen=True, slots=True)
class DemandRequest:
    """The folder of a stored capture, and a `DeviceFingerprint` as JSON."""

    capture: str
    device: dict[str, Any]


def find_demand(
    cache: ArtifactCache,
    capture_dir: Path,
    device: DeviceFingerprint,
    *,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[Shape, MemoryDemand]:
    """What a batch asks of `device` at the knots of the grid; found once and remembered.

    `capture_dir` is what `store` gave. About 0.1 s a shape for an encoder of 200
    operators, and 4 s for the process. Raises `BuildFailed` where the program can't be followed,
    `BuildInterrupted` once `cancelled()`.
    """
    request = DemandRequest(str(capture_dir), device.to_json())
    stored = StoredCapture.read(capture_dir)
    # Not by the folder's name: the same model wrapped with other examples is asked the same.
    program = [stored.graph_hash, stored.signature.to_json(), stored.grid.to_json()]
    asked = json.dumps([program, request.device], sort_keys=True)
    name = f"{MEMO}pattern-{hashlib.sha256(asked.encode()).hexdigest()[:20]}"
    known = cache.report(name)
    if known is None:
        with cache.scratch() as scratch, as_build_errors():
            known = run_job(request, Terms(scratch, BUDGET_S, cancelled=cancelled))
        cache.put_report(name, known)
    return {
        Shape(int(rows), int(length)): MemoryDemand(*of) for rows, length, *of in known["points"]
    }


def demand(
    capture: StoredCapture, device: DeviceFingerprint
) -> Iterator[tuple[Shape, MemoryDemand]]:
    """Shape by shape. Of a device that was never measured nobody knows the balance: no work."""
    from supernet.fusion.graph.memory import extract_memory_pattern
    from supernet.fusion.graph.op_graph import OpGraph

    program = capture.program()
    for shape in knots(capture.grid):
        graph = OpGraph.of(program, capture.signature, shape)
        found = extract_memory_pattern(graph, device)
        read, written = found.bytes_read / MIB, found.bytes_written / MIB
        work = found.balance * (read + written) if device.measured else 0.0
        yield shape, MemoryDemand(work, read, written, found.served_by["memory"] * read)


def work(request: DemandRequest, say: Say) -> dict[str, Any]:
    """Rows, length and `MemoryDemand` of every knot."""
    say("memory pattern", 0.0)
    with as_job_errors():
        found = demand(
            StoredCapture.read(Path(request.capture)), DeviceFingerprint.from_json(request.device)
        )
        return {"points": [[shape.rows, shape.length, *astuple(of)] for shape, of in found]}


if __name__ == "__main__":
    main(DemandRequest, work)
