"""Switching cost: what the first batch after a change of plan costs beside the plan itself."""

from __future__ import annotations

from math import isfinite

from profiler.quantiles import RunningQuantiles

__all__ = ["SwitchCost"]

_WINDOW = 256
_ENOUGH = 16


class SwitchCost:
    """Learns it from batches as they run: how much more than predicted those after a change took,
    by the median, less what others took more. Caches are cold then, and some engines set up.

    >>> switching = SwitchCost()
    >>> for _ in range(16):
    ...     switching.record_batch(5.25, predicted_ms=5.0, changed=False)
    ...     switching.record_batch(6.0, predicted_ms=5.0, changed=True)
    >>> switching.ms
    0.75
    """

    def __init__(self) -> None:
        self._after_a_change = RunningQuantiles(_WINDOW)
        self._others = RunningQuantiles(_WINDOW)

    def record_batch(self, elapsed_ms: float, *, predicted_ms: float, changed: bool) -> None:
        """One batch; `changed`: its worker had run another plan before."""
        more_ms = elapsed_ms - predicted_ms
        if predicted_ms > 0.0 and isfinite(more_ms):
            (self._after_a_change if changed else self._others).add(more_ms)

    @property
    def ms(self) -> float:
        """Milliseconds, at least 0; 0 until 16 batches of either kind were seen."""
        if min(len(self._after_a_change), len(self._others)) < _ENOUGH:
            return 0.0
        return max(0.0, self._after_a_change.quantile(0.5) - self._others.quantile(0.5))

    def without(self, elapsed_ms: float) -> float:
        """What the plan's own share of such a batch was: at least half of it."""
        return max(elapsed_ms - self.ms, 0.5 * elapsed_ms)
