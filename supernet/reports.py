"""What was found out about a plan, as the cache keeps it, and what a limit makes of that."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from profiler.shapes import Shape
from supernet.cache import ArtifactCache
from supernet.fidelity import Limit
from supernet.microbatches import Microbatches
from supernet.plans import Plan, PlanSpec, PlanState

__all__ = ["CONDITIONS", "costs_to_json", "failed", "judged", "report_name"]

# Of measuring; another name where the same plan would show other costs (see `supernet.heap`).
CONDITIONS = "heap kept, up to a limit, warm, in microbatches, after a large batch"


def report_name(spec: PlanSpec, device: str) -> str:
    """Where the cache keeps what was measured of a plan on the machine whose key is ``device``."""
    where = hashlib.sha256(f"{device} {CONDITIONS}".encode()).hexdigest()[:8]
    return f"{spec.artifact_key}-t{spec.threads}-{where}"


def judged(cache: ArtifactCache, spec: PlanSpec, limit: Limit, report: Mapping[str, Any]) -> Plan:
    """The plan that a report of a finished build is about: admitted, or quarantined and why."""
    error = float(report["errors"][limit.metric][0])
    passes = error <= limit.most  # False for NaN, too
    costs = {Shape(int(rows), int(length)): float(ms) for rows, length, ms in report["costs_ms"]}
    how = report["microbatches"] and Microbatches.from_json(report["microbatches"])
    verb = "is within" if passes else "is over"
    about = "".join(f"; {part}" for part in (report["about"], how) if part)
    return Plan(
        spec=spec,
        state=PlanState.ADMITTED if passes else PlanState.QUARANTINED,
        error=error,
        metric=limit.metric,
        memory_mib=float(report["memory_mib"]),
        costs_ms=costs,
        microbatches=how,
        artifact=cache.entry("plans", spec.artifact_key) if passes else None,
        reason=f"{limit.metric} error {error:.2g} {verb} the limit {limit.most:g}{about}",
    )


def failed(spec: PlanSpec, limit: Limit, reason: str) -> Plan:
    """A plan that could not be built, or not be run."""
    return Plan(spec, PlanState.QUARANTINED, metric=limit.metric, reason=reason)


def costs_to_json(costs_ms: Mapping[Shape, float]) -> list[list[float]]:
    """As a report holds them: rows, length, milliseconds."""
    return [[shape.rows, shape.length, ms] for shape, ms in costs_ms.items()]
