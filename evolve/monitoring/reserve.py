"""The reserve kept back of each deadline, since some batches take longer than was predicted."""

from __future__ import annotations

__all__ = ["Reserve"]

LATE_SHARE = 0.005  # of the answers, at which it stays as it is
HALF_LIFE_S = 7.0
STEP_SHARE, MOST_SHARE = 0.02, 0.25  # of the SLO: one late answer adds the first


class Reserve:
    """Grows with every late answer, and shrinks a little with every one in time.

    That finds the time by which `LATE_SHARE` of the answers would otherwise be late (a quantile by
    stochastic approximation, Robbins & Monro 1951, Ann. Math. Statist. 22:400). `ms` is 0 where
    predictions hold, and a quarter of the SLO at most.

    >>> reserve = Reserve(slo_ms=100.0)
    >>> reserve.ended(met=False)
    >>> round(reserve.ms, 2)
    1.99
    >>> for _ in range(200):
    ...     reserve.ended(met=True)
    >>> round(reserve.ms, 2)
    0.0
    """

    def __init__(self, slo_ms: float) -> None:
        self.ms = 0.0
        self._most_ms = MOST_SHARE * slo_ms
        self._step_ms = STEP_SHARE * slo_ms

    def fade(self, after_s: float) -> None:
        """Called in every tick: what is refused for the reserve's sake says nothing of whether it
        would have been late."""
        self.ms *= 0.5 ** (after_s / HALF_LIFE_S)

    def ended(self, *, met: bool) -> None:
        """An answer that could have been refused instead was given, in time or not."""
        by = -LATE_SHARE if met else 1.0 - LATE_SHARE
        self.ms = min(max(self.ms + by * self._step_ms, 0.0), self._most_ms)
