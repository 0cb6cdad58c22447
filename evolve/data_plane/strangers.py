"""Calls that do not fit the capture: they wait apart, and take what time the others leave.

Only the original answers them, one by one, however long that takes: one of 400 rows beside a stream
of single rows would make all of them late. So they run when nothing else waits. Those that last
longer than half the SLO make whoever arrives meanwhile late: there may be as many as keep that to
`HARM_SHARE` of the time. One whose deadline can no longer be met is refused, where its caller
allows that; a caller who waits for an answer gets it, later.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from evolve.data_plane.request_queue import Request

__all__ = ["Strangers"]

HARM_SHARE = 0.01
HARM_MS = 100.0  # saved up at most
QUIET_MS = 1000.0  # without another call: there is nobody to be harmed
WAITED_MS = 1000.0  # what a caller who may not be refused waits at most, on a busy service
FORCED_SHARE = 0.2  # of the time, for callers who waited so long
_LEARN = 0.3


class Turn(NamedTuple):
    """What may run now (None: nothing yet), who is refused, and when to ask again."""

    request: Request | None
    refused: tuple[Request, ...]
    wake_ms: float


class Strangers:
    """Waiting calls outside the capture, in order of arrival, and what such calls cost.

    Not thread-safe: the scheduler holds the lock. Times are milliseconds on the runtime's clock.

    Args:
        slo_ms: Of every request.
        lanes: Lanes that serve; with several, these calls never hold more than half of them.
    """

    def __init__(self, slo_ms: float, lanes: int) -> None:
        self._slo_ms, self._most = slo_ms, max(1, lanes // 2)
        self._has_room = lanes > 1
        self._waiting: deque[Request] = deque()
        self._running: dict[int, tuple[Request, float]] = {}
        self._price_ms: dict[int, float] = {}
        self._harm_ms, self._counted_ms = HARM_MS, 0.0
        self._free_ms = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def append(self, request: Request) -> None:
        self._waiting.append(request)

    def take_all(self) -> list[Request]:
        found = list(self._waiting)
        self._waiting.clear()
        return found

    def turn(self, now_ms: float, others_ms: float, *, others_wait: bool = False) -> Turn:
        """The next one, if it may run on a lane that is free.

        ``others_ms``: when a call of another kind came last. ``others_wait``: whether such calls
        wait now; then only one whose caller has waited long may run, or it would wait for ever.
        Whoever runs it calls `began`.
        """
        self._save_up(now_ms)
        refused: list[Request] = []
        while self._waiting:
            request = self._waiting[0]
            price_ms = self.price_ms(request.size)
            if request.refusable and now_ms + price_ms > request.deadline_ms:
                refused.append(self._waiting.popleft())
                continue
            if len(self._running) >= self._most:
                return Turn(None, tuple(refused), float("inf"))
            ready_ms = self._latest_ms(request, price_ms)
            if not others_wait:
                ready_ms = self._ready_ms(request, price_ms, now_ms, others_ms)
            if ready_ms > now_ms:
                return Turn(None, tuple(refused), ready_ms)
            return Turn(self._waiting.popleft(), tuple(refused), now_ms)
        return Turn(None, tuple(refused), float("inf"))

    def began(self, lane: int, request: Request, now_ms: float) -> None:
        self._running[lane] = (request, now_ms)

    def ended(self, lane: int, now_ms: float) -> None:
        """The lane is free again; does nothing where it ran something else."""
        if lane not in self._running:
            return
        request, began_ms = self._running.pop(lane)
        took_ms = now_ms - began_ms
        bucket = request.size.bit_length()
        known_ms = self._price_ms.get(bucket, took_ms)
        self._price_ms[bucket] = known_ms + _LEARN * (took_ms - known_ms)
        self._harm_ms -= self._harms_ms(took_ms)
        self._free_ms = now_ms + took_ms * (1 / FORCED_SHARE - 1)

    def price_ms(self, size: int) -> float:
        """What a call of so many numbers is expected to take; 0 where nothing is known.

        >>> strangers = Strangers(50.0, lanes=1)
        >>> strangers._price_ms = {4: 2.0}
        >>> [strangers.price_ms(size) for size in (3, 15, 60)]
        [2.0, 2.0, 8.0]
        """
        if not self._price_ms:
            return 0.0
        bucket = size.bit_length()
        near = min(self._price_ms, key=lambda known: (abs(known - bucket), known))
        return self._price_ms[near] * 2.0 ** max(0, bucket - near)

    def _ready_ms(
        self, request: Request, price_ms: float, now_ms: float, others_ms: float
    ) -> float:
        """When it may run: where nobody else is there or is harmed, or its caller waited long."""
        harm_ms, quiet_ms = self._harms_ms(price_ms), others_ms + QUIET_MS
        if quiet_ms <= now_ms or harm_ms <= max(self._harm_ms, 0.0):
            return now_ms
        latest_ms = self._latest_ms(request, price_ms)
        if harm_ms <= HARM_MS:
            saved_ms = now_ms + (harm_ms - self._harm_ms) / HARM_SHARE
            return min(quiet_ms, latest_ms, saved_ms)
        return min(quiet_ms, latest_ms)

    def _latest_ms(self, request: Request, price_ms: float) -> float:
        """When its caller has waited long; for one that may be refused, the moment to do that."""
        if request.refusable:
            return request.deadline_ms - price_ms + 1e-3
        return max(request.arrived_ms + WAITED_MS, self._free_ms)

    def _harms_ms(self, took_ms: float) -> float:
        """For how long a call that takes so long makes others late that come meanwhile."""
        return 0.0 if self._has_room else max(0.0, took_ms - self._slo_ms / 2)

    def _save_up(self, now_ms: float) -> None:
        if self._counted_ms:
            self._harm_ms += HARM_SHARE * (now_ms - self._counted_ms)
        self._harm_ms, self._counted_ms = min(self._harm_ms, HARM_MS), now_ms
