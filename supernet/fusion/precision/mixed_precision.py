"""Mixed precision for one program: the ranking made once, a choice per set of regions and limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch.export import ExportedProgram

from supernet.errors import OutsideRange
from supernet.fidelity import Limit, error, judge
from supernet.fusion.kernels.product import fits
from supernet.fusion.kernels.quantization import BITS, HEADROOM, Rounding
from supernet.fusion.lowering.linear import is_product
from supernet.fusion.lowering.lowering import bind, products
from supernet.fusion.precision.fake_quantization import Emulation
from supernet.fusion.precision.sensitivity import Step, longest_prefix, rank
from supernet.fusion.rules.layers import repeats

__all__ = ["MARGIN", "Mixing", "Reference", "parts", "siblings"]

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

    ``kinds`` are the precisions on offer, the finest first. Products of one input go down together,
    since they may be one; ``alike``: and with those that play the same part in the other layers
    that the program repeats, so that the layers stay equal.
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
        found = siblings(program)
        if alike:
            found = parts(found, {name: tuple(weight.shape) for name, weight in weights.items()})
        self._groups = {names[0]: names for names in found}  # by the name of the first
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


def siblings(program: ExportedProgram) -> list[tuple[str, ...]]:
    """The products of a program in its order, those of the same input together."""
    work = bind(program)
    by_input: dict[Any, list[str]] = {}
    for node in work.graph.nodes:
        if is_product(work, node):
            by_input.setdefault(node.args[0], []).append(node.name)
    return [tuple(names) for names in by_input.values()]


def parts(
    groups: Sequence[tuple[str, ...]], shapes: Mapping[str, tuple[int, ...]]
) -> list[tuple[str, ...]]:
    """Groups of products in program order, those joined that play the same part in the layers that
    repeat, as the shapes of their weights tell.

    >>> shapes = {"in": (4, 9), "q0": (4, 4), "k0": (4, 4), "up0": (8, 4), "q1": (4, 4),
    ...     "k1": (4, 4), "up1": (8, 4)}
    >>> parts([("in",), ("q0", "k0"), ("up0",), ("q1", "k1"), ("up1",)], shapes)
    [('in',), ('q0', 'k0', 'q1', 'k1'), ('up0', 'up1')]
    """
    labels = [tuple(shapes[name] for name in names) for names in groups]
    cuts = repeats(labels, [True] * len(groups), [0] * (len(groups) + 1))
    if not cuts:
        return list(groups)
    period, repeated = cuts[1] - cuts[0], groups[cuts[0] : cuts[-1]]
    joined = [sum(repeated[place::period], ()) for place in range(period)]
    return [*groups[: cuts[0]], *joined, *groups[cuts[-1] :]]
