"""A build process from the inside: one step of a plan's making, then it ends.

Each step in a fresh process. "build" writes the artifact into the cache. "check" loads it as
a worker would, runs it on the reference batches, measures it and prints the evidence; it imports
torch only where the backend runs on torch, so that the memory it reports is a worker's. "search"
looks for more plans (`supernet.building.fusion_search`), "compare" times close ones side by side
(`supernet.building.side_by_side`).
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supernet.backends.base import ABOUT, Backend, backend, load_plan
from supernet.building.reports import costs_to_json, judged
from supernet.building.rowwise import answer_unseen
from supernet.building.source import Say, StoredSource
from supernet.building.timing import Timed, clock_of, measure
from supernet.cache import ArtifactCache
from supernet.capture.stored import StoredCapture
from supernet.errors import BuildFailed, CacheFull, OperatorMissing
from supernet.fidelity import EXACT, METRICS, Limit, judge, tier_of
from supernet.jobs import malloc
from supernet.jobs.pausing import wake_with_parent
from supernet.operators import write_operators
from supernet.plans import Plan, PlanSpec

if TYPE_CHECKING:
    from supernet.backends.base import LoadedPlan

__all__ = ["Job", "follow_parent", "main"]

_NICENESS = 10
_PARENT_POLL_MS = 500


@dataclass(frozen=True, slots=True)
class Job:
    """One step to do. ``table`` maps backend names to ``module:attribute``; ``reports`` names those
    of the plans to compare; ``times`` is False where a plan to check was timed before."""

    step: str
    cache: str
    capture: str
    spec: Mapping[str, Any]
    table: Mapping[str, str]
    measure_s: float
    up_to_ms: float
    metric: str
    max_error: float
    reports: Sequence[str] = ()
    times: bool = True

    @staticmethod
    def read(path: Path) -> Job:
        return Job(**json.loads(path.read_text(encoding="utf-8")))


def main(argv: list[str]) -> int:
    """``python -m supernet.building.build JOB.json``: JSON lines of progress, then the result."""
    if len(argv) != 1:
        print("usage: python -m supernet.building.build JOB.json", file=sys.stderr)
        return 2
    say = _own_stdout()
    follow_parent()
    job = Job.read(Path(argv[0]))
    try:
        os.nice(_NICENESS)
        _STEPS[job.step](job, say)
    except CacheFull as error:
        say({"failed": str(error), "kind": "full"})
    except OperatorMissing as error:  # says nothing about next time
        say({"failed": str(error), "kind": "error"})
    except BuildFailed as error:
        say({"failed": str(error), "kind": "verdict"})
    except Exception as error:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        kind = "error" if isinstance(error, (MemoryError, OSError)) else "mistake"
        say({"failed": f"{type(error).__name__}: {text}"[:300], "kind": kind})
    return 0


def _build(job: Job, say: Say) -> None:
    spec = PlanSpec.from_json(job.spec)
    capture = StoredCapture.read(Path(job.capture))
    cache = ArtifactCache(job.cache)
    say({"stage": "building", "share": 0.0})
    source = StoredSource(cache, capture, say)
    with cache.adding("plans", spec.artifact_key) as out:
        _backend(job, spec).build(source, spec, out)
        write_operators(capture.operators, out)
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
        plan = load_plan(artifact, spec, table=dict(job.table))
    malloc.give_back()  # as a worker does
    errors, inputs = _verified(plan, capture, say)
    # As in a worker that has run the largest of these batches: without all the answers that were
    # kept to be judged, and before timing, which runs shapes that this plan may never be given.
    malloc.give_back()
    plan.run(max(inputs, key=lambda batch: sum(leaf.nbytes for leaf in batch)))
    memory_mib = max(_used_mib(device) - before_mib, _size_mib(artifact))
    rows, stage = None, {"stage": "verifying unseen rows"}
    if errors[job.metric][0] <= job.max_error and _is_coarse(spec, errors):
        with _blamed("it cannot run unseen rows"):
            rows = answer_unseen(plan, capture, lambda share: say({**stage, "share": share}))
        malloc.give_back()
    timed = _timed(job, plan, capture, inputs[0], errors, say)
    say(
        {
            "errors": errors,
            "rows": rows and rows.to_json(),
            "costs_ms": costs_to_json(timed.costs_ms),
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


def _is_coarse(spec: PlanSpec, errors: Mapping[str, Sequence[float]]) -> bool:
    """Whether it computes more coarsely than the model, by its precision or by what it gave."""
    return spec.precision != "fp32" or errors["relative_l2"][0] > EXACT


def _search(job: Job, say: Say) -> None:
    import torch

    from supernet.building.fusion_search import search

    spec = PlanSpec.from_json(job.spec)
    torch.set_num_threads(spec.threads)
    capture = StoredCapture.read(Path(job.capture))
    cache = ArtifactCache(job.cache)
    found = search(
        StoredSource(cache, capture, say),
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
    if not job.times or not errors[job.metric][0] <= job.max_error:
        return Timed()  # it was timed before, or will never serve
    say({"stage": "measuring", "share": 0.0})
    return measure(
        plan,
        inputs,
        capture.signature,
        capture.grid,
        threads=int(job.spec["threads"]),
        budget_s=job.measure_s,
        up_to_ms=job.up_to_ms,
        on_share=lambda share: say({"stage": "measuring", "share": share}),
    )


def _compare(job: Job, say: Say) -> None:
    from supernet.building.side_by_side import close_plans, compare

    capture = StoredCapture.read(Path(job.capture))
    cache = ArtifactCache(job.cache)
    limit = Limit(job.metric, job.max_error)
    plans = {name: _known(cache, name, limit) for name in job.reports}
    known = {name: plan.costs_ms for name, plan in plans.items()}
    contests = close_plans(known, {name: tier_of(plan.error) for name, plan in plans.items()})
    met = {name: plans[name] for name in sorted({n for names in contests.values() for n in names})}
    threads = int(job.spec["threads"])
    if any(_backend(job, plan.spec).needs_torch for plan in met.values()):
        import torch

        torch.set_num_threads(threads)
    say({"stage": "loading plans to compare", "share": 0.0})
    loaded = {
        name: load_plan(plan.artifact, plan.spec, plan.microbatches, dict(job.table))
        for name, plan in met.items()
        if plan.artifact is not None
    }
    found = compare(
        loaded,
        {name: capture.batches(plan.arrays)[0].inputs for name, plan in loaded.items()},
        known, contests, capture.signature,
        budget_s=job.measure_s, clock=clock_of(threads, capture.signature.device),
        on_share=lambda share: say({"stage": "comparing", "share": share}),
    )  # fmt: skip
    say({"costs_ms": {name: costs_to_json(costs) for name, costs in found.items()}})


def _known(cache: ArtifactCache, name: str, limit: Limit) -> Plan:
    report = cache.report(name)
    if report is None:
        raise BuildFailed(f"the report {name} cannot be read back")
    return judged(cache, PlanSpec.from_json(report["spec"]), limit, report)


_STEPS: dict[str, Callable[[Job, Say], None]] = {
    "build": _build,
    "check": _check,
    "search": _search,
    "compare": _compare,
}


def _backend(job: Job, spec: PlanSpec) -> Backend:
    return backend(spec.backend, dict(job.table))


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """Turn whatever an engine raises into the plan's own failure."""
    try:
        yield
    except (MemoryError, OSError, OperatorMissing):
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
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()


def _leave_with_parent(parent: int) -> None:
    """Waits for the end of stdin, which the parent holds open, or for another parent: a fork of
    the first may hold the same open for longer than it lives."""
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    while os.getppid() == parent:
        if poll.poll(_PARENT_POLL_MS) and not os.read(0, 1024):
            break
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
