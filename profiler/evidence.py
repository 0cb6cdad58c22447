"""Evidence on the cost of one plan: timings taken when it was built, then live batches.

The price of a shape is its *base* (interpolated timings, or a roofline) times a correction learnt
from live batches. In logarithms, an observed ratio is `level + offset of its length bucket +
noise`:

- the level follows the plan as a whole (a noisy neighbour, a clock that throttles) within about
  ten batches, and is all that is known of a bucket that has not run;
- the offset keeps what is peculiar to a bucket, more slowly;
- the tail comes from windows of the noise, of the bucket and of the plan, shrunk towards an
  assumed tail by how few batches lie in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from math import exp, log
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from profiler.quantiles import Cusum, RunningQuantiles
from profiler.shapes import Shape, ShapeGrid
from profiler.surface import Floats, RooflinePrior, interpolated, monotone

# Constants below: docs/decisions/0002-cost-table.md.
_BUCKET_WINDOW = 64
_PLAN_WINDOW = 512
_LEVEL_GAIN = 0.1  # share of each surprise that moves the level, once warm
_OFFSET_GAIN = 0.05  # the same for the offset of a bucket
_GAUGE_EVERY = 16  # batches between moving what all buckets share from offsets to level
_WARM_SAMPLES = 8  # until then surprises are taken whole and are not called noise
_CLIP = log(2.0)  # a single batch never says more than "twice" once warm
_TRUST = 8.0  # this many telling batches weigh as much as the assumed tail
_UNSEEN_TAIL = 1.25  # p99 / p50 assumed before any live batch
_FADE_S = 30.0  # a plan left alone for so long has lost 63 % of its correction
_BAND = 0.2  # |log ratio| to the timed cost that is no drift (about ±20 %)
_DRIFT_THRESHOLD = 3.0  # about 6 batches at twice the timed cost
_SIGMA = log(_UNSEEN_TAIL) / NormalDist().inv_cdf(0.99)


class _Bucket:
    """What one length bucket adds to the level of its plan."""

    __slots__ = ("noise", "offset", "samples")

    def __init__(self, offset: float = 0.0, samples: int = 0, noise: Iterable[float] = ()) -> None:
        self.offset = offset
        self.samples = samples
        self.noise = RunningQuantiles(_BUCKET_WINDOW, noise)


class Evidence:
    """Base and corrections of one plan. Not locked: `CostTable` does that."""

    def __init__(self, grid: ShapeGrid) -> None:
        self.grid = grid
        self.origin: Literal["timed", "prior", "live"] = "live"
        self.samples = 0
        self.alarm_since_s = 0.0
        self._points_ms: dict[Shape, float] = {}
        self._prior: RooflinePrior | None = None
        self._base: Floats | None = None
        self._base_rows: list[list[float]] = []  # the same: list items are read 3 × faster
        self._surface: tuple[tuple[float, int, float], Floats] | None = None
        self._level = 0.0
        self._recent = 0.0
        self._last_s = 0.0
        self._gauge = 0.0
        self._buckets: dict[int, _Bucket] = {}
        self._noise = RunningQuantiles(_PLAN_WINDOW)
        self._cusum = Cusum(_BAND, _DRIFT_THRESHOLD)

    def take_points(self, points_ms: Mapping[Shape, float]) -> None:
        self.origin = "timed"
        self._points_ms = dict(points_ms)
        self._set_base(interpolated(self._points_ms, self.grid))

    def take_prior(self, prior: RooflinePrior) -> None:
        self.origin = "prior"
        self._prior = prior
        self._set_base(prior.surface(self.grid))

    @property
    def alarm(self) -> int:
        """+1 drifted slower, -1 drifted faster, 0 within the band."""
        return self._cusum.alarm

    @property
    def recent_ratio(self) -> float:
        return exp(self._recent)

    def samples_in(self, bucket: int) -> int:
        return min(_BUCKET_WINDOW, self._buckets[bucket].samples) if bucket in self._buckets else 0

    def source(self, shape: Shape) -> Literal["measured", "interpolated", "roofline"]:
        if shape in self._points_ms:
            return "measured"
        return "interpolated" if self._points_ms else "roofline"

    def record(self, shape: Shape, elapsed_ms: float, now_s: float) -> None:
        bucket = self.grid.bucket(shape.length)
        if self.origin == "live" and not self._knows(shape, bucket, elapsed_ms):
            return
        ratio = log(elapsed_ms / self._base_rows[shape.rows - 1][bucket])
        self._drop_stale(now_s)
        self._last_s = now_s
        self.samples += 1
        here = self._buckets.get(bucket)
        if here is None:
            here = self._buckets[bucket] = _Bucket()
        here.samples += 1
        gain = self._learn(here, ratio - self._level - here.offset)
        self._gauge += here.offset
        if self.samples % _GAUGE_EVERY == 0:
            self._regauge()
        if self.origin == "timed":
            self._watch(ratio, gain, now_s)

    def surface(self, quantile: float, now_s: float) -> Floats:
        """Milliseconds `[max_rows, buckets]` at `quantile`, corrected, monotone; read only.

        Kept until something is learnt or fades: most plans of a table rest at any one tick.
        """
        if self._base is None:
            return np.full((self.grid.max_rows, len(self.grid.lengths)), np.inf)
        freshness = self._freshness(now_s)
        seen = (quantile, self.samples, freshness)
        if self._surface is None or self._surface[0] != seen:
            self._surface = seen, self._corrected(self._base, quantile, freshness)
        return self._surface[1]

    def _corrected(self, base: Floats, quantile: float, freshness: float) -> Floats:
        spread = _shrunk(self._noise, quantile, _SIGMA * NormalDist().inv_cdf(quantile))
        log_ratio = np.full(len(self.grid.lengths), freshness * self._level + spread)
        for index, bucket in self._buckets.items():
            log_ratio[index] = freshness * (self._level + bucket.offset) + _shrunk(
                bucket.noise, quantile, spread
            )
        return monotone(base * np.exp(log_ratio))

    def _learn(self, here: _Bucket, surprise: float) -> float:
        """Split one surprise between level, offset and noise; returns the level's gain."""
        # A timing counts as a few batches; a roofline or a first cold batch as none.
        known = 4 if self.origin == "timed" else 0
        gain = max(_LEVEL_GAIN, 1.0 / (self.samples + known))
        if self.samples > _WARM_SAMPLES:
            self._noise.add(surprise)
            here.noise.add(surprise)
            surprise = min(_CLIP, max(-_CLIP, surprise))
        self._level += gain * surprise
        rest = (1.0 - gain) * surprise
        here.offset += max(_OFFSET_GAIN, 0.5 / (here.samples + 3)) * rest
        return gain

    def _regauge(self) -> None:
        """Move the mean offset of recent batches into the level; no bucket that ran changes price.

        Level and offsets are only determined up to such a shift. Cells that have not run are
        priced by the level alone, so it should carry all that the others have in common.
        """
        shift = self._gauge / _GAUGE_EVERY
        self._gauge = 0.0
        self._level += shift
        for bucket in self._buckets.values():
            bucket.offset -= shift

    def _knows(self, shape: Shape, bucket: int, elapsed_ms: float) -> bool:
        """Whether a plan learnt live has a point at `shape`; if not, this batch becomes it."""
        padded = Shape(shape.rows, self.grid.lengths[bucket])
        if padded in self._points_ms:
            return True
        # Later batches corrected earlier points; a new point must not be corrected with them.
        self._points_ms[padded] = elapsed_ms / exp(self._level)
        self._set_base(interpolated(self._points_ms, self.grid))
        return False

    def _watch(self, ratio: float, gain: float, now_s: float) -> None:
        before = self._cusum.alarm
        self._cusum.add(ratio)
        self._recent += gain * (ratio - self._recent)
        if self._cusum.alarm != before:
            self.alarm_since_s = now_s

    def _freshness(self, now_s: float) -> float:
        """1 for evidence of this moment, towards 0 for a plan left alone.

        A plan that was slow for a bad minute and is then avoided yields no new evidence; without
        fading it would be avoided for ever. A guess (roofline) is no better for being old.
        In steps of a hundredth, so that prices stand still between them.
        """
        if self.origin != "timed" or not self.samples:
            return 1.0
        return round(exp(-max(0.0, now_s - self._last_s) / _FADE_S), 2)

    def _drop_stale(self, now_s: float) -> None:
        """Evidence half faded is let go when a batch arrives, rather than revived by it."""
        freshness = self._freshness(now_s)
        if freshness < 0.5:
            self._level *= freshness
            self._recent *= freshness
            self._buckets.clear()
            self._gauge = 0.0

    def _set_base(self, base: Floats) -> None:
        self._base = base
        self._base_rows = base.tolist()
        self._surface = None

    def to_json(self) -> dict[str, Any]:
        return {
            "origin": self.origin,
            "points_ms": [[s.rows, s.length, ms] for s, ms in self._points_ms.items()],
            "prior": None if self._prior is None else asdict(self._prior),
            "samples": self.samples,
            "level": self._level,
            "recent": self._recent,
            "gauge": self._gauge,
            "cells": {
                str(index): [bucket.offset, bucket.samples, list(bucket.noise.values())]
                for index, bucket in self._buckets.items()
            },
            "noise": list(self._noise.values()),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], grid: ShapeGrid, now_s: float) -> Evidence:
        known = cls(grid)
        points = {Shape(int(r), int(n)): float(ms) for r, n, ms in data["points_ms"]}
        if data["prior"] is not None:
            known.take_prior(RooflinePrior(**data["prior"]))
        if points:
            known.take_points(points)
        known.origin = data["origin"]
        known.samples = int(data["samples"])
        known._level, known._recent = float(data["level"]), float(data["recent"])
        known._gauge = float(data["gauge"])
        known._buckets = {int(index): _Bucket(*bucket) for index, bucket in data["cells"].items()}
        known._noise = RunningQuantiles(_PLAN_WINDOW, data["noise"])
        known._last_s = now_s
        return known


def _shrunk(noise: RunningQuantiles, quantile: float, otherwise: float) -> float:
    """Distance of `quantile` from the median of `noise`, shrunk towards `otherwise`.

    Of n batches only about 2 n (1 - q) lie where an upper quantile q is decided.
    """
    if quantile == 0.5:
        return 0.0
    if not len(noise):
        return otherwise
    telling = 2.0 * len(noise) * min(quantile, 1.0 - quantile)
    weight = telling / (telling + _TRUST)
    seen = noise.quantile(quantile) - noise.quantile(0.5)
    return weight * seen + (1.0 - weight) * otherwise
