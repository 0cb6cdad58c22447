"""Mixed precision for one program: the ranking made once, a choice per set of regions and limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch.export import ExportedProgram

from supernet.errors import OutsideRange
from supernet.fidelity import Limit, error, judge
from supernet.fusion.emulation import Emulation
from supernet.fusion.lowering import bind, products
from supernet.fusion.product import fits
from supernet.fusion.rounding import BITS, HEADROOM, Rounding
from supernet.fusion.sensitivity import Step, longest_prefix, rank

__all__ = ["MARGIN", "Mixing", "Reference"]

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

    ``kinds`` are the precisions on offer, the finest first.
    """

    def __init__(
        self, program: ExportedProgram, references: Sequence[Reference], kinds: Sequence[str]
    ) -> None:
        self._references, self._kinds = references, kinds
        weights = products(program)
        self._weights = {name: weight.numel() for name, weight in weights.items()}
        self._halves = [name for name, weight in weights.items() if fits(weight)]
        self._emulation = Emulation(bind(program))
        self._ranges = self._emulation.ranges([inputs for inputs, _ in references])

    def ranking(self, limit: Limit) -> list[Step]:
        """Steps down, the one to take first at the front; one emulated run per product and kind.

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
            (name, kind): max(self._errors({name: self._rounding(name, kind)}, few))
            for name in self._weights
            for kind in kinds
        }
        sane = {step: found for step, found in errors.items() if math.isfinite(found)}
        return rank(self._weights, sane, BITS)

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
            return {name: self._rounding(name, kind) for name, kind in {**rest, **chosen}.items()}

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
