"""What a set of tiers is worth together: the twin of the service with them beside the original.

A candidate costs what the original's best plan costs at that shape, times the predicted ratio, and
an answer of it is worth its quality. The default rule plays the traffic as it was, and half as much
again: tiers are for the load that is to come, too. Utility is what `sims` values: the worth of the
answers in time over all requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from policies.presets import DEFAULT
from sims.service import Service
from sims.traces import Trace
from sims.twin import Twin
from supernet.tiers import SUBNET_TIER, tier_of_quality

__all__ = ["Offer", "Worth"]

_LATEST_S, _MOST_REQUESTS = 60.0, 20_000
"""So much of the latest traffic is played for every set that is asked about."""
_BUSIER = 1.5


@dataclass(frozen=True, slots=True)
class Offer:
    """A tier that could be held: a `name` of its own, its `quality`, how much faster it is."""

    name: str
    quality: float
    speedup: float


class Worth:
    """The utility of sets of tiers in one twin. Tiers that serve in it now are left out."""

    def __init__(self, twin: Twin) -> None:
        self._own = _original(twin.service)
        self._traces = _traces(twin.traffic)

    def __call__(self, offers: Iterable[Offer]) -> float:
        """The mean over the traffic as it was and busier."""
        service = self._with(sorted(offers, key=lambda offer: -offer.quality))
        twins = (Twin(service, trace) for trace in self._traces)
        return float(np.mean([twin.replay(DEFAULT).utility for twin in twins]))

    def _with(self, offers: Sequence[Offer]) -> Service:
        own = self._own
        if not offers or own.tier is None or own.accuracy is None:
            return own
        best_ms = own.cost_ms.min(axis=0)
        costs = [own.cost_ms, *((best_ms / offer.speedup)[None] for offer in offers)]
        tiers = [tier_of_quality(offer.quality) for offer in offers]
        return replace(
            own, cost_ms=np.concatenate(costs), tier=np.array([*own.tier, *tiers], np.int64),
            accuracy=np.array([*own.accuracy, *(offer.quality for offer in offers)]),
        )  # fmt: skip


def _original(service: Service) -> Service:
    """The service with the original's plans alone."""
    tier = np.zeros(service.plans, np.int64) if service.tier is None else service.tier
    accuracy = np.ones(service.plans) if service.accuracy is None else service.accuracy
    own = tier < SUBNET_TIER
    if not own.any():
        raise ValueError("the twin must hold a plan of the original, got none")
    return replace(service, cost_ms=service.cost_ms[own], tier=tier[own], accuracy=accuracy[own])


def _traces(traffic: Trace) -> tuple[Trace, ...]:
    first = float(traffic.arrivals_s[max(0, len(traffic) - _MOST_REQUESTS)])
    latest = traffic.window(max(first, traffic.seconds - _LATEST_S), np.inf)
    if latest.seconds <= 0:
        return (latest,)
    return latest, latest.rescaled(_BUSIER * latest.rate_per_s)
