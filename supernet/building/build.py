"""Build, verify and measure plans, each in niced processes of its own.

A native crash, a compiler that runs wild or a full disk ends such a process and nothing else
(docs/decisions/0004). What it found is kept in the cache: a second start measures nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from supernet.backends.base import BACKENDS
from supernet.building.build_job import BuildRequest
from supernet.building.failures import FinalFailure, Mistake, as_build_errors
from supernet.building.mistakes import kept_mistake, note_mistake
from supernet.building.reports import (
    CONDITIONS,
    failed,
    is_judged,
    is_timed,
    joined,
    judged,
    report_name,
    sound,
)
from supernet.cache import MEMO, ArtifactCache
from supernet.capture.stored import StoredCapture
from supernet.errors import BuildFailed, BuildInterrupted
from supernet.fidelity import METRICS, Limit
from supernet.jobs.pausing import Pauses
from supernet.jobs.process import Terms, run_job
from supernet.jobs.progress import Stage
from supernet.plans import Plan, PlanSpec, PlanState

__all__ = ["BuildLimits", "build_plan", "compare_plans", "find_fusions", "known_plans"]

OnProgress: TypeAlias = Callable[[str, float], None]
"""Called with a stage in words and the share of it that is done."""

_EXPORTED = ("torch._dynamo",)
_AS_ONNX = (*_EXPORTED, "torch.onnx", "onnxscript")
_IMPORTS = {
    "eager": _EXPORTED, "aoti": _EXPORTED, "fused": _EXPORTED,
    "onnxruntime": _AS_ONNX, "openvino": _AS_ONNX,
}  # fmt: skip
"""Of a build, by backend: what takes longest to import, and starts no thread."""
_TRIES = 2  # a process killed from outside is tried once more


@dataclass(frozen=True, slots=True)
class BuildLimits:
    """What a build may take, and how good its answers must be.

    ``budget_s`` for everything, of which ``measure_s`` for timing, which goes no further than the
    first batch that takes over ``up_to_ms``; ``compare_s`` for timing close plans side by side;
    ``max_error`` by ``metric`` (see
    ``supernet.fidelity``), over which a plan is quarantined.
    """

    budget_s: float = 300.0
    measure_s: float = 8.0
    compare_s: float = 120.0
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

    @property
    def limit(self) -> Limit:
        return Limit(self.metric, self.max_error)


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
    """The plan with its evidence: verified, or quarantined and why. Blocks while it is built.

    ``capture_dir`` is what ``store`` gave; ``device`` the fingerprint's key,
    because costs measured on one machine say nothing about another. ``pauses`` may hold the build
    up at any moment; only for one thread, whose costs are processor time. Raises ``CacheFull``
    where the disk has no room (not the plan's fault), ``BuildInterrupted`` once ``cancelled()``.
    """
    name, capture = report_name(spec, device), StoredCapture.read(capture_dir)
    known = cache.report(name)
    if not sound(cache, limits.limit, known):
        known = None
    if known is not None and known.get("failure"):
        return failed(spec, limits.limit, str(known["failure"]))
    if known is not None and (plan := _from_report(cache, capture, spec, limits, known)):
        return plan
    if (said := kept_mistake(cache, name)) is not None:
        return failed(spec, limits.limit, said)
    for attempt in range(_TRIES):
        try:
            with cache.scratch() as scratch:
                request = _request(cache, capture_dir, spec, limits, table)
                terms = _terms(scratch, spec, limits, on_progress, cancelled, pauses)
                found = _make(cache, capture, limits, _Steps(cache, request, terms), known)
            break
        except BuildInterrupted as error:
            if cancelled() or attempt + 1 == _TRIES:
                if cancelled():
                    raise
                return failed(spec, limits.limit, f"{error}, {_TRIES} times (out of memory?)")
        except FinalFailure as verdict:
            cache.discard("plans", spec.artifact_key, str(verdict))
            record = {"spec": spec.to_json(), "device": device, "failure": str(verdict)}
            cache.put_report(name, record)
            return failed(spec, limits.limit, str(verdict))
        except BuildFailed as error:
            if isinstance(error, Mistake):
                note_mistake(cache, name, str(error))
            return failed(spec, limits.limit, str(error))
    cache.put_report(name, {"spec": spec.to_json(), "device": device, "failure": None, **found})
    plan = judged(cache, spec, limits.limit, found)
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
    on = f"{device} {StoredCapture.read(capture_dir).key}"
    asked = f"{base.artifact_key} {base.threads} {on} {limits.metric}<={limits.max_error}"
    name = f"{MEMO}search-{hashlib.sha256(f'{asked} {CONDITIONS}'.encode()).hexdigest()[:20]}"
    known = cache.report(name)
    if known is None:
        with cache.scratch() as scratch:
            request = _request(cache, capture_dir, base, limits, BACKENDS)
            terms = _terms(scratch, base, limits, on_progress, cancelled, pauses)
            known = _Steps(cache, request, terms).run("search")
        cache.put_report(name, known)
    return tuple(PlanSpec.from_json(spec) for spec in known["specs"])


def compare_plans(
    cache: ArtifactCache,
    capture_dir: Path,
    plans: Sequence[Plan],
    limits: BuildLimits,
    on_progress: OnProgress = lambda stage, share: None,
    *,
    device: str = "",
    cancelled: Callable[[], bool] = lambda: False,
    pauses: Pauses | None = None,
    table: Mapping[str, str] = BACKENDS,
) -> tuple[Plan, ...]:
    """``plans`` of one capture, verified and of as many threads, where their timings are close with
    those of turns taken side by side (`supernet.building.side_by_side`).

    Done once per machine for the same plans; what is found replaces what the cache knows of them.
    Raises ``BuildFailed`` where it fails, ``BuildInterrupted`` once ``cancelled()``.
    """
    names = sorted(report_name(plan.spec, device) for plan in plans)
    asked = f"{names} {limits.metric} {limits.up_to_ms} {StoredCapture.read(capture_dir).grid}"
    done = f"{MEMO}compared-{hashlib.sha256(asked.encode()).hexdigest()[:20]}"
    if len(plans) > 1 and cache.report(done) is None:
        compare_s = min(limits.compare_s, limits.budget_s / 2)  # the rest is for loading them
        with cache.scratch() as scratch:
            spec, limited = plans[0].spec, replace(limits, measure_s=compare_s)
            request = _request(cache, capture_dir, spec, limited, table)
            terms = _terms(scratch, spec, limited, on_progress, cancelled, pauses)
            found = _Steps(cache, request, terms).run("compare", reports=names)
        for name, costs_ms in found["costs_ms"].items():
            report = cache.report(name)
            if report is not None and sound(cache, limits.limit, report):
                cache.put_report(name, {**report, "costs_ms": costs_ms})
        cache.put_report(done, {"plans": names})
    reports = [(plan, cache.report(report_name(plan.spec, device))) for plan in plans]
    return tuple(
        judged(cache, plan.spec, limits.limit, report)
        if report is not None and sound(cache, limits.limit, report)
        else plan
        for plan, report in reports
    )


def known_plans(cache: ArtifactCache, limits: BuildLimits) -> tuple[Plan, ...]:
    """Every plan the cache holds a report about, judged by ``limits``; nothing is built."""
    plans = []
    for report in cache.reports():
        if not sound(cache, limits.limit, report):
            continue
        spec = PlanSpec.from_json(report["spec"])
        failure = report.get("failure")
        plans.append(
            failed(spec, limits.limit, str(failure))
            if failure
            else judged(cache, spec, limits.limit, report)
        )
    return tuple(plans)


@dataclass(frozen=True, slots=True)
class _Steps:
    """The steps of one build, each in a process of its own, which share its budget."""

    cache: ArtifactCache
    request: BuildRequest
    terms: Terms

    def run(self, step: str, **more: Any) -> dict[str, Any]:
        """What the step found; `more` is asked of it beside what is asked of all."""
        # Of the other steps memory or time is measured, which a copy would tell wrongly.
        imports = _IMPORTS.get(str(self.request.spec["backend"]), ())
        terms = replace(self.terms, imports=imports) if step == "build" else self.terms
        try:
            with as_build_errors():
                return run_job(replace(self.request, step=step, **more), terms)
        finally:
            self.cache.sweep()  # a process that was killed could not tidy up


def _make(
    cache: ArtifactCache,
    capture: StoredCapture,
    limits: BuildLimits,
    steps: _Steps,
    known: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Build unless the artifact is there, then check it; the evidence, with what is ``known``.

    Roundings were chosen to be within the limit on other batches than the capture's: where they are
    not within it on these, they are chosen again.
    """
    spec = PlanSpec.from_json(steps.request.spec)
    if known is not None and cache.entry("plans", spec.artifact_key) is not None:
        is_new = not is_judged(known, capture)
        times = not is_timed(known, capture, limits.up_to_ms)
        found = joined(known, steps.run("check", times=times), capture, limits.up_to_ms)
        plan = judged(cache, spec, limits.limit, found)
        if plan.state is PlanState.VERIFIED or not (spec.limit and is_new):
            return found
        cache.discard("plans", spec.artifact_key, f"on other examples, {plan.reason}")
    if cache.entry("plans", spec.artifact_key) is None:
        steps.run("build")
        if cache.entry("plans", spec.artifact_key) is None:
            raise BuildFailed("the artifact just built cannot be read back")
    return joined(None, steps.run("check"), capture, limits.up_to_ms)


def _request(
    cache: ArtifactCache, capture_dir: Path, spec: PlanSpec, limits: BuildLimits,
    table: Mapping[str, str],
) -> BuildRequest:  # fmt: skip
    """What every step of a build is asked, `_Steps.run` says which."""
    return BuildRequest(
        step="",
        cache=str(cache.root),
        capture=str(capture_dir),
        spec=spec.to_json(),
        table=dict(table),
        measure_s=limits.measure_s,
        up_to_ms=limits.up_to_ms,
        metric=limits.metric,
        max_error=limits.max_error,
    )


def _terms(
    scratch: Path, spec: PlanSpec, limits: BuildLimits, on_progress: OnProgress,
    cancelled: Callable[[], bool], pauses: Pauses | None,
) -> Terms:  # fmt: skip
    def on_stage(stage: Stage) -> None:
        on_progress(stage.name, stage.share)

    pauses = pauses or Pauses()
    return Terms(
        scratch, limits.budget_s, threads=spec.threads, on_progress=on_stage,
        cancelled=cancelled, pauses=pauses, since_s=pauses.running_s(),
    )  # fmt: skip


def _from_report(
    cache: ArtifactCache, capture: StoredCapture, spec: PlanSpec, limits: BuildLimits,
    report: Mapping[str, Any],
) -> Plan | None:  # fmt: skip
    """The plan as remembered; None where something must be built, judged or measured again."""
    plan = judged(cache, spec, limits.limit, report)
    if plan.state is PlanState.QUARANTINED:
        return plan
    is_known = is_judged(report, capture) and is_timed(report, capture, limits.up_to_ms)
    return plan if is_known and plan.artifact is not None else None
