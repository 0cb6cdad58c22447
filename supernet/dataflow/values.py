"""The abstract value of one tensor in the graph: what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor

from supernet.dataflow.intervals import Interval
from supernet.dataflow.sizes import Dim, Factor, Odd

__all__ = ["Place", "Rows", "Span", "Trouble", "Value", "places", "worst"]

Rows: TypeAlias = Literal["same", "own", "index"]
"""What a row of it depends on: on no request, on that row of the inputs alone, or on where in the
batch the row lies (``arange(rows)``)."""


class Trouble(NamedTuple):
    """Why something cannot be proven; ``sure`` where an operator really mixes, not where no rule
    says what it does."""

    why: str
    sure: bool


class Span(NamedTuple):
    """Entries along one length factor.

    ``pad``: those beyond the length that the request had, at places that along every other length
    exist without padding. ``first``: those at its first position, wherever along other lengths.
    """

    pad: Interval
    first: Interval

    def map(self, f: Callable[[Interval], Interval]) -> Span:
        return Span(f(self.pad), f(self.first))


class Place(NamedTuple):
    """Where a factor lies: which dim, and the how-manieth factor of it."""

    dim: int
    factor: int


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor. Its entries are compared with those of a run of the request alone, unpadded.

    ``coupled``: a row may depend on other rows. ``moved``: an entry that exists without padding may
    change with it. ``valid`` are such entries' numbers, ``range`` all of them; ``spans`` has one
    element for each length factor, in the order of the dims. ``offset``: entries are their index
    along the only length factor plus this. ``weight`` is the parameter or constant itself.
    """

    dims: tuple[Dim, ...]
    rows: Rows
    valid: Interval
    range: Interval
    spans: tuple[Span, ...] = ()
    coupled: Trouble | None = None
    moved: Trouble | None = None
    offset: float | None = None
    weight: Tensor | None = None

    @property
    def finite(self) -> bool:
        return self.range.finite

    def troubled(self, coupled: Trouble | None, moved: Trouble | None) -> Value:
        """The same with these troubles, unless it has worse ones."""
        return replace(
            self, coupled=worst([self.coupled, coupled]), moved=worst([self.moved, moved])
        )

    def plain(self) -> Value:
        """The same as a mere operand: position in the batch counts as coupling, no index, no
        weight."""
        if self.rows != "index":
            return replace(self, offset=None, weight=None)
        why = Trouble("a number follows the place in the batch", sure=True)
        return replace(
            self, rows="own", coupled=worst([self.coupled, why]), offset=None, weight=None
        )


def places(dims: Sequence[Dim], which: Factor) -> list[Place]:
    """Where ``which`` lies in these dims, in order."""
    return [
        Place(d, f) for d, dim in enumerate(dims) for f, factor in enumerate(dim) if factor == which
    ]


def follows(dim: Dim, which: Literal["rows", "length"]) -> bool:
    """Whether the size of ``dim`` depends on the rows, or on the length, in whatever way."""
    return any(
        factor == which or (isinstance(factor, Odd) and getattr(factor, which)) for factor in dim
    )


def worst(troubles: Iterable[Trouble | None]) -> Trouble | None:
    """The first that is sure, else the first."""
    found = [trouble for trouble in troubles if trouble is not None]
    return next((trouble for trouble in found if trouble.sure), found[0] if found else None)
