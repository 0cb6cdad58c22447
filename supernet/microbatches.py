"""Microbatches: which batches of a plan run a few rows at a time, since what lies between layers
stays in caches.

The term is that of Huang et al., "GPipe", 2019 (arXiv:1811.06965), where pipelines are the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from profiler.shapes import Shape
from supernet.signature import Signature

__all__ = ["Microbatches"]


@dataclass(frozen=True, slots=True)
class Microbatches:
    """How many rows at once are faster than a whole batch.

    ``at_once``: by timed shape, 0 where the whole was faster. Batches between take what the next
    longer length and, of that, the next larger batch takes, those beyond the last the last one's.

    >>> how = {Shape(4, 16): 0, Shape(4, 64): 2, Shape(16, 64): 0}
    >>> [Microbatches(how, signature=None).rows_at_once(rows, 17) for rows in (3, 5)]
    [2, 0]
    """

    at_once: Mapping[Shape, int]
    signature: Signature

    def rows_at_once(self, rows: int, length: int) -> int:
        """The most rows to run together of so many of this length, 0 for all."""
        lengths = sorted({shape.length for shape in self.at_once})
        known = next((one for one in lengths if one >= length), lengths[-1])
        sizes = sorted(shape.rows for shape in self.at_once if shape.length == known)
        return self.at_once[Shape(next((one for one in sizes if one >= rows), sizes[-1]), known)]

    def __str__(self) -> str:
        """In words, e.g. ``"8 rows of 64 at a time"``; lengths of whole batches are left out."""
        told = sorted({(shape.length, rows) for shape, rows in self.at_once.items() if rows})
        return ", ".join(f"{rows} rows of {length}" for length, rows in told) + " at a time"

    def to_json(self) -> dict[str, Any]:
        parts = sorted([shape.rows, shape.length, rows] for shape, rows in self.at_once.items())
        return {"parts": parts, "signature": self.signature.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Microbatches:
        at_once = {Shape(int(rows), int(length)): int(n) for rows, length, n in data["parts"]}
        return Microbatches(at_once, Signature.from_json(data["signature"]))
