"""The guards of a program's inputs, and what is open although they hold."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.fx import Node

from supernet.capture.functional import functional
from supernet.capture.probe import one_line
from supernet.domain.demands import Narrowing
from supernet.domain.engine import FEW_BITS, INEXACT, Domain, words
from supernet.domain.graph import dtype_of, held, name_of, uses
from supernet.domain.indices import Requirement, hidden, requirements
from supernet.domain.interval import BIT, INT32, ValueRange, of_dtype
from supernet.domain.nonfinite import infinities, undefined
from supernet.domain.sizes import Sizes
from supernet.domain.values import Values
from supernet.guards import Finite, Guard, Within, is_finite

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from profiler.shapes import ShapeGrid
    from supernet.signature import Signature

__all__ = ["find_domain", "with_answers"]

Leaves = Mapping[str, ValueRange]
"""Ranges of the integer inputs, by placeholder name."""

# What mixes the digits of a number: who does so has large numbers, whatever the examples show.
_MIXING = words(
    """remainder fmod floor_divide bitwise_and bitwise_or bitwise_xor __and__ __or__ __xor__
    bitwise_left_shift bitwise_right_shift __lshift__ __rshift__ div"""
)
_ASSERTIONS = words(
    "_assert_async _assert_scalar _functional_assert_async _functional_assert_scalar"
)
_FEW = ValueRange(1 - 2 ** (FEW_BITS - 1), 2 ** (FEW_BITS - 1) - 1)
_ROOM = _FEW.most // 256  # a range is no guard where requests of ten times the size would leave it
# Floats so much larger than all that was shown are answered by the model itself: beyond somewhere
# numbers overflow, in each engine elsewhere. A request of a thousand times the size is rare.
_TIMES, _ANYWAY = 1e3, 1e6
_HALF_TIMES, _HALF_ANYWAY = 4.0, 64.0  # float16 ends at 65504
_INTEGERS = frozenset(("int64", "int32", "int16", "int8", "uint8"))


def find_domain(
    program: ExportedProgram,
    signature: Signature,
    grid: ShapeGrid,
    examples: Sequence[Sequence[Tensor]],
    shown: Collection[int] = (),
) -> tuple[tuple[Guard, ...], Domain]:
    """Guards that every example passes, and the domain of the program where they hold.

    ``shown``: masks among the inputs that hide no row whole, for which there is a guard already.
    What goes wrong here must not keep a model from being served: the domain then says so, and
    engines that differ from the model anywhere are left out.
    """
    try:
        return _Study(functional(program), signature, grid, examples, shown).found()
    except Exception as error:  # torch.export's graphs hold whatever a library put there
        return (), Domain(failed=one_line(error))


def with_answers(domain: Domain, answers: Sequence[Sequence[Tensor]]) -> Domain:
    """The domain with what the original's own answers hold: NaN, and infinities not seen before."""
    floats = [[t for t in same if t.is_floating_point()] for same in zip(*answers, strict=True)]
    written = domain.infinite or (False,) * len(floats)
    return replace(
        domain,
        nan=tuple(any(bool(t.isnan().any()) for t in same) for same in floats),
        infinite=tuple(
            known or any(bool(t.isinf().any()) for t in same)
            for known, same in zip(written, floats, strict=True)
        ),
    )


@dataclass(frozen=True, slots=True)
class _Look:
    """The program's numbers where the integer inputs lie in ``leaves``."""

    leaves: Leaves
    values: Values
    unproven: tuple[Requirement, ...]
    bits: Mapping[str, int]
    wraps: frozenset[str]

    @property
    def faults(self) -> tuple[int, int, int]:
        """How much is open: what an index demands first, then what some engine gets wrong."""
        wide = [n for n, bits in self.bits.items() if bits > (FEW_BITS if n in INEXACT else 32)]
        return len(self.unproven), len(wide), len(self.wraps)


class _Study:
    def __init__(
        self,
        program: ExportedProgram,
        signature: Signature,
        grid: ShapeGrid,
        examples: Sequence[Sequence[Tensor]],
        shown: Collection[int],
    ) -> None:
        self._program, self._signature, self._examples = program, signature, examples
        self._nodes: list[Node] = list(program.graph.nodes)
        self._sizes = Sizes(program, signature, grid)
        self._held = held(program)
        self._names = list(program.graph_signature.user_inputs)
        self._whole = {
            name: of_dtype(spec.dtype)
            for name, spec in zip(self._names, signature.inputs, strict=True)
        }
        self._hiding = {self._names[leaf] for leaf in shown}
        self._floats = {name for name, spec in zip(self._names, signature.inputs, strict=True)
                        if "float" in spec.dtype}  # fmt: skip
        self._varying = self._find_varying()
        self._demands = tuple(requirements(self._nodes, self._sizes))

    def found(self) -> tuple[tuple[Guard, ...], Domain]:
        best = self._narrowed(self._whole)
        for more in self._hypotheses(best):
            if not any(best.faults):
                break
            tried = self._narrowed({**best.leaves, **more})
            if tried.faults < best.faults:
                best = tried
        return tuple(self._guards(best)), self._domain(best)

    def _hypotheses(self, best: _Look) -> Iterator[dict[str, ValueRange]]:
        """Ranges that the examples suggest: flags, what fits 32 bits, what every engine has."""
        for bound, wanted in (
            (BIT, self._suits_bit),
            (INT32, self._suits_int32),
            (_FEW, self._suits_few),
        ):
            more = {
                name: found.meet(*bound.ends)
                for name, found in best.leaves.items()
                if wanted(name) and not found.inside(*bound.ends)
            }
            if more:
                yield more

    def _suits_bit(self, name: str) -> bool:
        return self._is_whole(name) and self._shown(name, BIT)

    def _suits_int32(self, name: str) -> bool:
        return self._is_whole(name) and self._shown(name, INT32) and not self._is_mixed(name)

    def _suits_few(self, name: str) -> bool:
        return self._suits_int32(name) and self._shown(name, ValueRange(-_ROOM, _ROOM))

    def _is_whole(self, name: str) -> bool:
        return name not in self._floats and self._whole[name] != BIT

    def _shown(self, name: str, bound: ValueRange) -> bool:
        """Whether every example lies within ``bound``."""
        leaves = [example[self._names.index(name)] for example in self._examples]
        return all(
            ValueRange(int(leaf.min()), int(leaf.max())).inside(*bound.ends)
            for leaf in leaves
            if leaf.numel()
        )

    def _is_mixed(self, name: str) -> bool:
        """Whether its digits are mixed: a hash or a time stamp, likely to be larger."""
        ours = {node for node in self._nodes if node.name == name}
        for node in self._nodes:
            if any(given in ours for given in node.all_input_nodes):
                if name_of(node) in _MIXING and dtype_of(node) in _INTEGERS:
                    return True
                if dtype_of(node) in _INTEGERS and len(node.all_input_nodes) == 1:
                    ours.add(node)
        return False

    def _narrowed(self, leaves: Leaves) -> _Look:
        """The look at the ranges to which the demands narrow ``leaves``, as far as they can."""
        look = self._look(leaves)
        narrowing = Narrowing(look.values, leaves)
        for demand in look.unproven:
            before = dict(narrowing.leaves)
            if narrowing.meets(demand) and not self._shows(narrowing.leaves):
                narrowing.leaves = before  # a guard that turns the examples away guards nothing
        return self._look(narrowing.leaves) if narrowing.leaves != dict(leaves) else look

    def _shows(self, leaves: Leaves) -> bool:
        return all(
            self._shown(name, found) for name, found in leaves.items() if self._is_whole(name)
        )

    def _look(self, leaves: Leaves) -> _Look:
        values = Values(self._nodes, leaves, self._held, self._sizes)
        unmet = Narrowing(values, {})  # nothing to narrow: it only says what is proven
        asked = (demand for demand in self._demands if demand.operand in self._varying)
        unproven = tuple(demand for demand in asked if not unmet.meets(demand))
        wraps = frozenset(name_of(node) for node in values.wraps & self._varying)
        return _Look(leaves, values, unproven, self._bits(values), wraps)

    def _find_varying(self) -> set[Node]:
        """What depends on the contents of the inputs, not on their sizes alone.

        What sizes decide is the same in every batch of a shape: verification sees it, and the
        original was asked at the shortest and the longest.
        """
        varying: set[Node] = set()
        for node in self._nodes:
            is_size = isinstance(node.meta.get("val"), torch.SymInt) and "size" in name_of(node)
            if node.name in self._whole or (
                not is_size and not varying.isdisjoint(node.all_input_nodes)
            ):
                varying.add(node)
        return varying

    def _bits(self, values: Values) -> dict[str, int]:
        """By operator (or input), the most bits of its integers, where that is more than a few."""
        needed: dict[str, int] = {}
        for node in self._nodes:
            if node.op not in ("call_function", "placeholder") or node not in self._varying:
                continue
            near = self._varying.intersection((node, *node.all_input_nodes))
            bits = max((values[n].bits for n in near if dtype_of(n) in _INTEGERS), default=0)
            name = name_of(node) if node.op == "call_function" else self._title(node.name)
            if bits > FEW_BITS and (node.users or node.op == "call_function"):
                needed[name] = max(needed.get(name, 0), bits)
        return needed

    def _title(self, name: str) -> str:
        """An input as the user calls it."""
        if name not in self._whole:
            return "a constant"
        return f"the input {self._signature.inputs[self._names.index(name)].name}"

    def _guards(self, best: _Look) -> Iterator[Guard]:
        for leaf, (name, spec) in enumerate(zip(self._names, self._signature.inputs, strict=True)):
            found = best.leaves[name]
            if name in self._floats:
                if self._is_finite(leaf):
                    yield Finite(leaf, spec.name, self._largest(leaf, spec.dtype))
            elif found.ends != self._whole[name].ends:
                yield Within(leaf, spec.name, int(found.least), int(found.most))

    def _is_finite(self, leaf: int) -> bool:
        return all(is_finite(example[leaf]) for example in self._examples)

    def _largest(self, leaf: int, dtype: str) -> float:
        """The magnitude up to which a floating input is like the examples."""
        shown = max((float(e[leaf].abs().max()) for e in self._examples if e[leaf].numel()),
                    default=0.0)  # fmt: skip
        half = dtype == "float16"
        times, anyway = (_HALF_TIMES, _HALF_ANYWAY) if half else (_TIMES, _ANYWAY)
        return max(anyway, times * shown)

    def _domain(self, best: _Look) -> Domain:
        unproven = {
            str(demand): best.values[demand.operand].least >= demand.least or demand.wraps
            for demand in best.unproven
        }
        if (what := hidden(self._program)) is not None:
            unproven[what] = False
        ranges = [found for name, found in best.leaves.items() if self._is_whole(name)]
        if self._signature.paddable and not all(r.least <= 0 <= r.most for r in ranges):
            unproven["an index of padding"] = False
        unguarded = [self._title(name) for leaf, name in enumerate(self._names)
                     if name in self._floats and not self._is_finite(leaf)]  # fmt: skip
        unbounded, infinite = infinities(self._nodes, best.values, self._varying)
        return Domain(
            uses=frozenset(uses(self._nodes)),
            bits=best.bits,
            wraps=best.wraps,
            unproven=unproven,
            asserts=frozenset(name_of(n) for n in self._varying if name_of(n) in _ASSERTIONS),
            undefined=undefined(self._nodes, best.values, self._varying, self._hiding),
            unbounded=unbounded,
            infinite=infinite,
            unguarded=unguarded[0] if unguarded else None,
        )
