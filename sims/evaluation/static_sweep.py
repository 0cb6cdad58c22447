"""The best fixed setting in hindsight: what it would have done on this very trace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from policies.params import RuleParams
from sims.service import Result, Service
from sims.simulation import simulate
from sims.traces import Trace

__all__ = ["StaticRun", "static_grid", "sweep_static"]


@dataclass(frozen=True)
class StaticRun:
    """One static setting on one service, and what came of it."""

    service: str
    params: RuleParams
    result: Result


def static_grid(
    service: Service,
    *,
    caps: Sequence[int] = (1, 2, 4, 8, 16),
    waits_ms: Sequence[float] = (0.0, 2.0, 5.0, 10.0),
    spreads: Sequence[float] = (math.inf,),
    deltas: Sequence[float] = (0.0, 1.0),
) -> tuple[RuleParams, ...]:
    """Every static setting that differs: plan × `caps` × `waits_ms` × `spreads` × `deltas`.

    Caps beyond the table are left out, and waits and deltas where the cap is 1.

    >>> from sims.evaluation.suite import six_tiers
    >>> len(static_grid(six_tiers(), caps=(1, 8), waits_ms=(0.0, 5.0)))
    30
    """
    return tuple(
        RuleParams.static(plan, cap, wait, spread=spread, delta=delta)
        for plan, cap, wait, spread, delta in product(
            range(service.plans), caps, waits_ms, spreads, deltas
        )
        if cap <= service.cost_ms.shape[-2] and not (cap == 1 and (wait > 0 or delta > 0))
    )


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
        for params in static_grid(
            service, caps=caps, waits_ms=waits_ms, spreads=spreads, deltas=deltas
        )
    ]
    return tuple(sorted(runs, key=lambda run: -run.result.utility))
