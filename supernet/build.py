"""Build, verify and measure plans, each in niced processes of its own.

A native crash, a compiler that runs wild or a full disk ends such a process and nothing else
(docs/decisions/0004). What it found is kept in the cache: a second start measures nothing.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from profiler.shapes import Shape
from supernet.backends.base import BACKENDS
from supernet.cache import MEMO, ArtifactCache
from supernet.errors import BuildFailed, BuildInterrupted, CacheFull
from supernet.fidelity import METRICS
from supernet.microbatches import Microbatches
from supernet.pausing import Pauses
from supernet.plans import Plan, PlanSpec, PlanState
from supernet.process import Step, run_step

__all__ = ["BuildLimits", "build_plan", "find_fusions", "known_plans"]

OnProgress: TypeAlias = Callable[[str, float], None]
"""Called with a stage in words and the share of it that is done."""

# Of measuring; another name where the same plan would show other costs (see `supernet.heap`).
_CONDITIONS = "heap kept, up to a limit, warm, in microbatches, after a large batch"
_TRIES = 2  # a process killed from outside is tried once more


@dataclass(frozen=True, slots=True)
class BuildLimits:
    """What a build may take, and how good its answers must be.

    ``budget_s`` for everything, of which ``measure_s`` for timing, which goes no further than the
    first batch that takes over ``up_to_ms``; ``max_error`` by ``metric`` (see
    ``supernet.fidelity``), over which a plan is quarantined.
    """

    budget_s: float = 300.0
    measure_s: float = 8.0
    up_to_ms: float = math.inf
    metric: str = "relative_l2"
    max_error: float = 0.005

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {sorted(METRICS)}, got {self.metric!r}")
        if not self.budget_s > 0:
            raise ValueError(f"budget_s must be positive, got {self.budget_s}")
        if not self.max_error >= 0:
            raise ValueError(f"max_error must be at least 0, got {self.max_error}")


def build_plan(
    cache: ArtifactCache,
    capture_dir: Path,
    spec: PlanSpec,
    limits: BuildLimits,
    on_progress: OnProgress = lambda stage, share: None,
    *,
    device: str = "",
    cancelled: Callable[[], bool] = lambda: False,
    pauses: Pauses | None = None,
    table: Mapping[str, str] = BACKENDS,
) -> Plan:
    """The plan with its evidence: admitted, or quarantined and why. Blocks while it is built.

    ``capture_dir`` is what ``ArtifactCache.stored`` gave; ``device`` the fingerprint's key,
    because costs measured on one machine say nothing about another. ``pauses`` may hold the build
    up at any moment; only for one thread, whose costs are processor time. Raises ``CacheFull``
    where the disk has no room (not the plan's fault), ``BuildInterrupted`` once ``cancelled()``.
    """
    name = _report_name(spec, device)
    known = cache.report(name)
    if known is not None and known.get("failure"):
        return _failed(spec, limits, str(known["failure"]))
    if known is not None and (plan := _from_report(cache, spec, limits, known)) is not None:
        return plan
    for attempt in range(_TRIES):
        try:
            with cache.scratch() as scratch:
                step = _step(
                    cache, capture_dir, spec, limits, on_progress, cancelled, pauses, table, scratch
                )
                found = _make(cache, spec, step)
            break
        except BuildInterrupted as error:
            if cancelled() or attempt + 1 == _TRIES:
                if cancelled():
                    raise
                return _failed(spec, limits, f"{error}, {_TRIES} times (out of memory?)")
        except _Verdict as verdict:
            cache.discard("plans", spec.artifact_key, str(verdict))
            record = {"spec": spec.to_json(), "device": device, "failure": str(verdict)}
            cache.put_report(name, record)
            return _failed(spec, limits, str(verdict))
        except BuildFailed as error:
            return _failed(spec, limits, str(error))
    found = {**found, "up_to_ms": limits.up_to_ms}
    cache.put_report(name, {"spec": spec.to_json(), "device": device, "failure": None, **found})
    plan = _judged(cache, spec, limits, found)
    if plan.state is PlanState.QUARANTINED:
        cache.discard("plans", spec.artifact_key, plan.reason)
    return plan


def find_fusions(
    cache: ArtifactCache,
    capture_dir: Path,
    base: PlanSpec,
    limits: BuildLimits,
    on_progress: OnProgress = lambda stage, share: None,
    *,
    device: str = "",
    cancelled: Callable[[], bool] = lambda: False,
    pauses: Pauses | None = None,
) -> tuple[PlanSpec, ...]:
    """The fused plans worth building beside ``base``, searched once per machine and remembered.

    Those that nothing beats in time, memory and error, best first (`supernet.fusion.search`).
    Raises ``BuildFailed`` where the search fails, ``BuildInterrupted`` once ``cancelled()``,
    ``CacheFull`` where the disk has no room.
    """
    asked = f"{base.artifact_key} {base.threads} {device} {limits.metric}<={limits.max_error}"
    name = f"{MEMO}search-{hashlib.sha256(f'{asked} {_CONDITIONS}'.encode()).hexdigest()[:20]}"
    known = cache.report(name)
    if known is None:
        with cache.scratch() as scratch:
            step = _step(
                cache, capture_dir, base, limits, on_progress, cancelled, pauses, BACKENDS, scratch
            )
            known = _run(cache, step, "search")
        cache.put_report(name, known)
    return tuple(PlanSpec.from_json(spec) for spec in known["specs"])


def known_plans(cache: ArtifactCache, limits: BuildLimits) -> tuple[Plan, ...]:
    """Every plan the cache holds a report about, judged by ``limits``; nothing is built."""
    plans = []
    for report in cache.reports():
        spec = PlanSpec.from_json(report["spec"])
        failure = report.get("failure")
        plans.append(
            _failed(spec, limits, str(failure)) if failure else _judged(cache, spec, limits, report)
        )
    return tuple(plans)


class _Verdict(BuildFailed):
    """A failure that would be the same next time: kept."""


def _make(cache: ArtifactCache, spec: PlanSpec, step: Step) -> dict[str, Any]:
    """Build unless the artifact is there, then check it; the evidence."""
    if cache.entry("plans", spec.artifact_key) is None:
        _run(cache, step, "build")
        if cache.entry("plans", spec.artifact_key) is None:
            raise BuildFailed("the artifact just built cannot be read back")
    return _run(cache, step, "check")


def _step(
    cache: ArtifactCache, capture_dir: Path, spec: PlanSpec, limits: BuildLimits,
    on_progress: OnProgress, cancelled: Callable[[], bool], pauses: Pauses | None,
    table: Mapping[str, str], scratch: Path,
) -> Step:  # fmt: skip
    job = {
        "cache": str(cache.root),
        "capture": str(capture_dir),
        "spec": spec.to_json(),
        "scratch": str(scratch),
        "table": dict(table),
        "measure_s": limits.measure_s,
        "up_to_ms": limits.up_to_ms,
        "metric": limits.metric,
        "max_error": limits.max_error,
    }
    return Step(
        job, scratch, spec.threads, limits.budget_s, on_progress, cancelled,
        pauses=pauses or Pauses(),
    )  # fmt: skip


def _run(cache: ArtifactCache, step: Step, name: str) -> dict[str, Any]:
    try:
        outcome = run_step(step, name)
    finally:
        cache.sweep()  # a process that was killed could not tidy up
    failure = outcome.get("failed")
    if failure is None:
        return outcome
    kind = outcome["kind"]
    if kind == "full":
        raise CacheFull(str(failure))
    raise (_Verdict if kind in ("verdict", "crash") else BuildFailed)(str(failure))


def _from_report(
    cache: ArtifactCache, spec: PlanSpec, limits: BuildLimits, report: Mapping[str, Any]
) -> Plan | None:
    """The plan as remembered; None where something must be built or measured again."""
    plan = _judged(cache, spec, limits, report)
    if plan.state is PlanState.QUARANTINED:
        return plan
    timed = plan.costs_ms and report["up_to_ms"] >= limits.up_to_ms
    return plan if timed and plan.artifact is not None else None


def _judged(
    cache: ArtifactCache, spec: PlanSpec, limits: BuildLimits, found: Mapping[str, Any]
) -> Plan:
    error = float(found["errors"][limits.metric][0])
    passes = error <= limits.max_error  # False for NaN, too
    costs = {Shape(int(rows), int(length)): float(ms) for rows, length, ms in found["costs_ms"]}
    how = found["microbatches"] and Microbatches.from_json(found["microbatches"])
    verb = "is within" if passes else "is over"
    about = "".join(f"; {part}" for part in (found["about"], how) if part)
    return Plan(
        spec=spec,
        state=PlanState.ADMITTED if passes else PlanState.QUARANTINED,
        error=error,
        metric=limits.metric,
        memory_mib=float(found["memory_mib"]),
        costs_ms=costs,
        microbatches=how,
        artifact=cache.entry("plans", spec.artifact_key) if passes else None,
        reason=f"{limits.metric} error {error:.2g} {verb} the limit {limits.max_error:g}{about}",
    )


def _failed(spec: PlanSpec, limits: BuildLimits, reason: str) -> Plan:
    return Plan(spec, PlanState.QUARANTINED, metric=limits.metric, reason=reason)


def _report_name(spec: PlanSpec, device: str) -> str:
    where = hashlib.sha256(f"{device} {_CONDITIONS}".encode()).hexdigest()[:8]
    return f"{spec.artifact_key}-t{spec.threads}-{where}"


if __name__ == "__main__":
    from supernet.workshop import main

    sys.exit(main(sys.argv[1:]))
