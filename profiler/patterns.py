"""The memory pattern over the grid of shapes: what batches of each shape ask of the machine.

    a few shapes, worked out ──▶ moved_table [R, L, 3] ──▶ with_fusion [R, L, 4] ──▶ window, twin

A table's last axis is `balance`, `memory_share`, `moved_mib` and `fused`; see `Signals`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from math import isfinite
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from profiler.shapes import Shape, ShapeGrid

__all__ = ["MemoryDemand", "Pattern", "PatternTable", "knots", "moved_table", "with_fusion"]

Floats = npt.NDArray[np.float64]

MIB = 2.0**20


@dataclass(frozen=True, slots=True)
class MemoryDemand:
    """What one batch of the unfused program asks of one machine, MiB.

    `work_mib`: what its memory could move in the time that the arithmetic takes. `read_mib`,
    `written_mib`: what the operators ask for. `memory_mib`: of the read, what no cache answers.
    """

    work_mib: float
    read_mib: float
    written_mib: float
    memory_mib: float

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not (isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and at least 0, got {value}")


class Pattern(NamedTuple):
    """One row of a table: the memory pattern of one shape, all 0.0 where it is not known."""

    balance: float = 0.0
    memory_share: float = 0.0
    moved_mib: float = 0.0
    fused: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class PatternTable:
    """`values` [R, L, 4] for 1 to R rows, padded to each of `lengths` [L].

    >>> table = PatternTable(np.arange(16.0).reshape(2, 2, 4), (8, 16))
    >>> table.at(rows=1.6, length=8.5)
    Pattern(balance=12.0, memory_share=13.0, moved_mib=14.0, fused=15.0)
    """

    values: Floats
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        wanted = (len(self.lengths), len(Pattern._fields))
        if self.values.ndim != 3 or self.values.shape[1:] != wanted or not len(self.values):
            raise ValueError(
                f"values must be [rows, {wanted[0]}, {wanted[1]}], got shape {self.values.shape}"
            )

    def at(self, rows: float, length: float) -> Pattern:
        """That of the mean batch: rows rounded, the length padded, both kept within the table.

        `sims.engine.observe` does the same in compiled code.
        """
        row = min(len(self.values), max(1, int(rows + 0.5))) - 1
        bucket = min(len(self.lengths) - 1, bisect_left(self.lengths, length))
        return Pattern(*self.values[row, bucket].tolist())


def knots(grid: ShapeGrid) -> tuple[Shape, ...]:
    """The shapes to work out: at most three rows by three lengths, the corners among them.

    What is moved is linear in rows and, attention apart, in length; what caches hold is not.
    """
    rows = {1, round(grid.max_rows**0.5), grid.max_rows}
    first, last = grid.lengths[0], grid.lengths[-1]
    lengths = {first, grid.pad(round((first * last) ** 0.5)), last}
    return tuple(Shape(r, n) for r in sorted(rows) for n in sorted(lengths))


def moved_table(points: Mapping[Shape, MemoryDemand], grid: ShapeGrid) -> Floats:
    """[R, L, 3] without `fused` from the demand at the knots, bilinear in rows and length.

    Amounts are interpolated, not their ratios: those are not linear in anything.
    """
    rows = sorted({shape.rows for shape in points})
    lengths = sorted({shape.length for shape in points})
    if not points or len(points) != len(rows) * len(lengths):
        raise ValueError(f"points must be every pair of some rows and lengths, got {list(points)}")
    known = np.array([[astuple(points[Shape(r, n)]) for n in lengths] for r in rows])
    by_length = _along(1, known, lengths, grid.lengths)
    everywhere = _along(0, by_length, rows, range(1, grid.max_rows + 1))
    work, read, written, memory = np.moveaxis(everywhere, -1, 0)
    moved = read + written
    return np.stack([_ratio(work, moved), _ratio(memory, read), moved], axis=-1)


def with_fusion(
    moved: Floats, cost_ms: Floats, tier: npt.NDArray[np.int64], fused: Sequence[bool]
) -> Floats:
    """[R, L, 4]: whether the fastest plan of the most exact tier is `fused` [P], shape by shape.

    `moved` [R, L, 3]; `cost_ms` [P, R, L], inf or NaN where unknown: such a plan is not chosen.
    """
    choosable = (tier == tier.min())[:, None, None] & np.isfinite(cost_ms)
    best = np.where(choosable, cost_ms, np.inf).argmin(axis=0)
    chosen = np.asarray(fused, np.float64)[best] * choosable.any(axis=0)
    return np.concatenate([moved, chosen[..., None]], axis=-1)


def _along(axis: int, known: Floats, at: Sequence[int], wanted: Sequence[int]) -> Floats:
    return np.apply_along_axis(lambda line: np.interp(wanted, at, line), axis, known)


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
