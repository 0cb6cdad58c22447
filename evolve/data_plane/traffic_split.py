"""Traffic split: what share of the requests each tier may answer, and what is tried on it beside.

A tier whose share is 0 is in shadow: it answers nobody, and copies of requests are run on its plans
after their answers left, within a small share of a lane's time. One whose share is a part takes
turns: each request that begins, on whatever plan, earns it that part of a request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supernet.plans import PlanLibrary

__all__ = ["TrafficSplit"]

SHADOW_SHARE = 0.02
"""Of one lane's time, as the watch takes of all."""
MOST_CREDIT_S = 1.0
MOST_AHEAD = 16.0
"""Requests that a tier may have earned and not taken: no burst is all its own."""

_NOBODY: frozenset[str] = frozenset()


class TrafficSplit:
    """Of one revision; sub-networks that nothing is said of may answer whatever the load requires.
    Thread-safe.

    Args:
        library: Which plans run which sub-network.
        clock: Seconds, monotonic.
    """

    def __init__(self, library: PlanLibrary, clock: Callable[[], float] = time.monotonic) -> None:
        self._library, self._clock = library, clock
        self._lock = threading.Lock()
        self._shares: Mapping[str, float] = MappingProxyType({})
        self._earned: dict[str, float] = {}
        self._credit_s, self._counted_s = 0.0, clock()
        self._tried: dict[str, int] = {}

    @property
    def is_active(self) -> bool:
        """Whether any tier is held back: one reference read."""
        return bool(self._shares)

    def allow(self, subnet: str, share: float) -> None:
        """From the next batch on a sub-network may answer so much, 0 to 1."""
        with self._lock:
            left = {name: part for name, part in self._shares.items() if name != subnet}
            self._earned[subnet] = 0.0
            self._shares = MappingProxyType(left if share >= 1 else {**left, subnet: share})

    def forget(self, subnet: str) -> None:
        """It is no more."""
        self.allow(subnet, 1.0)

    def withheld(self) -> frozenset[str]:
        """Keys of the plans that may not take the next batch."""
        shares = self._shares
        if not shares:
            return _NOBODY
        with self._lock:
            out = {name for name in shares if self._earned.get(name, 0.0) < 1.0}
        return frozenset(plan.key for plan in self._library.admitted() if plan.subnet in out)

    def took(self, plan: str, requests: int) -> None:
        """So many requests begin on a plan."""
        shares = self._shares
        if not shares:
            return
        found = self._library.get(plan)
        subnet = "" if found is None else found.subnet
        with self._lock:
            for name, share in shares.items():
                earned = self._earned.get(name, 0.0) + share * requests
                spent = requests if name == subnet else 0
                self._earned[name] = min(earned, MOST_AHEAD) - spent

    def shadow(self, resident: Collection[str]) -> str | None:
        """The plan to try a request on beside, of those in shadow that are among `resident`; None
        where there is none, or no time for it. Plans take turns."""
        shares = self._shares
        if not shares:
            return None
        with self._lock:
            now_s = self._clock()
            earned_s = SHADOW_SHARE * (now_s - self._counted_s)
            self._credit_s = min(self._credit_s + earned_s, MOST_CREDIT_S)
            self._counted_s = now_s
            if self._credit_s <= 0.0:
                return None
            keys = [
                plan.key
                for plan in self._library.admitted()
                if plan.key in resident and shares.get(plan.subnet) == 0.0
            ]
            if not keys:
                return None
            key = min(keys, key=lambda key: self._tried.get(key, 0))
            self._tried[key] = self._tried.get(key, 0) + 1
            return key

    def spent(self, seconds: float) -> None:
        """What trying one took."""
        with self._lock:
            self._credit_s -= seconds
