"""Progress of a job: the stage it is in, the share of that which is done, and the time left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Pace", "Stage"]


@dataclass(frozen=True, slots=True)
class Stage:
    """What a job does at the moment.

    ``share`` of the stage is done, 0 to 1; ``left_s`` is what the rest of it takes at the pace so
    far, in seconds in which it is let run, None while nothing tells.
    """

    name: str
    share: float
    left_s: float | None = None


class Pace:
    """How fast the share of a stage grows. A job that goes on from a checkpoint begins beyond 0.

    ``clock`` in seconds; one that stands still with the job (`Pauses.running_s`) counts no pause.

    >>> now_s = iter([0.0, 10.0])
    >>> pace = Pace(lambda: next(now_s))
    >>> pace.update("training", 0.2).left_s
    >>> pace.update("training", 0.4).left_s
    30.0
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._name: str | None = None
        self._from_share = self._from_s = 0.0

    def update(self, name: str, share: float) -> Stage:
        """The stage that the job is in, now that it says so."""
        now_s = self._clock()
        if name != self._name or share < self._from_share:
            self._name, self._from_share, self._from_s = name, share, now_s
        grown = share - self._from_share
        left_s = (now_s - self._from_s) * (1.0 - share) / grown if grown > 0 else None
        return Stage(name, share, left_s)
