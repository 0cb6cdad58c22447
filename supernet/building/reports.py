"""Reports: what was found out about a plan, as the cache keeps it, and what a limit makes of that.

A verdict holds for the batches it was reached on: a report lists their keys, and one of other
batches is joined to it. What a plan got wrong once it stays guilty of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from profiler.shapes import Shape
from supernet.building.confidence import RowErrors
from supernet.cache import ArtifactCache
from supernet.fidelity import Limit
from supernet.microbatches import Microbatches
from supernet.plans import Plan, PlanSpec, PlanState, moved

if TYPE_CHECKING:
    from supernet.capture.stored import StoredCapture

__all__ = [
    "CONDITIONS",
    "condemn",
    "costs_to_json",
    "failed",
    "is_judged",
    "is_timed",
    "joined",
    "judged",
    "report_name",
    "sound",
]

# Of measuring; another name where the same plan would show other costs (`supernet.jobs.malloc`).
CONDITIONS = "heap kept, up to a limit, warm, in parts by size, after a large batch, unseen rows"


def report_name(spec: PlanSpec, device: str) -> str:
    """Where the cache keeps what was measured of a plan on the machine whose key is ``device``."""
    where = hashlib.sha256(f"{device} {CONDITIONS}".encode()).hexdigest()[:8]
    return f"{spec.artifact_key}-t{spec.threads}-{where}"


def judged(cache: ArtifactCache, spec: PlanSpec, limit: Limit, report: Mapping[str, Any]) -> Plan:
    """The plan that a report of a finished build is about: verified, or quarantined and why."""
    error = float(report["errors"][limit.metric][0])
    bounds = None
    if report.get("rows") is not None and error <= limit.most:
        rows = RowErrors.from_json(report["rows"])
        error, bounds = max(error, rows.error(limit.metric)), rows.bounds(limit)
        if bounds is None:  # no bound on the inputs would keep such rows away
            error = max(error, rows.worst(limit.metric))
    passes = error <= limit.most  # False for NaN, too
    costs = {Shape(int(rows), int(length)): float(ms) for rows, length, ms in report["costs_ms"]}
    how = report["microbatches"] and Microbatches.from_json(report["microbatches"])
    verb = "is within" if passes else "is over"
    about = "".join(f"; {part}" for part in (report["about"], how) if part)
    built = Plan(
        spec=spec,
        state=PlanState.BUILT,
        error=error,
        metric=limit.metric,
        memory_mib=float(report["memory_mib"]),
        costs_ms=costs,
        microbatches=how,
        bounds=bounds,
        artifact=cache.entry("plans", spec.artifact_key) if passes else None,
    )
    why = f"{limit.metric} error {error:.2g} {verb} the limit {limit.most:g}{about}"
    return moved(built, PlanState.VERIFIED if passes else PlanState.QUARANTINED, why)


def sound(cache: ArtifactCache, limit: Limit, report: Mapping[str, Any] | None) -> bool:
    """Whether a report says all that is asked of one: older versions wrote others, and a file may
    hold anything. One that does not is as good as none."""
    if report is None:
        return False
    try:
        spec = PlanSpec.from_json(report["spec"])
        if report.get("failure"):
            return isinstance(report["failure"], str)
        judged(cache, spec, limit, report)
        return all(len(tuple(shape)) == 2 for shape in report.get("shapes", ()))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return False


def is_judged(report: Mapping[str, Any], capture: StoredCapture) -> bool:
    """Whether the plan was judged by the batches of this very capture."""
    return capture.key in report.get("judged", ())


def is_timed(report: Mapping[str, Any], capture: StoredCapture, up_to_ms: float) -> bool:
    """Whether all that is to be timed on the capture's grid was tried, as far as ``up_to_ms``."""
    tried = {(rows, length) for rows, length in report.get("shapes", ())}
    wanted = {(shape.rows, shape.length) for shape in capture.grid.probe_shapes()}
    return bool(report["costs_ms"]) and report["up_to_ms"] >= up_to_ms and wanted <= tried


def joined(
    before: Mapping[str, Any] | None,
    found: Mapping[str, Any],
    capture: StoredCapture,
    up_to_ms: float,
) -> dict[str, Any]:
    """The report of what was ``found`` on ``capture``, and ``before`` about the same files.

    Errors are the worst of both; timings those found, or, where none were taken, those before.
    """
    shapes = {(shape.rows, shape.length) for shape in capture.grid.probe_shapes()}
    report = {**found, "judged": [capture.key], "up_to_ms": up_to_ms}
    if before is not None:
        report["judged"] = sorted({capture.key, *before.get("judged", ())})
        report["examples"] = found["examples"] + before["examples"]
        report["errors"] = {
            metric: [max(pair) for pair in zip(errors, before["errors"][metric], strict=True)]
            for metric, errors in found["errors"].items()
        }
        if found["rows"] and before.get("rows"):
            both = map(RowErrors.from_json, (before["rows"], found["rows"]))
            report["rows"] = sum(both, start=RowErrors()).to_json()
        report["memory_mib"] = max(found["memory_mib"], before["memory_mib"])
        if is_timed(before, capture, up_to_ms):
            kept = ("costs_ms", "microbatches", "up_to_ms")
            report |= {name: before[name] for name in kept}
            shapes |= {(rows, length) for rows, length in before["shapes"]}
    return {**report, "shapes": sorted(map(list, shapes))}


def failed(spec: PlanSpec, limit: Limit, reason: str) -> Plan:
    """A plan that could not be built, or not be run."""
    return Plan(spec, PlanState.QUARANTINED, metric=limit.metric, reason=reason)


def condemn(cache: ArtifactCache, spec: PlanSpec, device: str, reason: str) -> None:
    """Have no later start build or admit a plan that was found wrong while it served."""
    record = {"spec": spec.to_json(), "device": device, "failure": reason}
    cache.put_report(report_name(spec, device), record)


def costs_to_json(costs_ms: Mapping[Shape, float]) -> list[list[float]]:
    """As a report holds them: rows, length, milliseconds."""
    return [[shape.rows, shape.length, ms] for shape, ms in costs_ms.items()]
