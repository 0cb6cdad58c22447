"""Sizes as products, and dims as the factors they are made of.

A dim of ``B * T`` is ``("rows", "length")``: a view that merges dims and one that takes them apart
again lose nothing. Factors are in memory order, so the order of rows and lengths in a tensor is the
same before and after any view.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import sympy

__all__ = ["Dim", "Factor", "Odd", "Size", "join", "regroup", "size_of"]


@dataclass(frozen=True, slots=True)
class Odd:
    """A size that follows the rows or the length in another way than as a factor: ``T - 2``."""

    text: str
    rows: bool
    length: bool


Factor: TypeAlias = int | Literal["rows", "length"] | Odd
Dim: TypeAlias = tuple[Factor, ...]
"""Factors from the slowest to the fastest; a size of 1 has none."""


@dataclass(frozen=True, slots=True)
class Size:
    """``number`` times the symbols in ``others``, in any order."""

    number: int
    others: tuple[Factor, ...] = ()

    def follows(self, which: Literal["rows", "length"]) -> bool:
        """Whether it depends on the number of rows, or on the length."""
        return any(
            other == which or (isinstance(other, Odd) and getattr(other, which))
            for other in self.others
        )


def size_of(value: Any, named: Mapping[Any, str]) -> Size:
    """The size that an int or a SymInt is. ``named`` says which symbols are rows and length."""
    if isinstance(value, int):
        return Size(value)
    number = 1
    others: list[Factor] = []
    for part in sympy.Mul.make_args(sympy.sympify(value.node.expr)):
        if part.is_Integer:
            number *= int(part)
        elif part.is_symbol and part in named:
            others.append(cast(Factor, named[part]))
        else:
            found = {named.get(symbol, "") for symbol in part.free_symbols}
            unknown = "" in found  # a size that only the values decide
            text = str(part.subs({s: sympy.Symbol(name) for s, name in named.items()}))
            others.append(Odd(text, unknown or "rows" in found, unknown or "length" in found))
    return Size(number, tuple(sorted(others, key=str)))


def join(factors: Sequence[Factor]) -> Dim:
    """These factors in their order, neighbouring numbers as one."""
    joined: list[Factor] = []
    for factor in factors:
        if factor == 1:
            continue
        last = joined[-1] if joined else None
        if isinstance(factor, int) and isinstance(last, int):
            joined[-1] = last * factor
        else:
            joined.append(factor)
    return tuple(joined)


def regroup(dims: Sequence[Dim], sizes: Sequence[Size]) -> tuple[Dim, ...] | None:
    """The dims of a view of these sizes; None where it cuts through a row or a length."""
    rest = list(join([factor for dim in dims for factor in dim]))
    made: list[Dim] = []
    for size in sizes:
        number, others, taken = size.number, list(size.others), list[Factor]()
        while number != 1 or others:
            if not rest:
                return None
            first = rest[0]
            if isinstance(first, int):
                shared = math.gcd(first, number)
                if shared == 1:
                    return None
                taken.append(shared)
                number //= shared
                if first == shared:
                    del rest[0]
                else:
                    rest[0] = first // shared
            elif first in others:
                others.remove(first)
                taken.append(first)
                del rest[0]
            else:
                return None
        made.append(join(taken))
    return None if rest else tuple(made)
