"""The runtime's view of itself: counts and ratios of the last second, frozen for a policy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from math import exp, isfinite

import numpy as np
import numpy.typing as npt

from profiler.patterns import Pattern, PatternTable
from profiler.rings import EventRing
from profiler.shapes import Shape

# Time constant of the arrival rate: short enough to see a burst within one 100 ms tick.
RATE_MEMORY_S = 0.040
_MIN_HORIZON_S = 1.0  # arrivals_100ms reaches back ten times 100 ms
_SLOT_EDGES_S = np.concatenate([0.100 * np.arange(10, -1, -1), 0.010 * np.arange(10, -1, -1)])


@dataclass(frozen=True, slots=True)
class Signals:
    """One observation. No field is ever NaN or infinite.

    "No data" is told by the counts: where `ended` is 0 the latencies and ratios of requests are
    0.0 and mean nothing; where `batches` is 0 the cost ratios are 1.0 and mean nothing. Rates
    and ratios are over the window's horizon (1 s).

    - `at_s`: the window's clock. `slo_ms`, `workers`: as configured.
    - `arrival_per_s`: arrivals, exponentially weighted over 40 ms.
    - `arrivals_100ms`, `arrivals_10ms`: counts in the last ten slots of 100 ms and of 10 ms,
      oldest first; the last slot ends now.
    - `burstiness`: squared coefficient of variation of the gaps between arrivals: 1 for Poisson,
      0 for a metronome; 1.0 where there are fewer than three arrivals.
    - `queue`: waiting requests. `head_slack_ms`: time to the earliest deadline, negative when
      passed; the whole `slo_ms` when nobody waits. `busy_share`: busy / all workers.
    - `served_per_s`: answers. `ended`: answered and refused. `met_ratio`: answered in time, and
      `refused_ratio`: refused, both over `ended`.
    - `p50_ms`, `p99_ms`: latency of answers.
    - `batches`; `cost_ratio_mean`, `cost_ratio_max`: observed / predicted duration of batches.
    - `mean_length`: of arrivals, unpadded. `padded_ratio`: padding over all computed positions.
    - `worth_ratio`: as `met_ratio`, each answer counted with the accuracy of the plan it came from
      (1.0 where that is not known). `correction`: learnt factor on the cost table, mean over the
      workers. `switch_ms`: what a change of plan costs a worker; `load_ms`: what one costs that
      it does not hold, and `held_ratio`: how many of the plans it can hold at once, over all.
      `unevenness`: coefficient of variation of the workers' speeds.
    - The memory pattern of the mean batch (mean rows, mean padded length), as the model's table
      has it; 0.0 each where the table is not known or `batches` is 0. `balance`: FLOPs per byte
      over those of the machine, below 1 the memory is the limit. `memory_share`: of the bytes
      read, those that no cache answers. `moved_mib`: read and written, every operator run on its
      own. `fused`: 1.0 where the plan that the rule takes for such a batch when it may (the
      fastest of the most exact tier) has a fusion of ours, else 0.0.
    """

    at_s: float
    slo_ms: float
    workers: int
    arrival_per_s: float
    arrivals_100ms: tuple[int, ...]
    arrivals_10ms: tuple[int, ...]
    burstiness: float
    queue: int
    head_slack_ms: float
    busy_share: float
    served_per_s: float
    met_ratio: float
    refused_ratio: float
    p50_ms: float
    p99_ms: float
    cost_ratio_mean: float
    cost_ratio_max: float
    mean_length: float
    padded_ratio: float
    ended: int
    batches: int
    worth_ratio: float = 0.0
    correction: float = 1.0
    switch_ms: float = 0.0
    unevenness: float = 0.0
    load_ms: float = 0.0
    held_ratio: float = 1.0
    balance: float = 0.0
    memory_share: float = 0.0
    moved_mib: float = 0.0
    fused: float = 0.0

    def compact(self) -> dict[str, float]:
        """The scalar fields, rounded, for a log line."""
        return {
            f.name: round(float(value), 4)
            for f in fields(self)
            if not isinstance(value := getattr(self, f.name), tuple)
        }


class Window:
    """Collects events from any thread and sums them up on demand.

    `pattern`: the model's memory pattern by shape, replaced whenever more is known; None: unknown.
    `switch_ms`: what a change of plan costs, as far as it is known.

    >>> window = Window(slo_ms=50.0, workers=2, clock=lambda: 0.0)
    >>> window.arrived(length=12)
    >>> window.ended(latency_ms=8.0, met=True)
    >>> signals = window.snapshot(queue=0, head_slack_ms=50.0, busy=1)
    >>> signals.met_ratio, signals.mean_length, signals.busy_share
    (1.0, 12.0, 0.5)
    """

    def __init__(
        self,
        *,
        slo_ms: float,
        workers: int,
        clock: Callable[[], float] = time.monotonic,
        horizon_s: float = 1.0,
    ) -> None:
        if not (isfinite(slo_ms) and slo_ms > 0):
            raise ValueError(f"slo_ms must be finite and above 0, got {slo_ms}")
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        if not (isfinite(horizon_s) and horizon_s >= _MIN_HORIZON_S):
            raise ValueError(f"horizon_s must be at least {_MIN_HORIZON_S:g}, got {horizon_s}")
        self.pattern: PatternTable | None = None
        self.switch_ms = 0.0
        self.slo_ms = slo_ms
        self._workers = workers
        self._clock = clock
        self._horizon_s = horizon_s
        self._lock = threading.Lock()
        self._start_s = clock()
        self._rate_per_s = 0.0
        self._rate_at_s = self._start_s
        self._arrivals = EventRing(2, horizon_s)  # time, length
        self._answers = EventRing(3, horizon_s)  # time, latency_ms, met
        self._refusals = EventRing(1, horizon_s)  # time
        self._batches = EventRing(5, horizon_s)  # time, ratio, real tokens, padded tokens, rows

    def arrived(self, length: int) -> None:
        """A request of `length` (unpadded) was offered, whether or not it will be admitted."""
        with self._lock:
            now_s = self._clock()
            self._rate_per_s = self._decayed_rate(now_s) + 1.0 / RATE_MEMORY_S
            self._rate_at_s = now_s
            self._arrivals.append((now_s, length))

    def turned_away(self, times_s: Sequence[float], length: int) -> None:
        """Requests, of about that length, were refused the moment they were offered."""
        with self._lock:
            now_s = self._clock()
            recent = sum(exp((at_s - now_s) / RATE_MEMORY_S) for at_s in times_s)
            self._rate_per_s = self._decayed_rate(now_s) + recent / RATE_MEMORY_S
            self._rate_at_s = now_s
            for at_s in times_s:
                self._arrivals.append((at_s, length))
                self._refusals.append((at_s,))

    def arrival_per_s(self) -> float:
        """Arrivals per second at this moment, exponentially weighted over 40 ms."""
        with self._lock:
            return self._decayed_rate(self._clock())

    def ended(self, latency_ms: float, met: bool) -> None:
        """A request was answered `latency_ms` after it arrived; `met`: within its deadline."""
        if not isfinite(latency_ms):
            raise ValueError(f"latency_ms must be finite, got {latency_ms}")
        with self._lock:
            self._answers.append((self._clock(), latency_ms, met))

    def refused(self) -> None:
        """A request was refused: its deadline could not be met any more."""
        with self._lock:
            self._refusals.append((self._clock(),))

    def record_batch(
        self, plan: str, shape: Shape, elapsed_ms: float, predicted_ms: float, real_tokens: int
    ) -> None:
        """A batch ran as `shape` under `plan`; `real_tokens` of its positions were real.

        Without a usable prediction (0, NaN, inf: a plan never priced) the ratio counts as 1.
        """
        ratio = elapsed_ms / predicted_ms if predicted_ms > 0 else 1.0
        if not 0.0 < ratio < float("inf"):
            ratio = 1.0
        padded = max(0, shape.tokens - real_tokens)
        with self._lock:
            self._batches.append((self._clock(), ratio, real_tokens, padded, shape.rows))

    def snapshot(self, queue: int, head_slack_ms: float, busy: int) -> Signals:
        """The last `horizon_s` seconds, with the caller's own view of its queue and workers."""
        with self._lock:
            now_s = self._clock()
            since_s = now_s - self._horizon_s
            rate_per_s = self._decayed_rate(now_s)
            # Copies, so that summing up does not hold the request path.
            arrivals = self._arrivals.since(since_s).copy()
            answers = self._answers.since(since_s).copy()
            refused = len(self._refusals.since(since_s))
            batches = self._batches.since(since_s).copy()
        ended = len(answers) + refused
        latency_ms, met = answers[:, 1], float(np.add.reduce(answers[:, 2]))
        p50_ms, p99_ms = (
            np.quantile(latency_ms, (0.5, 0.99)).tolist() if len(answers) else (0.0, 0.0)
        )
        _, ratios, tokens, padded, rows = np.add.reduce(batches, axis=0).tolist()
        pattern = self._pattern(len(batches), rows, tokens + padded)
        most = float(np.maximum.reduce(batches[:, 1])) if len(batches) else 1.0
        slots_100ms, slots_10ms = _counts(arrivals[:, 0], now_s)
        idle = queue == 0 or not isfinite(head_slack_ms)
        return Signals(
            at_s=now_s,
            slo_ms=self.slo_ms,
            workers=self._workers,
            arrival_per_s=rate_per_s,
            arrivals_100ms=slots_100ms,
            arrivals_10ms=slots_10ms,
            burstiness=burstiness(arrivals[:, 0]),
            queue=queue,
            head_slack_ms=self.slo_ms if idle else head_slack_ms,
            busy_share=min(1.0, max(0.0, busy / self._workers)),
            served_per_s=len(answers) / self._covered_s(now_s),
            met_ratio=met / ended if ended else 0.0,
            refused_ratio=refused / ended if ended else 0.0,
            p50_ms=p50_ms,
            p99_ms=p99_ms,
            cost_ratio_mean=ratios / len(batches) if len(batches) else 1.0,
            cost_ratio_max=most,
            mean_length=(
                float(np.add.reduce(arrivals[:, 1])) / len(arrivals) if len(arrivals) else 0.0
            ),
            padded_ratio=padded / (tokens + padded) if tokens + padded else 0.0,
            ended=ended,
            batches=len(batches),
            worth_ratio=met / ended if ended else 0.0,
            switch_ms=self.switch_ms,
            balance=pattern.balance,
            memory_share=pattern.memory_share,
            moved_mib=pattern.moved_mib,
            fused=pattern.fused,
        )

    def _pattern(self, batches: int, rows: float, computed: float) -> Pattern:
        table = self.pattern
        return Pattern() if table is None or not rows else table.at(rows / batches, computed / rows)

    def _decayed_rate(self, now_s: float) -> float:
        return self._rate_per_s * exp(-max(0.0, now_s - self._rate_at_s) / RATE_MEMORY_S)

    def _covered_s(self, now_s: float) -> float:
        """Seconds the window really looks back: less than the horizon just after the start.

        At least a tenth of it, so that the first answer is not read as thousands a second.
        """
        return min(self._horizon_s, max(now_s - self._start_s, self._horizon_s / 10))


def burstiness(times_s: npt.NDArray[np.float64]) -> float:
    """Squared coefficient of variation of the gaps in ascending `times_s`; 1.0 below three."""
    if len(times_s) < 3:
        return 1.0
    gaps = times_s[1:] - times_s[:-1]
    mean = float(times_s[-1] - times_s[0]) / len(gaps)
    if not mean > 0:
        return 1.0
    gaps -= mean
    return float(gaps @ gaps) / len(gaps) / mean**2


def _counts(
    times_s: npt.NDArray[np.float64], now_s: float
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Arrivals in the last ten slots `(edge, edge + slot]` of 100 ms and of 10 ms, oldest first."""
    # The last edges are now_s exactly: an arrival at this very instant belongs to the last slot.
    before = np.searchsorted(times_s, now_s - _SLOT_EDGES_S, side="right").tolist()
    slots = [after - earlier for earlier, after in pairwise(before)]
    return tuple(slots[:10]), tuple(slots[11:])
