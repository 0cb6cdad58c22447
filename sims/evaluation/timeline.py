"""One episode by slots of time: what came, how long it took, what became of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.base import Policy
from sims.engine.state import SERVED
from sims.evaluation.evaluate import AnyPolicy, VectorPolicy
from sims.service import Service
from sims.simulation import played
from sims.traces import Trace

__all__ = ["Timeline", "timeline"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Timeline:
    """An episode in T slots of `slot_ms`; each request belongs to the slot in which it arrived.

    `at_s` [T]: the slots' beginnings. `arrivals_per_s` [T]. `p50_ms`, `p99_ms` [T]: latency of the
    slot's answers, NaN where there are none. `by_plan` [P, T]: share of the slot's requests that
    each plan answered, in time or not; what is missing to 1 was refused (0 of a slot without
    requests). `utility`: of the whole episode.
    """

    at_s: Floats
    arrivals_per_s: Floats
    p50_ms: Floats
    p99_ms: Floats
    by_plan: Floats
    slo_ms: float
    slot_ms: float
    utility: float

    @property
    def refused(self) -> Floats:
        """Share of each slot's requests, [T]."""
        return np.where(self.arrivals_per_s > 0, 1.0 - self.by_plan.sum(axis=0), 0.0)


def timeline(
    service: Service, trace: Trace, policy: AnyPolicy, *, slot_ms: float = 100.0
) -> Timeline:
    """Play the trace under a policy and sum it up by slots.

    Raises ValueError for a `slot_ms` that is not above 0, and for a chooser that is no `Policy`:
    one episode has nothing to choose for at once.

    >>> import numpy as np
    >>> from policies.presets import DEFAULT
    >>> from sims.traces import poisson
    >>> service = Service(np.full((1, 4, 1), 5.0), np.array([300.0]), slo_ms=50.0, workers=1)
    >>> seen = timeline(service, poisson(100.0, 1.0, seed=0), DEFAULT)
    >>> seen.by_plan.shape, bool((seen.p99_ms < 50.0).all())
    ((1, 10), True)
    """
    if not slot_ms > 0.0:
        raise ValueError(f"slot_ms must be greater than 0, got {slot_ms}")
    if isinstance(policy, VectorPolicy) and not isinstance(policy, Policy):
        raise ValueError(f"policy must be a setting or a Policy, got the chooser {policy.name!r}")
    simulation = played(service, trace, policy)
    arrived_ms = trace.arrivals_s * 1e3
    slot = (arrived_ms / slot_ms).astype(np.int64)
    count = int(slot[-1]) + 1
    offered = np.bincount(slot, minlength=count)
    served = simulation.outcome == SERVED
    latency_ms = simulation.end_ms - arrived_ms
    by_plan = np.array(
        [
            np.bincount(slot[served & (simulation.ran == plan)], minlength=count)
            for plan in range(service.plans)
        ]
    ) / np.maximum(offered, 1)
    tails = np.full((2, count), np.nan)
    edges = np.searchsorted(slot, np.arange(count + 1))
    for k in range(count):
        answered = latency_ms[edges[k] : edges[k + 1]][served[edges[k] : edges[k + 1]]]
        if answered.size:
            tails[:, k] = np.quantile(answered, (0.5, 0.99))
    at_s = np.arange(count, dtype=np.float64) * slot_ms / 1e3
    per_s = offered.astype(np.float64) * 1e3 / slot_ms
    utility = simulation.result().utility
    return Timeline(at_s, per_s, tails[0], tails[1], by_plan, service.slo_ms, slot_ms, utility)
