"""The grid of padded shapes that work is grouped, timed and priced on.

A batch is `rows` requests, each padded to one common `length`. Lengths are rounded up to a few
*buckets*, so that like lengths share a batch and a cost table stays small. A model without a length
axis has the single bucket 1.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

# (up to this length, step): about 12 % padding at worst beyond 32, where a padded token starts to
# cost real time; finer steps would only multiply the number of shapes that have to be measured.
_STEPS = ((32, 4), (64, 8), (128, 16), (256, 32), (512, 64))
_GROWTH = 1.25
_PROBE_LENGTHS = 6


@dataclass(frozen=True, order=True, slots=True)
class Shape:
    """The padded shape of one batch.

    `rows`: requests in the batch, at least 1. `length`: padded length of every row, at least 1
    (1 when the model has no length axis).

    >>> Shape(rows=4, length=32).tokens
    128
    """

    rows: int
    length: int = 1

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"rows must be at least 1, got {self.rows}")
        if self.length < 1:
            raise ValueError(f"length must be at least 1, got {self.length}")

    @property
    def tokens(self) -> int:
        """Positions computed, padding included: `rows * length`."""
        return self.rows * self.length


@dataclass(frozen=True, slots=True)
class ShapeGrid:
    """All padded shapes a plan may be asked to run.

    `max_rows`: largest batch. `lengths`: the padding targets ("buckets"), strictly ascending; a
    request is padded to the smallest one that holds it.

    >>> grid = ShapeGrid.covering(max_rows=16, min_length=3, max_length=40)
    >>> grid.lengths
    (4, 8, 12, 16, 20, 24, 28, 32, 40)
    >>> grid.pad(33), grid.bucket(33)
    (40, 8)
    """

    max_rows: int
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, got {self.max_rows}")
        if not self.lengths or self.lengths[0] < 1:
            raise ValueError(
                f"lengths must be one or more lengths of at least 1, got {self.lengths}; "
                "use (1,) for a model without a length axis"
            )
        if any(a >= b for a, b in pairwise(self.lengths)):
            raise ValueError(f"lengths must be strictly ascending, got {self.lengths}")

    @classmethod
    def covering(cls, max_rows: int, min_length: int = 1, max_length: int = 1) -> ShapeGrid:
        """A grid for lengths in [`min_length`, `max_length`].

        Buckets step by 4 up to 32, 8 up to 64, 16 up to 128, 32 up to 256, 64 up to 512 and then
        grow by a quarter; the last one is `max_length` itself, so nothing is padded past it.
        """
        if not 1 <= min_length <= max_length:
            raise ValueError(
                "min_length must be at least 1 and at most max_length, "
                f"got min_length {min_length} and max_length {max_length}"
            )
        buckets = []
        for edge in _edges():
            if edge >= max_length:
                break
            if edge >= min_length:
                buckets.append(edge)
        return cls(max_rows, (*buckets, max_length))

    def bucket(self, length: int) -> int:
        """Index of the smallest bucket that holds `length`."""
        index = bisect_left(self.lengths, length)
        if index == len(self.lengths) or length < 1:
            raise ValueError(
                f"length must be between 1 and {self.lengths[-1]}, got {length}; "
                "capture with a longer example to cover it, or truncate the input"
            )
        return index

    cell = bucket
    """The name that it had before."""

    def pad(self, length: int) -> int:
        """The length that a row of `length` is padded to."""
        return self.lengths[self.bucket(length)]

    def holds(self, shape: Shape) -> bool:
        """Whether `shape` fits the grid, on a bucket or between two."""
        return shape.rows <= self.max_rows and shape.length <= self.lengths[-1]

    def probe_shapes(self) -> tuple[Shape, ...]:
        """The sparse subset worth timing, cheapest first; the rest is interpolated.

        Rows double up to `max_rows`; about six lengths are spread geometrically, the first and
        the last included. The order means that a measurement cut short by its budget has
        covered the small shapes, which are the common ones.
        """
        rows = sorted({*_doublings(self.max_rows), self.max_rows})
        targets = np.geomspace(self.lengths[0], self.lengths[-1], _PROBE_LENGTHS)
        # geomspace may land a hair beside its own end points.
        buckets = {self.bucket(min(round(float(t)), self.lengths[-1])) for t in targets}
        lengths = sorted({self.lengths[c] for c in buckets})
        shapes = (Shape(r, n) for r in rows for n in lengths)
        return tuple(sorted(shapes, key=lambda s: (s.tokens, s.rows)))

    def to_json(self) -> dict[str, object]:
        return {"max_rows": self.max_rows, "lengths": list(self.lengths)}

    @classmethod
    def from_json(cls, data: dict[str, object]) -> ShapeGrid:
        max_rows, lengths = data.get("max_rows"), data.get("lengths")
        if not isinstance(max_rows, int) or not isinstance(lengths, list):
            raise ValueError(f"grid must hold max_rows and lengths, got {sorted(data)}")
        return cls(max_rows, tuple(int(n) for n in lengths))


def _edges() -> Iterator[int]:
    """Bucket boundaries for every length, ascending and without end."""
    edge = 0
    for limit, step in _STEPS:
        while edge < limit:
            edge += step
            yield edge
    while True:
        # A multiple of 8 keeps every row of a float32 batch on 32-byte boundaries.
        edge = -(-int(edge * _GROWTH) // 8) * 8
        yield edge


def _doublings(limit: int) -> Iterator[int]:
    rows = 1
    while rows <= limit:
        yield rows
        rows *= 2
