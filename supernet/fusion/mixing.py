"""Mixed precision for one program: the ranking made once, a choice per set of regions and limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch.export import ExportedProgram

from supernet.errors import OutsideRange
from supernet.fidelity import Limit, error, judge
from supernet.fusion.emulation import Emulation
from supernet.fusion.layers import repeats
from supernet.fusion.lowering import bind, products
from supernet.fusion.product import fits
from supernet.fusion.rounding import BITS, HEADROOM, Rounding
from supernet.fusion.sensitivity import Step, longest_prefix, rank

__all__ = ["MARGIN", "Mixing", "Reference", "parts"]

Reference: TypeAlias = tuple[Sequence[Any], Sequence[Any]]
"""A batch and the original's answers: flat inputs and outputs."""

# Of the limit on the reference batches; the rest is for traffic that is worse than they are.
MARGIN = 0.5
# The order of products needs fewer references than the verdict: of the short ones, those that bear
# rounding worst. A product of a large model costs a run of it per kind and reference.
_RANKED_BY = 3
_SHORT = 2.0  # times the shortest
_LARGE = 100_000_000  # weights, from which a single reference ranks


class Mixing:
    """Which products of a program go down to which precision.

    ``kinds`` are the precisions on offer, the finest first. ``alike``: products that play the same
    part in the layers that the program repeats go down together, so that the layers stay equal.
    """

    def __init__(
        self,
        program: ExportedProgram,
        references: Sequence[Reference],
        kinds: Sequence[str],
        *,
        alike: bool = False,
    ) -> None:
        self._references, self._kinds = references, kinds
        weights = products(program)
        self._weights = {name: weight.numel() for name, weight in weights.items()}
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        # Each group goes by the name of its first.
        self._groups = {
            names[0]: names for names in (parts(shapes) if alike else [(n,) for n in shapes])
        }
        self._halves = [name for name, weight in weights.items() if fits(weight)]
        self._emulation = Emulation(bind(program))
        self._ranges = self._emulation.ranges([inputs for inputs, _ in references])

    def ranking(self, limit: Limit) -> list[Step]:
        """Steps down, the one to take first at the front; one emulated run per group and kind.

        Where not even the finest kind throughout is within the limit, the others are not tried.
        """
        everything = {name: self._rounding(name, self._kinds[0]) for name in self._weights}
        answers = [self._emulation.answers(inputs, everything) for inputs, _ in self._references]
        pairs = [(got, ref[1]) for got, ref in zip(answers, self._references, strict=True)]
        is_within = judge(limit.metric, pairs).worst <= limit.most
        kinds = self._kinds if is_within else self._kinds[:1]
        worst = [error("relative_l2", got, wanted) for got, wanted in pairs]
        few = [self._references[i] for i in self._telling(worst)]
        errors = {
            (name, kind): max(self._errors({n: self._rounding(n, kind) for n in names}, few))
            for name, names in self._groups.items()
            for kind in kinds
        }
        sane = {step: found for step, found in errors.items() if math.isfinite(found)}
        weights = {
            name: sum(self._weights[n] for n in names) for name, names in self._groups.items()
        }
        return rank(weights, sane, BITS)

    def choose(
        self,
        ranking: Sequence[Step],
        run: Callable[[Mapping[str, Rounding]], Callable[[Sequence[Any]], Sequence[Any]]],
        limit: Limit,
        *,
        halves: bool,
    ) -> dict[str, Rounding]:
        """The most of ``ranking`` within ``MARGIN`` of the limit; ``run`` makes a plan of it.

        ``halves``: the products that stay in float have their weights in fp16 where there is a
        kernel for that, unless that alone is over the limit.
        """
        most = MARGIN * limit.most
        rest = dict.fromkeys(self._halves, "fp16") if halves else {}

        def roundings(chosen: Mapping[str, str]) -> dict[str, Rounding]:
            taken = {n: kind for name, kind in chosen.items() for n in self._groups[name]}
            return {name: self._rounding(name, kind) for name, kind in {**rest, **taken}.items()}

        def together(chosen: Mapping[str, str]) -> float:
            answer = run(roundings(chosen))
            try:
                pairs = [(answer(inputs), answers) for inputs, answers in self._references]
            except OutsideRange:  # coarse layers before it gave what no reference shows
                return math.inf
            return judge(limit.metric, pairs).worst

        if rest and together({}) > most:
            rest = {}
        return roundings(longest_prefix(ranking, together, most))

    def _telling(self, errors: Sequence[float]) -> list[int]:
        """The references to rank by, given the error of each with everything rounded."""
        sizes = [sum(answer.numel() for answer in answers) for _, answers in self._references]
        short = [i for i, size in enumerate(sizes) if size <= _SHORT * min(sizes)]
        count = 1 if sum(self._weights.values()) >= _LARGE else _RANKED_BY
        return sorted(short, key=lambda i: -errors[i])[:count]

    def _rounding(self, name: str, kind: str) -> Rounding:
        if kind != "int8":
            return Rounding(kind)
        low, high = self._ranges[name]
        return Rounding(kind, HEADROOM * low, HEADROOM * high)

    def _errors(self, rounded: Mapping[str, Rounding], among: Sequence[Reference]) -> list[float]:
        return [
            error("relative_l2", self._emulation.answers(inputs, rounded), answers)
            for inputs, answers in among
        ]


def parts(shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, ...]]:
    """Products in program order, by the shapes of their weights: those that play the same part in
    the layers that repeat together, every other one alone.

    >>> parts({"in": (4, 9), "q0": (4, 4), "up0": (8, 4), "q1": (4, 4), "up1": (8, 4)})
    [('in',), ('q0', 'q1'), ('up0', 'up1')]
    """
    names = list(shapes)
    cuts = repeats(list(shapes.values()), [True] * len(names), [0] * (len(names) + 1))
    if not cuts:
        return [(name,) for name in names]
    before, repeated, after = names[: cuts[0]], names[cuts[0] : cuts[-1]], names[cuts[-1] :]
    period = cuts[1] - cuts[0]
    return [
        *((name,) for name in before),
        *(tuple(repeated[place::period]) for place in range(period)),
        *((name,) for name in after),
    ]
