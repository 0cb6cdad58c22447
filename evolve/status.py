"""The status of a runtime: how it looks from outside, for people and monitors."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evolve.lifecycle.revision import Revision

__all__ = ["status_of"]


def status_of(parts: Revision) -> dict[str, Any]:
    """A snapshot, JSON-able; see `Runtime.status`."""
    queue, _, busy = parts.serving.scheduler.depth()
    stats = parts.serving.stats
    computed = stats.counts()
    return {
        "capture": parts.serving.capture.describe(),
        "policy": parts.controller.choice.params.name,
        "queue": queue,
        "busy_lanes": busy,
        "lanes": [
            {"worker": lane.worker.name, "pid": lane.worker.pid}
            if (lane.worker is not None)
            else {"worker": None, "pid": None}
            for lane in parts.pool.lanes
        ],
        "counts": computed,
        "padded_ratio": computed["padded_tokens"] / max(computed["tokens"], 1),
        "rows_by_plan": stats.plan_rows(),
        "switch_ms": stats.window.switch_ms,
        "flops": asdict(stats.flops.reading()) if stats.flops is not None else None,
        "watch": {
            **parts.serving.watch.status(),
            "withdrawn": dict(parts.serving.licence.withdrawn),
        },
        "tiers": parts.tiers.status(),
        "evolution": parts.generations.status(),
        "plans": {plan.spec.key: plan.state.value for plan in parts.library.plans()},
        "journal_fault": parts.journal.fault,
    }
