"""Cost of a batch under each plan: timed once, then kept true by what is seen while serving."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

import numpy as np

from profiler.evidence import Evidence
from profiler.shapes import Shape, ShapeGrid
from profiler.surface import Floats, RooflinePrior

__all__ = ["Cost", "CostTable", "Drift", "RooflinePrior"]

Source = Literal["measured", "interpolated", "roofline", "unknown"]
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Cost:
    """The price of one batch.

    `p50_ms`, `p99_ms`: median and tail of its duration, inf when nothing is known.
    `samples`: recent live batches of the same length bucket behind the correction.
    `source`: "measured" (this very shape was timed), "interpolated" (its neighbours were),
    "roofline" (nobody timed the plan) or "unknown".
    """

    p50_ms: float
    p99_ms: float
    samples: int
    source: Source


@dataclass(frozen=True, slots=True)
class Drift:
    """A plan whose live cost has left the band around its timed cost.

    `ratio`: recent observed / timed. `since_s`: when it left, on the table's clock.
    """

    plan: str
    ratio: float
    direction: Literal["slower", "faster"]
    samples: int
    since_s: float


class CostTable:
    """Prices per (plan, shape), safe to share between threads.

    >>> table = CostTable(ShapeGrid(max_rows=4, lengths=(8, 16)))
    >>> table.seed("fast", {Shape(1, 8): 2.0, Shape(4, 16): 12.0})
    >>> table.estimate("fast", Shape(1, 8)).p50_ms
    2.0
    >>> table.matrix(["fast"]).shape
    (1, 4, 2)
    """

    def __init__(self, grid: ShapeGrid, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.grid = grid
        self._clock = clock
        self._lock = threading.Lock()
        self._evidence: dict[str, Evidence] = {}

    def seed(self, plan: str, measured_ms: Mapping[Shape, float]) -> None:
        """Take the milliseconds a builder timed for `plan`; replaces what was known of it.

        Live evidence gathered so far corrected older timings, so it goes with them.
        """
        if not measured_ms:
            raise ValueError(f"measured_ms must hold at least one shape for plan {plan}, got none")
        for shape, ms in measured_ms.items():
            if not (isfinite(ms) and ms > 0):
                raise ValueError(f"measured_ms must be finite and above 0, got {ms} at {shape}")
        fresh = Evidence(self.grid)
        fresh.take_points(measured_ms)
        with self._lock:
            self._evidence[plan] = fresh

    def prior(self, plan: str, prior: RooflinePrior) -> None:
        """Price a plan that nobody timed by its roofline. Timings, where they exist, win."""
        with self._lock:
            known = self._evidence.get(plan)
            if known is None or known.origin == "prior":
                fresh = Evidence(self.grid)
                fresh.take_prior(prior)
                self._evidence[plan] = fresh

    def record(self, plan: str, shape: Shape, elapsed_ms: float) -> None:
        """One live batch. A plan nobody timed or priced is learnt from its own batches.

        Times that mean nothing (zero, negative, NaN: a clock that stepped) are ignored, since
        the request they belong to was answered and must not fail on its bookkeeping.
        """
        if not (isfinite(elapsed_ms) and elapsed_ms > 0) or not self.grid.holds(shape):
            return
        now_s = self._clock()
        with self._lock:
            known = self._evidence.get(plan)
            if known is None:
                known = self._evidence[plan] = Evidence(self.grid)
            known.record(shape, elapsed_ms, now_s)

    def estimate(self, plan: str, shape: Shape) -> Cost:
        """The price of `shape`, padded to its bucket. Agrees with `matrix`, entry by entry."""
        if shape.rows > self.grid.max_rows:
            raise ValueError(f"rows must be at most {self.grid.max_rows}, got {shape.rows}")
        bucket = self.grid.bucket(shape.length)
        now_s = self._clock()
        with self._lock:
            known = self._evidence.get(plan)
            if known is None:
                return Cost(float("inf"), float("inf"), 0, "unknown")
            p50, p99 = (known.surface(q, now_s)[shape.rows - 1, bucket] for q in (0.5, 0.99))
            padded = Shape(shape.rows, self.grid.lengths[bucket])
            return Cost(float(p50), float(p99), known.samples_in(bucket), known.source(padded))

    def matrix(self, plans: Sequence[str], quantile: float = 0.5) -> Floats:
        """Milliseconds `[plans, max_rows, buckets]`, C-contiguous, entry `[p, rows - 1, bucket]`.

        Never decreasing in rows nor in length. A plan nothing is known of is all inf.
        """
        if not 0.0 < quantile < 1.0:
            raise ValueError(f"quantile must be between 0 and 1, both excluded, got {quantile}")
        now_s = self._clock()
        table = np.full((len(plans), self.grid.max_rows, len(self.grid.lengths)), np.inf)
        with self._lock:
            for row, plan in zip(table, plans, strict=True):
                known = self._evidence.get(plan)
                if known is not None:
                    row[:] = known.surface(quantile, now_s)
        return table

    def drifts(self) -> tuple[Drift, ...]:
        """Plans whose timings no longer hold and should be taken again, by name."""
        with self._lock:
            return tuple(
                Drift(
                    plan,
                    known.recent_ratio,
                    "slower" if known.alarm > 0 else "faster",
                    known.samples,
                    known.alarm_since_s,
                )
                for plan, known in sorted(self._evidence.items())
                if known.alarm
            )

    def plans(self) -> tuple[str, ...]:
        """The plans something is known of, by name."""
        with self._lock:
            return tuple(sorted(self._evidence))

    def forget(self, plan: str) -> None:
        """Drop all that is known of `plan`; unknown names are fine."""
        with self._lock:
            self._evidence.pop(plan, None)

    def to_json(self) -> dict[str, Any]:
        """All of it, in plain numbers, for `json.dump`."""
        with self._lock:
            return {
                "version": _SCHEMA,
                "grid": self.grid.to_json(),
                "plans": {plan: known.to_json() for plan, known in self._evidence.items()},
            }

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], *, clock: Callable[[], float] = time.monotonic
    ) -> CostTable:
        """The table that `to_json` wrote. Its live evidence starts to fade from now."""
        if data.get("version") != _SCHEMA:
            raise ValueError(
                f"version of a cost table must be {_SCHEMA}, got {data.get('version')!r}; "
                "discard the file and measure again"
            )
        try:
            table = cls(ShapeGrid.from_json(data["grid"]), clock=clock)
            for plan, known in data["plans"].items():
                table._evidence[plan] = Evidence.from_json(known, table.grid, clock())
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"cost table must be what to_json wrote, got a broken one ({error!r}); "
                "discard the file and measure again"
            ) from error
        return table
