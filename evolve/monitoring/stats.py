"""Request counters since the start, and the window of the last second.

A lane only notes what its batches cost; the tick learns from the notes (`Stats.settle`).
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from evolve.monitoring.reserve import Reserve
from profiler.contention import Contention
from profiler.shapes import Shape
from profiler.switching import SwitchCost

if TYPE_CHECKING:
    from evolve.monitoring.savings import BatchRecord, Savings
    from evolve.monitoring.traffic import Traffic
    from profiler.costs import CostTable
    from profiler.flops import DynamicFlops
    from profiler.signals import Window

__all__ = ["Counts", "Stats"]

MAX_NOTES = 65_536  # batches between two ticks; more than any machine runs in a minute


class Counted(Protocol):
    """What is counted of a request."""

    length: int
    arrived_ms: float
    deadline_ms: float
    refusable: bool
    outside: str | None


class Counts:
    """Counters that go on for as long as the runtime lives, whatever serves. Thread-safe.

    `arrived`, `met` and `late` (answered in and after time), `refused` (deadline or
    full queue), `raised` (the user's model raised), `outside` (did not fit the capture, so the
    original answered), `retried` (a plan failed and the original answered), `rows`, `tokens`
    and `padded_tokens` (computed, and of these thrown away). Beside them the rows of each plan.

    >>> counts = Counts()
    >>> counts.add("met")
    >>> counts.now()["met"]
    1
    """

    NAMES = (
        "arrived", "met", "late", "refused", "raised", "outside", "retried", "rows", "tokens",
        "padded_tokens",
    )  # fmt: skip

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._plan_rows: Counter[str] = Counter()

    def add(self, name: str, by: int = 1) -> None:
        with self._lock:
            self._counts[name] += by

    def record_batch(self, note: BatchRecord) -> None:
        """A batch ran."""
        computed = note.rows * note.length
        with self._lock:
            self._plan_rows[note.plan] += note.rows
            self._counts["rows"] += note.rows
            self._counts["tokens"] += computed
            self._counts["padded_tokens"] += computed - note.real_tokens

    def now(self) -> dict[str, int]:
        """All counters, absent ones as 0."""
        with self._lock:
            return {name: self._counts[name] for name in self.NAMES}

    def plan_rows(self) -> dict[str, int]:
        """Rows answered per plan."""
        with self._lock:
            return dict(self._plan_rows)


class Stats:
    """Counts endings and feeds the window, the cost table and the reserve of one revision.
    Thread-safe."""

    def __init__(
        self,
        window: Window,
        costs: CostTable,
        flops: DynamicFlops | None,
        savings: Savings,
        traffic: Traffic,
        now_ms: Callable[[], float],
        counts: Counts | None = None,
        reserve: Reserve | None = None,
        contention: Contention | None = None,
    ) -> None:
        self.window = window
        self.costs = costs
        self.flops = flops
        self.savings = savings
        self.traffic = traffic
        self._now_ms = now_ms
        self._counts = Counts() if counts is None else counts
        self.reserve = Reserve(window.slo_ms) if reserve is None else reserve
        self.contention = Contention(1) if contention is None else contention
        self._records: deque[BatchRecord] = deque(maxlen=MAX_NOTES)
        self._turned_away_s: deque[float] = deque()
        self._length = 1  # of the latest request that was looked at
        self._switching = SwitchCost()

    def arrived(self, request: Counted) -> None:
        self._counts.add("arrived")
        if request.outside is not None:
            self._counts.add("outside")
        self._length = request.length
        self.window.arrived(request.length)
        self.traffic.arrived(request.arrived_ms / 1e3, request.length)

    def ended(self, request: Counted) -> None:
        now_ms = self._now_ms()
        met = now_ms <= request.deadline_ms
        self._counts.add("met" if met else "late")
        if request.refusable and request.outside is None:
            self.reserve.ended(met=met)
        self.window.ended(now_ms - request.arrived_ms, met)
        self.traffic.ended(now_ms - request.arrived_ms)

    def refused(self, request: Counted) -> None:
        self._counts.add("refused")
        self.window.refused()

    def turned_away(self) -> None:
        """A request was refused before it was looked at. Only noted here: it must cost nothing."""
        self._turned_away_s.append(self._now_ms() / 1e3)

    def raised(self, request: Counted) -> None:
        self._counts.add("raised")
        self.window.ended(self._now_ms() - request.arrived_ms, False)

    def retried(self, requests: int) -> None:
        self._counts.add("retried", requests)

    def record_batch(self, note: BatchRecord) -> None:
        """A batch ran. Only noted here: `settle` learns from it, off the request path."""
        self._records.append(note)

    def declined(self, plan: str, rows: int, length: int, elapsed_ms: float) -> None:
        """A plan declined a batch, which took so long until the original had answered it: that is
        the plan's price."""
        self.costs.record(plan, Shape(rows, length), elapsed_ms)

    def settle(self) -> None:
        """Learns from what was noted so far: counters, cost table, savings, window, FLOPs."""
        if count := len(self._turned_away_s):
            times_s = [self._turned_away_s.popleft() for _ in range(count)]
            self._counts.add("arrived", count)
            self._counts.add("refused", count)
            self.window.turned_away(times_s, self._length)
            for at_s in times_s:
                self.traffic.arrived(at_s, self._length)
        while self._records:
            try:
                note = self._records.popleft()
            except IndexError:  # another thread took the last one
                return
            shape = Shape(note.rows, note.length)
            self._counts.record_batch(note)
            took_ms = self._of_the_plan(note)
            if 0.0 < note.predicted_ms < math.inf:
                self.contention.record_batch(note.beside, took_ms / note.predicted_ms)
            alone_ms = took_ms / self.contention.slowdown(note.beside)
            self.costs.record(note.plan, shape, alone_ms)
            self.savings.record_batch(note._replace(elapsed_ms=alone_ms))
            if note.predicted_ms > 0.0:
                self.traffic.record_batch(note.elapsed_ms / note.predicted_ms)
            if self.flops is not None:
                self.flops.record_batch(shape, note.elapsed_ms, note.real_tokens)
            self.window.record_batch(
                note.plan, shape, note.elapsed_ms, note.predicted_ms, note.real_tokens
            )

    def _of_the_plan(self, note: BatchRecord) -> float:
        """What the batch took, less what a change of plan costs, which no plan's price holds."""
        self._switching.record_batch(
            note.elapsed_ms, predicted_ms=note.predicted_ms, changed=note.changed
        )  # fmt: skip
        self.window.switch_ms = self._switching.ms
        return self._switching.without(note.elapsed_ms) if note.changed else note.elapsed_ms

    def waited_ms(self, request: Counted) -> float:
        """How long `request` has been here."""
        return self._now_ms() - request.arrived_ms

    def counts(self) -> dict[str, int]:
        """All counters, absent ones as 0."""
        self.settle()
        return self._counts.now()

    def plan_rows(self) -> dict[str, int]:
        """Rows answered per plan since the start."""
        self.settle()
        return self._counts.plan_rows()
