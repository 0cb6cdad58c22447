"""What would the best fixed setting have done on this very trace?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from policies.params import RuleParams
from sims.service import Result, Service
from sims.simulation import simulate
from sims.traces import Trace

__all__ = ["StaticRun", "sweep_static"]


@dataclass(frozen=True)
class StaticRun:
    """One static setting on one service, and what came of it."""

    service: str
    params: RuleParams
    result: Result


def sweep_static(
    trace: Trace,
    services: Mapping[str, Service],
    *,
    caps: Sequence[int] = (1, 2, 4, 8, 16),
    waits_ms: Sequence[float] = (0.0, 2.0, 5.0, 10.0),
    spreads: Sequence[float] = (math.inf,),
    deltas: Sequence[float] = (0.0, 1.0),
) -> tuple[StaticRun, ...]:
    """Every static setting on this very trace, best utility first.

    `services`: one per way to divide the machine (workers × threads), each with its own costs.
    The grid is plan × `caps` × `waits_ms` × `spreads` (inf: in order of arrival; finite: fixed
    groups of like lengths) × `deltas` (strictness of the same early refusal the rule has).
    """
    if not services:
        raise ValueError("services must name at least one service, got none")
    runs = [
        StaticRun(name, params, simulate(service, trace, params))
        for name, service in services.items()
        for plan, cap, wait, spread, delta in product(
            range(service.cost_ms.shape[0]), caps, waits_ms, spreads, deltas
        )
        if cap <= service.cost_ms.shape[1] and not (cap == 1 and (wait > 0 or delta > 0))
        for params in (RuleParams.static(plan, cap, wait, spread=spread, delta=delta),)
    ]
    return tuple(sorted(runs, key=lambda run: -run.result.utility))
