"""What a sub-network will cost where it is to run, from the times of a few.

    ms(spec, shape) = a + b · layers kept + c · floating-point operations,   a, b, c ≥ 0

for each shape by itself: non-negative least squares on relative errors, so that quick sub-networks
count as much as slow ones. A prediction is the mean under the traffic's mix of the shapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evolve.evolution.anchors import Timing
from profiler.shapes import Shape, ShapeGrid
from supernet.elastic.subnet import LayerSpec, SubnetSpec
from supernet.elastic.supernet import Supernet

__all__ = ["Latency", "Work", "fitted", "mix_of", "shapes_of"]

Floats: TypeAlias = NDArray[np.float64]

_QUANTILES = (0.5, 0.95)
_ROWS = (1, 8)


class Work:
    """Floating-point operations of sub-networks, each form of a layer counted once.

    Layers do not depend on each other's widths: what leaving something out of one saves is the same
    whatever the others keep.
    """

    def __init__(self, net: Supernet) -> None:
        self._net = net
        self._whole: dict[int, int] = {}
        self._saved: dict[tuple[int, LayerSpec], int] = {}

    def __call__(self, spec: SubnetSpec, shape: Shape) -> float:
        """Of a batch of this shape, in billions."""
        net, length = self._net, shape.length
        if length not in self._whole:
            self._whole[length] = net.cost(net.full, Shape(1, length)).flops
        total = self._whole[length] - sum(
            self._saving(own, length)
            for own, full in zip(net.space.check(spec).layers, net.full.layers, strict=True)
            if own != full
        )
        return total * shape.rows / 1e9

    def _saving(self, layer: LayerSpec, length: int) -> int:
        key = length, layer
        if key not in self._saved:
            layers = (layer if own.name == layer.name else own for own in self._net.full.layers)
            cut = self._net.cost(SubnetSpec(tuple(layers)), Shape(1, length)).flops
            self._saved[key] = self._whole[length] - cut
        return self._saved[key]


@dataclass(frozen=True, slots=True, eq=False)
class Latency:
    """Predicted milliseconds of any sub-network of a supernet.

    `coefficients` [shapes, 3]; `mix`: the share of each shape in the traffic; `error`: of what was
    fitted, the root of the mean squared relative deviation.
    """

    net: Supernet
    shapes: tuple[Shape, ...]
    coefficients: Floats
    mix: Floats
    error: float
    work: Work
    _known: dict[SubnetSpec, float] = field(default_factory=dict, repr=False)

    def __call__(self, spec: SubnetSpec) -> float:
        """The mean under the mix of shapes."""
        spec = self.net.space.check(spec)
        if spec not in self._known:
            rows = np.array([features(self.work, spec, shape) for shape in self.shapes])
            self._known[spec] = float((self.mix * (rows * self.coefficients).sum(axis=1)).sum())
        return self._known[spec]

    def speedup(self, spec: SubnetSpec) -> float:
        """How many times as fast as the original."""
        return self(self.net.full) / max(self(spec), 1e-9)

    @property
    def described(self) -> str:
        """In words, how far predictions can be trusted."""
        shapes = ", ".join(f"{shape.rows} × {shape.length}" for shape in self.shapes)
        return f"times at {shapes} are predicted to within {self.error:.1%} of those measured"


def features(work: Work, spec: SubnetSpec, shape: Shape) -> list[float]:
    kept = sum(not layer.skipped for layer in spec.layers)
    return [1.0, float(kept), work(spec, shape)]


def fitted(net: Supernet, timings: Sequence[Timing], mix: Mapping[Shape, float]) -> Latency:
    """From measured times, at the shapes of ``mix``, whose shares need not add up to 1."""
    work = Work(net)
    shapes = tuple(mix)
    coefficients, deviations = [], []
    for shape in shapes:
        own = [timing for timing in timings if timing.shape == shape]
        if not own:
            raise ValueError(f"timings must hold the shape {shape}, got none")
        rows = np.array([features(work, timing.spec, shape) for timing in own])
        ms = np.array([timing.ms for timing in own])
        found = _nonnegative(rows / ms[:, None], np.ones(len(own)))
        coefficients.append(found)
        deviations.append((rows @ found) / ms - 1.0)
    error = float(np.sqrt(np.mean(np.square(np.concatenate(deviations)))))
    shares = np.array([mix[shape] for shape in shapes], np.float64)
    return Latency(net, shapes, np.array(coefficients), shares / shares.sum(), error, work)


def _nonnegative(rows: Floats, wanted: Floats) -> Floats:
    """Non-negative least squares, exactly: of a few features the best of every choice of them."""
    best, least = np.zeros(rows.shape[1]), float(wanted @ wanted)
    columns = range(rows.shape[1])
    for count in columns:
        for chosen in itertools.combinations(columns, count + 1):
            part = np.linalg.lstsq(rows[:, chosen], wanted, rcond=None)[0]
            off = float(np.square(rows[:, chosen] @ part - wanted).sum())
            if (part >= 0).all() and off < least:
                best, least = np.zeros(rows.shape[1]), off
                best[list(chosen)] = part
    return best


def shapes_of(grid: ShapeGrid, lengths: Sequence[int], *, batchable: bool) -> tuple[Shape, ...]:
    """The shapes to time at: one row and some, at a usual length and a long one."""
    longest = grid.lengths[-1]
    found = {grid.pad(min(longest, max(1, round(float(np.quantile(lengths, q))))))
             for q in _QUANTILES}  # fmt: skip
    rows = sorted({min(count, grid.max_rows) for count in (_ROWS if batchable else (1,))})
    return tuple(Shape(count, length) for count in rows for length in sorted(found))


def mix_of(shapes: Sequence[Shape], lengths: Sequence[int]) -> dict[Shape, float]:
    """The share of each shape where requests have these lengths: each counts for the nearest."""
    known = np.array(sorted({shape.length for shape in shapes}))
    nearest = np.abs(np.asarray(lengths)[:, None] - known[None, :]).argmin(axis=1)
    counts = dict(zip(known.tolist(), np.bincount(nearest, minlength=len(known)), strict=True))
    return {shape: (float(counts[shape.length]) + 1e-9) / shape.rows for shape in shapes}
