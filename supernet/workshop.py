"""What happens inside a build process: build one artifact, or check one, then leave.

Two steps, each in a fresh process. "build" writes the artifact into the cache. "check" loads it as
a worker would, runs it on the reference batches, measures it and prints the evidence; it imports
torch only where the backend runs on torch, so that the memory it reports is a worker's.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supernet import heap
from supernet.backends.base import ABOUT, Backend, backend
from supernet.cache import MEMO, ArtifactCache
from supernet.errors import BuildFailed, CacheFull
from supernet.fidelity import METRICS, Limit, judge
from supernet.pausing import wake_with_parent
from supernet.plans import PlanSpec
from supernet.signature import Signature
from supernet.stored import PROGRAM, StoredCapture
from supernet.timing import Timed, measure

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from supernet.backends.base import LoadedPlan

__all__ = ["Job", "follow_parent", "main"]

_NICENESS = 10


@dataclass(frozen=True, slots=True)
class Job:
    """One step to do. ``table`` maps backend names to ``module:attribute``."""

    step: str
    cache: str
    capture: str
    spec: Mapping[str, Any]
    scratch: str
    table: Mapping[str, str]
    measure_s: float
    up_to_ms: float
    metric: str
    max_error: float

    @staticmethod
    def read(path: Path) -> Job:
        return Job(**json.loads(path.read_text(encoding="utf-8")))


Say = Callable[[Mapping[str, Any]], None]


def main(argv: list[str]) -> int:
    """``python -m supernet.build JOB.json``: progress and the result as JSON lines on stdout."""
    if len(argv) != 1:
        print("usage: python -m supernet.build JOB.json", file=sys.stderr)
        return 2
    say = _own_stdout()
    follow_parent()
    job = Job.read(Path(argv[0]))
    try:
        os.nice(_NICENESS)
        _STEPS[job.step](job, say)
    except CacheFull as error:
        say({"failed": str(error), "kind": "full"})
    except BuildFailed as error:
        say({"failed": str(error), "kind": "verdict"})
    except Exception as error:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        say({"failed": f"{type(error).__name__}: {text}"[:300], "kind": "error"})
    return 0


def _build(job: Job, say: Say) -> None:
    spec = PlanSpec.from_json(job.spec)
    capture = StoredCapture.read(Path(job.capture))
    cache = ArtifactCache(job.cache)
    say({"stage": "building", "share": 0.0})
    source = _Source(cache, capture, Path(job.scratch), say)
    with cache.adding("plans", spec.artifact_key) as out:
        _backend(job, spec).build(source, spec, out)
    say({"done": True})


def _check(job: Job, say: Say) -> None:
    spec = PlanSpec.from_json(job.spec)
    capture = StoredCapture.read(Path(job.capture))
    engine = _backend(job, spec)
    if engine.needs_torch:
        import torch

        torch.set_num_threads(spec.threads)
    say({"stage": "loading", "share": 0.0})
    device = capture.signature.device
    before_mib = _used_mib(device)
    artifact = Path(job.cache) / "plans" / spec.artifact_key
    with _blamed("it cannot be loaded"):
        plan = engine.load(artifact, spec)
    heap.give_back()  # as a worker does
    errors, inputs = _verified(plan, capture, say)
    # As in a worker that has run the largest of these batches: without all the answers that were
    # kept to be judged, and before timing, which runs shapes that this plan may never be given.
    heap.give_back()
    plan.run(max(inputs, key=lambda batch: sum(leaf.nbytes for leaf in batch)))
    memory_mib = max(_used_mib(device) - before_mib, _size_mib(artifact))
    timed = _timed(job, plan, capture, inputs[0], errors, say)
    say(
        {
            "errors": errors,
            "costs_ms": [[s.rows, s.length, ms] for s, ms in timed.costs_ms.items()],
            "microbatches": timed.microbatches and timed.microbatches.to_json(),
            "memory_mib": memory_mib,
            "examples": len(inputs),
            "about": _about(artifact),
        }
    )


def _verified(
    plan: LoadedPlan, capture: StoredCapture, say: Say
) -> tuple[dict[str, list[float]], list[list[Any]]]:
    """The worst and mean error by every metric, and the inputs of all the reference batches."""
    batches = capture.batches(plan.arrays)
    outputs = []
    for index, batch in enumerate(batches):
        say({"stage": "verifying", "share": index / len(batches)})
        with _blamed(f"it cannot run {batch.shape.rows} × {batch.shape.length}"):
            outputs.append(plan.run(list(batch.inputs)))
    # Judged only now: an engine that reuses its output buffers has overwritten them by now.
    pairs = [(got, batch.outputs) for got, batch in zip(outputs, batches, strict=True)]
    judged = {metric: judge(metric, pairs) for metric in METRICS}
    errors = {metric: [found.worst, found.mean] for metric, found in judged.items()}
    return errors, [deepcopy(list(batch.inputs)) for batch in batches]


def _search(job: Job, say: Say) -> None:
    import torch

    from supernet.searching import search

    spec = PlanSpec.from_json(job.spec)
    torch.set_num_threads(spec.threads)
    capture = StoredCapture.read(Path(job.capture))
    cache = ArtifactCache(job.cache)
    found = search(
        _Source(cache, capture, Path(job.scratch), say),
        spec,
        capture.grid,
        Limit(job.metric, job.max_error),
        mixed="mixed" in _backend(job, spec).precisions(spec.isa),
        budget_s=job.measure_s,
        say=lambda stage, share: say({"stage": stage, "share": share}),
    )
    say({"specs": [spec.to_json() for spec in found]})


def _timed(
    job: Job,
    plan: LoadedPlan,
    capture: StoredCapture,
    inputs: Any,
    errors: Mapping[str, list[float]],
    say: Say,
) -> Timed:
    if not errors[job.metric][0] <= job.max_error:
        return Timed()  # it will never serve: no need to time it
    say({"stage": "measuring", "share": 0.0})
    return measure(
        plan,
        inputs,
        capture.signature,
        capture.grid,
        threads=int(job.spec["threads"]),
        budget_s=job.measure_s,
        up_to_ms=job.up_to_ms,
        # On a GPU the processor waits while the plan runs.
        clock=None if capture.signature.device == "cpu" else time.perf_counter,
        on_share=lambda share: say({"stage": "measuring", "share": share}),
    )


_STEPS: dict[str, Callable[[Job, Say], None]] = {
    "build": _build,
    "check": _check,
    "search": _search,
}


class _Source:
    """The stored capture in the forms a backend may start from."""

    def __init__(
        self, cache: ArtifactCache, capture: StoredCapture, scratch: Path, say: Say
    ) -> None:
        self._cache, self._capture, self._scratch, self._say = cache, capture, scratch, say

    @property
    def signature(self) -> Signature:
        return self._capture.signature

    def program(self) -> ExportedProgram:
        from supernet.backends.eager import load_program

        return load_program(self._capture.folder / PROGRAM)

    def references(self) -> list[tuple[Sequence[Any], Sequence[Any]]]:
        return [(batch.inputs, batch.outputs) for batch in self._capture.batches("torch")]

    def onnx(self) -> Path:
        from supernet.backends.onnx_file import ONNX_FILE, export_onnx

        key = self._capture.graph_hash
        folder = self._cache.entry("onnx", key)
        if folder is None:
            self._say({"stage": "exporting to ONNX", "share": 0.1})
            with self._cache.adding("onnx", key) as out:
                export_onnx(self.program(), self.signature, out)
            folder = self._cache.entry("onnx", key)
        if folder is None:
            raise OSError("the ONNX file just written cannot be read back")
        return folder / ONNX_FILE

    def remembered(self, name: str, make: Callable[[], Any]) -> Any:
        key = hashlib.sha256(f"{name} {self._capture.graph_hash}".encode()).hexdigest()
        memo = f"{MEMO}{key[:32]}"
        known = self._cache.report(memo)
        if known is None:
            known = {"value": make()}
            self._cache.put_report(memo, known)
        return known["value"]

    def scratch(self) -> Path:
        return self._scratch


def _backend(job: Job, spec: PlanSpec) -> Backend:
    return backend(spec.backend, dict(job.table))


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """Turn whatever an engine raises into the plan's own failure."""
    try:
        yield
    except (MemoryError, OSError):
        raise
    except Exception as error:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise BuildFailed(f"{what}: {type(error).__name__}: {text}"[:300]) from error


def _own_stdout() -> Say:
    """Keep stdout for progress; what libraries print goes to stderr."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(record: Mapping[str, Any]) -> None:
        channel.write(json.dumps(record) + "\n")
        channel.flush()

    return say


def follow_parent() -> None:
    """End with everything it started once the parent is gone, even while stopped."""
    wake_with_parent()
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """Waits for the end of stdin, which the parent holds open."""
    while os.read(0, 1024):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _used_mib(device: str) -> float:
    """Of the memory where plans for ``device`` live: this process's, on a GPU everybody's."""
    if device == "cpu":
        import psutil

        return float(psutil.Process().memory_info().rss) / 2**20
    import torch

    from profiler.nvidia import NvidiaProfiler

    torch.zeros(1, device=device)  # the context itself is not the plan's
    return NvidiaProfiler().used_mib(f"GPU-{torch.cuda.get_device_properties(device).uuid}")


def _about(artifact: Path) -> str:
    path = artifact / ABOUT
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def _size_mib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
