"""The number of workers: two published autoscalers, and giving back workers that are already warm.

    load of one tick ──▶ tick() ──▶ workers wanted from now on

Each sees one `Load` per tick, keeps what it needs of the past, and answers with a number of
workers; starting one takes as long as the scenario says. Clocks are arguments: nothing here looks
at the time.

- `HorizontalPodAutoscaler`: Kubernetes, every 15 s, by utilisation or any metric per worker.
- `KnativePodAutoscaler`: Knative, every 2 s, with a panic mode for bursts.
- `WarmPool`: evolve's. Its workers are resident, so taking one into use costs nothing; it only
  decides which to give back. What stands beside the other two is a warm pool, not a better formula.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

__all__ = ["Autoscaler", "HorizontalPodAutoscaler", "KnativePodAutoscaler", "Load", "WarmPool"]


@dataclass(frozen=True, slots=True)
class Load:
    """What one tick showed.

    `workers`: wanted so far, those still starting included. `ready`: those that serve. `demand`:
    of all ready workers together, in the unit of the autoscaler's target: workers' worth of busy
    time, requests in flight, or requests per s.

    >>> Load(at_ms=100.0, workers=3, ready=2, demand=1.5).demand
    1.5
    """

    at_ms: float
    workers: int
    ready: int
    demand: float

    def __post_init__(self) -> None:
        if not 1 <= self.ready <= self.workers:
            raise ValueError(f"ready must be in 1..workers ({self.workers}), got {self.ready}")
        _at_least(0.0, at_ms=self.at_ms, demand=self.demand)


@runtime_checkable
class Autoscaler(Protocol):
    """Told of every tick in order, says how many workers there should be, at least 1."""

    def tick(self, load: Load) -> int: ...


@dataclass(slots=True)
class HorizontalPodAutoscaler:
    """Kubernetes' autoscaler with its defaults.

    Wanted = ceil(ready x metric / target), where the metric is the mean per ready worker since the
    last evaluation; nothing changes within `tolerance` of the target, and workers that still start
    count as idle when more are asked for. The largest figure of the last `down_window_ms` holds,
    and one evaluation at most adds 4 workers or doubles them, whichever is more.

    `target`: of the metric, per worker. `first_ms`: of the first evaluation. Formula, tolerance
    0.1, 15 s, 300 s and the scale-up policy are the defaults in
    https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/, the
    treatment of starting workers is that of `replica_calculator.go` in
    https://github.com/kubernetes/kubernetes. A mean since the last evaluation stands for the
    metrics server, which samples as often.

    >>> hpa = HorizontalPodAutoscaler(target=0.5, first_ms=0.0)
    >>> hpa.tick(Load(at_ms=0.0, workers=4, ready=4, demand=3.6))  # 4 x 0.9 / 0.5 = 7.2
    8
    """

    target: float
    first_ms: float = 15_000.0
    every_ms: float = 15_000.0
    tolerance: float = 0.1
    down_window_ms: float = 300_000.0
    _due_ms: float = field(init=False)
    _seen: list[float] = field(init=False, default_factory=list)
    _wanted: deque[tuple[float, int]] = field(init=False, default_factory=deque)

    def __post_init__(self) -> None:
        _above(0.0, target=self.target, every_ms=self.every_ms)
        _at_least(
            0.0, first_ms=self.first_ms, tolerance=self.tolerance,
            down_window_ms=self.down_window_ms,
        )  # fmt: skip
        self._due_ms = self.first_ms

    def tick(self, load: Load) -> int:
        """The number of workers from now on; changes at evaluations only."""
        self._seen.append(load.demand / load.ready)
        if load.at_ms < self._due_ms:
            return load.workers
        self._due_ms += self.every_ms
        wanted = self._formula(load, sum(self._seen) / len(self._seen))
        self._seen.clear()
        self._wanted.append((load.at_ms, wanted))
        while self._wanted[0][0] < load.at_ms - self.down_window_ms:
            self._wanted.popleft()
        highest = max(count for _, count in self._wanted)
        steady = max(wanted, min(highest, load.workers))  # the past delays only what goes down
        return max(1, min(steady, max(load.workers + 4, 2 * load.workers)))

    def _formula(self, load: Load, metric: float) -> int:
        ratio = metric / self.target
        idle_too = ratio * load.ready / load.workers  # were those that start ready and idle
        if abs(ratio - 1.0) <= self.tolerance or ratio > 1.0 >= idle_too - self.tolerance:
            return load.workers
        return _ceil(ratio * load.ready)


@dataclass(slots=True)
class KnativePodAutoscaler:
    """Knative's autoscaler with its defaults; scales to one worker, not to zero.

    Wanted = ceil(mean demand over `stable_ms` / target). When the mean over `panic_ms` asks for
    `panic_at` times the ready workers or more, it panics: it takes the larger figure of the two
    windows and does not scale down until `stable_ms` have passed without such a moment. One step
    at most multiplies the ready workers by `most_up` or divides them by `most_down`.

    `target`: of the demand, per worker; by default Knative takes 70 % of what one may hold.
    `first_ms`: of the first evaluation. The algorithm is that of `pkg/autoscaler/scaling/
    autoscaler.go`, 60 s, 10 % of them, 200 %, 1000, 2 and 2 s between evaluations are those of
    `config/core/configmaps/autoscaler.yaml`, both in https://github.com/knative/serving; see
    https://knative.dev/docs/serving/autoscaling/kpa-specific/. A new one starts calm, whatever
    the number of workers (Knative's starts in panic with more than one).

    >>> kpa = KnativePodAutoscaler(target=10.0, first_ms=0.0)
    >>> kpa.tick(Load(at_ms=0.0, workers=1, ready=1, demand=95.0))
    10
    """

    target: float
    first_ms: float = 2_000.0
    every_ms: float = 2_000.0
    stable_ms: float = 60_000.0
    panic_ms: float = 6_000.0
    panic_at: float = 2.0
    most_up: float = 1000.0
    most_down: float = 2.0
    _due_ms: float = field(init=False)
    _seen: deque[tuple[float, float]] = field(init=False, default_factory=deque)
    _panic_since_ms: float | None = field(init=False, default=None)
    _held: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        _above(
            0.0, target=self.target, every_ms=self.every_ms, panic_ms=self.panic_ms,
            panic_at=self.panic_at,
        )  # fmt: skip
        _above(1.0, most_up=self.most_up, most_down=self.most_down)
        _at_least(0.0, first_ms=self.first_ms)
        _at_least(self.panic_ms, stable_ms=self.stable_ms)
        self._due_ms = self.first_ms

    @property
    def panics(self) -> bool:
        """Whether it is in panic mode."""
        return self._panic_since_ms is not None

    def tick(self, load: Load) -> int:
        """The number of workers from now on; changes at evaluations only."""
        self._seen.append((load.at_ms, load.demand))
        if load.at_ms < self._due_ms:
            return load.workers
        self._due_ms += self.every_ms
        while self._seen[0][0] <= load.at_ms - self.stable_ms:
            self._seen.popleft()
        least, most = load.ready // self.most_down, _ceil(self.most_up * load.ready)
        stable = _ceil(self._mean(load.at_ms - self.stable_ms) / self.target)
        urgent = _ceil(self._mean(load.at_ms - self.panic_ms) / self.target)
        self._judge(load.at_ms, over=urgent / load.ready >= self.panic_at)
        wanted = int(min(max(stable, least), most))
        if self.panics:
            self._held = max(self._held, wanted, int(min(max(urgent, least), most)))
            wanted = self._held
        return max(1, wanted)

    def _mean(self, after_ms: float) -> float:
        recent = [demand for at_ms, demand in self._seen if at_ms > after_ms]
        return sum(recent) / len(recent)

    def _judge(self, now_ms: float, *, over: bool) -> None:
        if over:
            self._panic_since_ms = now_ms
        elif self._panic_since_ms is not None and self._panic_since_ms + self.stable_ms < now_ms:
            self._panic_since_ms, self._held = None, 0


@dataclass(slots=True)
class WarmPool:
    """Which of the resident workers to use: at once as many as are needed, and then fewer.

    Needed = ceil(headroom x demand / target), at every tick; the largest figure of the last
    `window_ms` holds. There is nothing to wait for on the way up, since the workers it takes are
    warm, which costs their memory all the time.

    `target`: demand that one worker carries. `headroom` 1.2 and 5 s are choices, not tuned: room
    for Poisson noise within a tick, and half of the ten seconds in which idle workers must go.

    >>> pool = WarmPool(target=300.0)
    >>> pool.tick(Load(at_ms=0.0, workers=1, ready=1, demand=5000.0))  # 1.2 x 16.7
    20
    """

    target: float
    headroom: float = 1.2
    window_ms: float = 5_000.0
    _needed: deque[tuple[float, int]] = field(init=False, default_factory=deque)

    def __post_init__(self) -> None:
        _above(0.0, target=self.target, window_ms=self.window_ms)
        _at_least(1.0, headroom=self.headroom)

    def tick(self, load: Load) -> int:
        """The number of workers from now on."""
        needed = max(1, _ceil(self.headroom * load.demand / self.target))
        while self._needed and self._needed[-1][1] <= needed:
            self._needed.pop()
        self._needed.append((load.at_ms, needed))
        while self._needed[0][0] <= load.at_ms - self.window_ms:
            self._needed.popleft()
        return self._needed[0][1]


def _ceil(value: float) -> int:
    return math.ceil(value - 1e-9)  # 3 x 0.1 / 0.1 is 3, not 4


def _above(floor: float, **values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > floor):
            raise ValueError(f"{name} must be finite and greater than {floor:g}, got {value}")


def _at_least(floor: float, **values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value >= floor):
            raise ValueError(f"{name} must be finite and at least {floor:g}, got {value}")
