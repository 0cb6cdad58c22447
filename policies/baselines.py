"""Policies written by hand: what a learned one has to beat."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from policies.base import Choice
from policies.params import RuleParams
from policies.presets import DEFAULT, PRESETS, preset_index

if TYPE_CHECKING:
    from profiler.signals import Signals

__all__ = ["DEFAULT_CHOICE", "RulePolicy", "StaticPolicy", "ThresholdPolicy"]


SPEED = PRESETS[preset_index("speed")]
DEFAULT_CHOICE = Choice(DEFAULT, "the default rule")


class RulePolicy:
    """The default rule, always: it already looks at every batch."""

    name = "rule"

    def choose(self, signals: Signals, current: Choice) -> Choice:
        return DEFAULT_CHOICE


class StaticPolicy:
    """One fixed setting, usually `RuleParams.static(...)` from a sweep."""

    name = "static"

    def __init__(self, params: RuleParams) -> None:
        self._choice = Choice(params, f"fixed setting {params.name}")

    def choose(self, signals: Signals, current: Choice) -> Choice:
        return self._choice


class ThresholdPolicy:
    """Two settings and a hysteresis, as autoscalers do it.

    Switches to `pressed` when the queue exceeds `high_queue` requests per worker or p99 latency
    exceeds `high_p99` of the SLO; back to `calm` only when both are below their low marks.
    """

    name = "threshold"

    def __init__(
        self,
        calm: RuleParams = DEFAULT,
        pressed: RuleParams = SPEED,
        *,
        high_queue: float = 8.0,
        low_queue: float = 2.0,
        high_p99: float = 0.9,
        low_p99: float = 0.6,
    ) -> None:
        if calm.name == pressed.name:
            raise ValueError(f"calm and pressed must have different names, got {calm.name!r} twice")
        marks = (("queue", low_queue, high_queue), ("p99", low_p99, high_p99))
        for what, low, high in marks:
            if not (math.isfinite(high) and 0.0 <= low < high):
                raise ValueError(
                    f"low_{what} and high_{what} must satisfy 0 <= low < high, got {low}, {high}"
                )
        self._calm, self._pressed = calm, pressed
        self._high = (high_queue, high_p99)
        self._low = (low_queue, low_p99)

    @property
    def marks(self) -> tuple[float, float]:
        """Above which it is pressed: requests queued per worker, p99 over the SLO."""
        return self._high

    def choose(self, signals: Signals, current: Choice) -> Choice:
        queue = signals.queue / signals.workers
        p99 = signals.p99_ms / signals.slo_ms
        scores = {"queue_per_worker": queue, "p99_over_slo": p99}
        if queue > self._high[0] or p99 > self._high[1]:
            return Choice(self._pressed, self._why("above", queue, p99, self._high), scores)
        if queue < self._low[0] and p99 < self._low[1]:
            return Choice(self._calm, self._why("below", queue, p99, self._low), scores)
        stay = self._pressed if current.params.name == self._pressed.name else self._calm
        return Choice(stay, f"between the marks: stays {stay.name}", scores)

    def _why(self, side: str, queue: float, p99: float, marks: tuple[float, float]) -> str:
        joint = "or" if side == "above" else "and"
        return (
            f"queue {queue:.1f} per worker, p99 {p99:.0%} of the SLO: "
            f"{side} {marks[0]:g} {joint} {marks[1]:.0%}"
        )
