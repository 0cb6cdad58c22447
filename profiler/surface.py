"""A price for every shape of the grid, from a few timed shapes.

Pure functions on arrays `[max_rows, buckets]` of milliseconds; entry `[rows - 1, bucket]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, log
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from profiler.shapes import Shape, ShapeGrid

if TYPE_CHECKING:
    from profiler.fingerprint import DeviceFingerprint

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RooflinePrior:
    """What a plan should cost at best, before anybody has timed it.

    Time is the larger of computing and moving (the roofline of Williams, Waterman & Patterson,
    CACM 2009), plus a fixed overhead. A bound from below, good to a factor of about two; the
    first live batches correct it.

    `flops_per_token`: multiply and add counted apart. `weight_bytes`: read once per batch.
    `gflop_per_s`, `bandwidth_gb_per_s`: *measured* rates of the device.
    """

    flops_per_token: float
    weight_bytes: float
    gflop_per_s: float
    bandwidth_gb_per_s: float
    overhead_ms: float = 0.1
    activation_bytes_per_token: float = 0.0

    def __post_init__(self) -> None:
        for name in ("gflop_per_s", "bandwidth_gb_per_s"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a measured rate above 0, got {value}")
        for name in (
            "flops_per_token",
            "weight_bytes",
            "overhead_ms",
            "activation_bytes_per_token",
        ):
            value = getattr(self, name)
            if not (isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and at least 0, got {value}")

    @classmethod
    def of(
        cls,
        fingerprint: DeviceFingerprint,
        *,
        flops_per_token: float,
        weight_bytes: float,
        dtype: str = "fp32",
        cores: int = 1,
    ) -> RooflinePrior:
        """The prior for `cores` cores of a measured device, computing in `dtype`."""
        return cls(
            flops_per_token,
            weight_bytes,
            fingerprint.gflop_per_s(dtype, cores=cores),
            fingerprint.memory_bandwidth_gb_per_s or 0.0,
        )

    def surface(self, grid: ShapeGrid) -> Floats:
        """Milliseconds `[max_rows, buckets]`."""
        tokens = _tokens(grid)
        compute_ms = tokens * self.flops_per_token / (self.gflop_per_s * 1e6)
        moved = self.weight_bytes + tokens * self.activation_bytes_per_token
        return self.overhead_ms + np.maximum(compute_ms, moved / (self.bandwidth_gb_per_s * 1e6))


def interpolated(points_ms: Mapping[Shape, float], grid: ShapeGrid) -> Floats:
    """A price for every shape from the timed `points_ms` (at least one), `[max_rows, buckets]`.

    Bilinear in (rows, length) between timed points, linear in rows × length beyond them. Points
    need not form a full grid: a missing knot is carried over from the nearest timed one.
    """
    if not points_ms:
        raise ValueError("points_ms must hold at least one timed shape, got none")
    line = _Line.through(points_ms)
    rows = np.array(sorted({s.rows for s in points_ms}), dtype=np.float64)
    lengths = np.array(sorted({s.length for s in points_ms}), dtype=np.float64)
    knots = np.empty((rows.size, lengths.size))
    for i, r in enumerate(rows):
        for j, n in enumerate(lengths):
            shape = Shape(int(r), int(n))
            timed = points_ms.get(shape)
            knots[i, j] = timed if timed is not None else line.carry(points_ms, shape)
    want_rows = np.arange(1, grid.max_rows + 1, dtype=np.float64)
    want_lengths = np.array(grid.lengths, dtype=np.float64)
    by_length = np.stack([np.interp(want_lengths, lengths, knot) for knot in knots])
    inside = np.stack([np.interp(want_rows, rows, col) for col in by_length.T], axis=1)
    # np.interp holds its end values; scale them by the work that lies beyond.
    edge_tokens = np.outer(
        np.clip(want_rows, rows[0], rows[-1]), np.clip(want_lengths, lengths[0], lengths[-1])
    )
    scaled: Floats = inside * line.at(_tokens(grid)) / line.at(edge_tokens)
    return scaled


def monotone(surface: Floats) -> Floats:
    """The nearest surface on which a bigger batch is never cheaper, `[..., rows, buckets]`.

    Halfway (in the logarithm) between the running maximum from below and the running minimum
    from above: the isotonic fit with the least worst relative error, for any partial order
    (Barlow et al., Statistical Inference under Order Restrictions, 1972). A plain running
    maximum would let one noisy small shape raise the price of all larger ones.
    """
    up = np.maximum.accumulate(np.maximum.accumulate(surface, axis=-2), axis=-1)
    back = surface[..., ::-1, ::-1]
    down = np.minimum.accumulate(np.minimum.accumulate(back, axis=-2), axis=-1)[..., ::-1, ::-1]
    fitted: Floats = np.sqrt(up * down)
    return fitted


@dataclass(frozen=True, slots=True)
class _Line:
    """Cost as `fixed_ms + per_token_ms * rows * length`, both at least 0."""

    fixed_ms: float
    per_token_ms: float

    @classmethod
    def through(cls, points_ms: Mapping[Shape, float]) -> _Line:
        """Least squares of the *relative* error, so that small shapes count as much as large."""
        tokens = np.array([s.tokens for s in points_ms], dtype=np.float64)
        ms = np.array(list(points_ms.values()), dtype=np.float64)
        if np.unique(tokens).size < 2:
            # One amount of work says nothing about overhead: half fixed overstates small
            # shapes and understates large ones by at most a factor of two each.
            half = float(ms.mean()) / 2
            return cls(half, half / float(tokens[0]))
        design = np.stack([1.0 / ms, tokens / ms], axis=1)
        (fixed, slope), *_ = np.linalg.lstsq(design, np.ones_like(ms), rcond=None)
        if slope <= 0:
            return cls(float(np.exp(np.log(ms).mean())), 0.0)
        if fixed < 0:
            return cls(0.0, float(np.exp(np.log(ms / tokens).mean())))
        return cls(float(fixed), float(slope))

    def at(self, tokens: Floats) -> Floats:
        return self.fixed_ms + self.per_token_ms * tokens

    def carry(self, points_ms: Mapping[Shape, float], shape: Shape) -> float:
        """The nearest timed cost, moved along the line to `shape`."""

        def distance(other: Shape) -> float:
            return abs(log(other.rows / shape.rows)) + abs(log(other.length / shape.length))

        near = min(points_ms, key=distance)
        here, there = self.at(np.array([shape.tokens, near.tokens], dtype=np.float64))
        return float(points_ms[near] * here / there)


def _tokens(grid: ShapeGrid) -> Floats:
    rows = np.arange(1, grid.max_rows + 1, dtype=np.float64)
    return np.outer(rows, np.array(grid.lengths, dtype=np.float64))
