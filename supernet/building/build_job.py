"""The job of building: one step of a plan's making.

Each step in a fresh process. "build" writes the artifact into the cache. "check" loads it as
a worker would, runs it on the reference batches, measures it and prints the evidence; it imports
torch only where the backend runs on torch, so that the memory it reports is a worker's. "search"
looks for more plans (`supernet.building.fusion_search`), "compare" times close ones side by side
(`supernet.building.side_by_side`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supernet.backends.base import ABOUT, Backend, backend, load_plan
from supernet.building.failures import as_job_errors
from supernet.building.reports import costs_to_json, judged
from supernet.building.rowwise import answer_unseen
from supernet.building.source import StoredSource
from supernet.building.timing import Timed, clock_of, measure
from supernet.cache import ArtifactCache
from supernet.capture.stored import StoredCapture
from supernet.errors import BuildFailed, OperatorMissing
from supernet.fidelity import EXACT, METRICS, Limit, judge
from supernet.jobs import malloc
from supernet.jobs.child import Say, is_out_of_memory, main
from supernet.operators import write_operators
from supernet.plans import Plan, PlanSpec
from supernet.tiers import plan_tier

if TYPE_CHECKING:
    from supernet.backends.base import LoadedPlan

__all__ = ["BuildRequest", "work"]


@dataclass(frozen=True, slots=True)
class BuildRequest:
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


def work(request: BuildRequest, say: Say) -> dict[str, Any]:
    """Do the step that is asked for; what it found."""
    with as_job_errors():
        return _STEPS[request.step](request, say)


def _build(request: BuildRequest, say: Say) -> dict[str, Any]:
    spec = PlanSpec.from_json(request.spec)
    capture = StoredCapture.read(Path(request.capture))
    cache = ArtifactCache(request.cache)
    say("building", 0.0)
    source = StoredSource(cache, capture, say)
    with cache.adding("plans", spec.artifact_key) as out:
        _backend(request, spec).build(source, spec, out)
        write_operators(capture.operators, out)
    return {}


def _check(request: BuildRequest, say: Say) -> dict[str, Any]:
    spec = PlanSpec.from_json(request.spec)
    capture = StoredCapture.read(Path(request.capture))
    engine = _backend(request, spec)
    if engine.needs_torch:
        import torch

        torch.set_num_threads(spec.threads)
    say("loading", 0.0)
    device = capture.signature.device
    before_mib = _used_mib(device)
    artifact = Path(request.cache) / "plans" / spec.artifact_key
    with _blamed("it cannot be loaded"):
        plan = load_plan(artifact, spec, table=dict(request.table))
    malloc.give_back()  # as a worker does
    errors, inputs = _verified(plan, capture, say)
    # As in a worker that has run the largest of these batches: without all the answers that were
    # kept to be judged, and before timing, which runs shapes that this plan may never be given.
    malloc.give_back()
    plan.run(max(inputs, key=lambda batch: sum(leaf.nbytes for leaf in batch)))
    memory_mib = max(_used_mib(device) - before_mib, _size_mib(artifact))
    rows = None
    if errors[request.metric][0] <= request.max_error and _is_coarse(spec, errors):
        with _blamed("it cannot run unseen rows"):
            rows = answer_unseen(plan, capture, lambda share: say("verifying unseen rows", share))
        malloc.give_back()
    timed = _timed(request, plan, capture, inputs[0], errors, say)
    return {
        "errors": errors,
        "rows": rows and rows.to_json(),
        "costs_ms": costs_to_json(timed.costs_ms),
        "microbatches": timed.microbatches and timed.microbatches.to_json(),
        "memory_mib": memory_mib,
        "examples": len(inputs),
        "about": _about(artifact),
    }


def _verified(
    plan: LoadedPlan, capture: StoredCapture, say: Say
) -> tuple[dict[str, list[float]], list[list[Any]]]:
    """The worst and mean error by every metric, and the inputs of all the reference batches."""
    batches = capture.batches(plan.arrays)
    outputs = []
    for index, batch in enumerate(batches):
        say("verifying", index / len(batches))
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


def _search(request: BuildRequest, say: Say) -> dict[str, Any]:
    import torch

    from supernet.building.fusion_search import search

    spec = PlanSpec.from_json(request.spec)
    torch.set_num_threads(spec.threads)
    capture = StoredCapture.read(Path(request.capture))
    cache = ArtifactCache(request.cache)
    found = search(
        StoredSource(cache, capture, say),
        spec,
        capture.grid,
        Limit(request.metric, request.max_error),
        mixed="mixed" in _backend(request, spec).precisions(spec.isa),
        budget_s=request.measure_s,
        say=say,
    )
    return {"specs": [spec.to_json() for spec in found]}


def _timed(
    request: BuildRequest,
    plan: LoadedPlan,
    capture: StoredCapture,
    inputs: Any,
    errors: Mapping[str, list[float]],
    say: Say,
) -> Timed:
    if not request.times or not errors[request.metric][0] <= request.max_error:
        return Timed()  # it was timed before, or will never serve
    say("measuring", 0.0)
    return measure(
        plan,
        inputs,
        capture.signature,
        capture.grid,
        threads=int(request.spec["threads"]),
        budget_s=request.measure_s,
        up_to_ms=request.up_to_ms,
        on_share=lambda share: say("measuring", share),
    )


def _compare(request: BuildRequest, say: Say) -> dict[str, Any]:
    from supernet.building.side_by_side import close_plans, compare

    capture = StoredCapture.read(Path(request.capture))
    cache = ArtifactCache(request.cache)
    limit = Limit(request.metric, request.max_error)
    plans = {name: _known(cache, name, limit) for name in request.reports}
    known = {name: plan.costs_ms for name, plan in plans.items()}
    contests = close_plans(known, {name: plan_tier(plan) for name, plan in plans.items()})
    met = {name: plans[name] for name in sorted({n for names in contests.values() for n in names})}
    threads = int(request.spec["threads"])
    if any(_backend(request, plan.spec).needs_torch for plan in met.values()):
        import torch

        torch.set_num_threads(threads)
    say("loading plans to compare", 0.0)
    loaded = {
        name: load_plan(plan.artifact, plan.spec, plan.microbatches, dict(request.table))
        for name, plan in met.items()
        if plan.artifact is not None
    }
    found = compare(
        loaded,
        {name: capture.batches(plan.arrays)[0].inputs for name, plan in loaded.items()},
        known, contests, capture.signature,
        budget_s=request.measure_s, clock=clock_of(threads, capture.signature.device),
        on_share=lambda share: say("comparing", share),
    )  # fmt: skip
    return {"costs_ms": {name: costs_to_json(costs) for name, costs in found.items()}}


def _known(cache: ArtifactCache, name: str, limit: Limit) -> Plan:
    report = cache.report(name)
    if report is None:
        raise BuildFailed(f"the report {name} cannot be read back")
    return judged(cache, PlanSpec.from_json(report["spec"]), limit, report)


_STEPS: dict[str, Callable[[BuildRequest, Say], dict[str, Any]]] = {
    "build": _build,
    "check": _check,
    "search": _search,
    "compare": _compare,
}


def _backend(request: BuildRequest, spec: PlanSpec) -> Backend:
    return backend(spec.backend, dict(request.table))


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """Turn whatever an engine raises into the plan's own failure."""
    try:
        yield
    except (OSError, OperatorMissing):
        raise
    except Exception as error:
        if is_out_of_memory(error):  # what else runs decides: no failure of the plan's own
            raise
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise BuildFailed(f"{what}: {type(error).__name__}: {text}"[:300]) from error


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


if __name__ == "__main__":
    main(BuildRequest, work)
