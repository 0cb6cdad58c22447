"""Whether an answer is the model's own: by structure, integers and NaNs exactly, floats by row.

Floats may differ by the SLO's error, judged for each row of each output, and by what rounding
does to this very request: the model is also asked with inputs and weights a few units in the last
place larger and smaller, all by the same factor, which keeps equal values equal and their order.
Where a row's norm hides a small column beside a large one, each entry is also held against what
its column usually amounts to.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.trust.cases import Call, Check
from benchmarks.trust.nets import Net

__all__ = ["Answer", "Judge", "Raised", "Truth", "asked", "repeated", "truths"]

ENTRY_ERROR = 0.05  # of the column's usual share; a neighbour's value is far above it
ROUNDING = 64.0  # times what the perturbed models differ by
SMALLEST = 1e-35  # below, engines that flush denormal numbers to zero are right too
USUAL = 0.9  # quantile of a column's share over the requests
# By units in the last place of float32. Several: two sums may well cancel exactly once.
_NUDGES = tuple(1 + units * 2.0**-23 for units in (3, -5, 7, -2))

Floats: TypeAlias = NDArray[np.float64]
_LOOKS: Mapping[str, Callable[[Floats], NDArray[np.bool_]]] = {
    "NaN": np.isnan,
    "inf": np.isposinf,
    "-inf": np.isneginf,
}


@dataclass(frozen=True, slots=True)
class Raised:
    """The model raised instead of answering; errors are compared by their type."""

    type: str
    text: str

    @staticmethod
    def of(error: BaseException) -> Raised:
        return Raised(type(error).__name__, str(error)[:120])


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one call: the value (or `Raised`), and its arguments afterwards."""

    value: Any
    given: Any = None


@dataclass(frozen=True, slots=True)
class Truth:
    """The model's own answer, and the answers of the nudged models."""

    answer: Answer
    nudged: tuple[Answer, ...] = field(default=())


def asked(model: Any, call: Call) -> Answer:
    """What ``model`` answers to a copy of this call, whatever it raises."""
    own = call.copy()
    try:
        with torch.no_grad():
            value = model(*own.args, **own.kwargs)
    except BaseException as error:  # SystemExit and KeyboardInterrupt are answers here
        return Answer(Raised.of(error), (own.args, own.kwargs))
    return Answer(copy.deepcopy(value), (own.args, own.kwargs))


def truths(model: nn.Module, calls: Sequence[Call], check: Check) -> list[Truth]:
    """The answers of a twin of ``model`` that gets these calls in order."""
    twin = _twin(model)
    own = [asked(twin, call) for call in calls]
    # A state, or chance, would carry a nudge on to later answers: those are held exactly.
    nudged = [_nudged(model, calls, factor) for factor in _NUDGES] if check == "alone" else []
    return [Truth(answer, tuple(others)) for answer, *others in zip(own, *nudged, strict=True)]


def _twin(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model)
    if isinstance(twin, Net):
        twin.dawdle_s = 0.0
    return twin


def _nudged(model: nn.Module, calls: Sequence[Call], factor: float) -> list[Answer]:
    twin = _twin(model)
    with torch.no_grad():
        for tensor in (*twin.parameters(), *twin.buffers()):
            tensor.copy_(_times(tensor, factor))
    return [asked(twin, _nudged_call(call, factor)) for call in calls]


def _nudged_call(call: Call, factor: float) -> Call:
    args, kwargs = pytree.tree_map_only(
        Tensor, lambda leaf: _times(leaf, factor), (call.args, call.kwargs)
    )
    return Call(args, kwargs, call.note)


def _times(tensor: Tensor, factor: float) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    unit = torch.finfo(tensor.dtype).eps / torch.finfo(torch.float32).eps
    return tensor * (1 + (factor - 1) * unit)


class Judge:
    """Compares answers with truths of one case. ``wrong`` says what differs, or None."""

    def __init__(self, truths: Sequence[Truth], max_error: float) -> None:
        self._max_error = max_error
        self._shares = _shares([truth.answer.value for truth in truths])

    def wrong(self, got: Answer, truth: Truth) -> str | None:
        """What is wrong about an answer, in one line; None where nothing is."""
        want = truth.answer.value
        if isinstance(want, Raised) or isinstance(got.value, Raised):
            return _raised(got.value, want)
        others = [other.value for other in truth.nudged if not isinstance(other.value, Raised)]
        return self._differs(got.value, want, others) or self._given(got, truth)

    def _given(self, got: Answer, truth: Truth) -> str | None:
        found = _differs(got.given, truth.answer.given)
        return f"arguments afterwards: {found}" if found else None

    def _differs(self, got: Any, want: Any, others: Sequence[Any]) -> str | None:
        leaves, form = pytree.tree_flatten(want)
        found, found_form = pytree.tree_flatten(got)
        if form != found_form:
            return f"is built as {found_form} where {form} is due"
        nudged = [flat for flat, other in map(pytree.tree_flatten, others) if other == form]
        for index, (a, b) in enumerate(zip(found, leaves, strict=True)):
            near = [flat[index] for flat in nudged]
            if told := self._leaf(index, a, b, near):
                return f"output {index} {told}"
        return None

    def _leaf(self, index: int, got: Any, want: Any, near: Sequence[Any]) -> str | None:
        if not isinstance(want, Tensor):
            same = got == want or (got != got and want != want) or got in near
            return None if same else f"is {got!r} where {want!r} is due"
        if told := _unlike(got, want):
            return told
        near = [other for other in near if _unlike(other, want) is None]
        if not want.dtype.is_floating_point:
            return _whole(got, want, near)
        a, b, others = _wide(got), _wide(want), [_wide(other) for other in near]
        if any(_pattern(a, b)) and not any(any(_pattern(other, b)) for other in others):
            return f"has {_named(a, b)}"
        return self._floats(index, a, b, others)

    def _floats(self, index: int, got: Floats, want: Floats, near: Sequence[Floats]) -> str | None:
        if not want.size:
            return None
        apart, size = _between(got, want), np.where(np.isfinite(want), want, 0.0)
        noise = [np.abs(_between(other, want)) for other in near]
        slack = ROUNDING * np.max([np.zeros_like(want), *noise], axis=0)
        rows = _by_row(apart), _by_row(size), _by_row(slack)
        norms, sizes, slacks = (np.linalg.norm(part, axis=1) for part in rows)
        allowed = self._max_error * sizes + slacks + SMALLEST * np.sqrt(rows[0].shape[1])
        if (worse := np.flatnonzero(norms > allowed)).size:
            row = int(worse[0])
            return f"row {row} is off by {norms[row] / max(sizes[row], SMALLEST):.2g} of its size"
        return self._entries(index, apart, size, slack, sizes)

    def _entries(
        self, index: int, apart: Floats, size: Floats, slack: Floats, sizes: Floats
    ) -> str | None:
        """Entries against the usual size of their column in a row of this size."""
        share = self._shares.get(index)
        if size.ndim < 2 or share is None or share.shape != size.shape[-1:]:
            return None
        whole = sizes.reshape(-1, *[1] * (size.ndim - 1))
        usual = np.maximum(np.abs(size), share * whole)
        allowed = ENTRY_ERROR * usual + slack + 1e-6 * whole + SMALLEST
        if (worse := np.argwhere(np.abs(apart) > allowed)).size:
            where = tuple(int(i) for i in worse[0])
            return f"entry {where} is {size[where] + apart[where]:.4g}, due {size[where]:.4g}"
        return None


def _raised(got: Any, want: Any) -> str | None:
    """How two outcomes differ of which at least one is an error."""
    if not isinstance(want, Raised):
        return f"raised {got.type} ({got.text}) where an answer is due"
    if isinstance(got, Raised) and got.type == want.type:
        return None
    told = f"raised {got.type}" if isinstance(got, Raised) else "answered"
    return f"{told} where {want.type} is due ({want.text})"


def repeated(
    answers: Sequence[Answer | None], calls: Sequence[Call], due: Sequence[Truth]
) -> list[tuple[int, str | None]]:
    """What is wrong about answers of a model that draws numbers: they must be built as its own
    are, and no two that answer the same call (the very same object) may be equal."""
    told: list[tuple[int, str | None]] = []
    earlier: dict[int, list[Any]] = {}
    for index, (answer, truth) in enumerate(zip(answers, due, strict=False)):
        if answer is None:
            continue
        got, want = answer.value, truth.answer.value
        if isinstance(got, Raised) or isinstance(want, Raised):
            told.append((index, _raised(got, want)))
            continue
        pairs = zip(pytree.tree_leaves(got), pytree.tree_leaves(want), strict=False)
        kinds = [_unlike(a, b) if isinstance(b, Tensor) else None for a, b in pairs]
        same = earlier.setdefault(id(calls[index]), [])
        if any(_differs(got, other) is None for other in same):
            told.append((index, "is equal to an earlier answer, where another number is due"))
        else:
            told.append((index, next((kind for kind in kinds if kind), None)))
        same.append(got)
    return told


def _shares(values: Sequence[Any]) -> dict[int, Floats]:
    """Of each float output: what each column amounts to, as a share of the row's norm."""
    found: dict[int, list[Floats]] = {}
    for value in values:
        for index, leaf in enumerate(pytree.tree_leaves(value)):
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim > 1:
                wide = np.where(np.isfinite(_wide(leaf)), _wide(leaf), 0.0)
                if not wide.size:
                    continue
                flat = wide.reshape(wide.shape[0], -1, wide.shape[-1])
                norms = np.linalg.norm(flat.reshape(len(flat), -1), axis=1, keepdims=True)
                largest = np.abs(flat).max(axis=1)
                found.setdefault(index, []).extend(largest / np.maximum(norms, SMALLEST))
    return {
        index: np.quantile(np.stack(rows), USUAL, axis=0)
        for index, rows in found.items()
        if len({row.shape for row in rows}) == 1
    }


def _differs(got: Any, want: Any) -> str | None:
    """Whether two values differ at all; for what a model may have written into."""
    leaves, form = pytree.tree_flatten(want)
    found, found_form = pytree.tree_flatten(got)
    if form != found_form:
        return f"built as {found_form} where {form} is due"
    for index, (a, b) in enumerate(zip(found, leaves, strict=True)):
        if isinstance(b, Tensor):
            if _unlike(a, b) or not torch.equal(a.nan_to_num(), b.nan_to_num()):
                return f"tensor {index} differs"
        elif a != b:
            return f"{a!r} where {b!r} is due"
    return None


def _unlike(got: Any, want: Tensor) -> str | None:
    """How the kinds of two tensors differ."""
    kinds = [(type(t).__name__, getattr(t, "dtype", None), tuple(getattr(t, "shape", ())))
             for t in (got, want)]  # fmt: skip
    return None if kinds[0] == kinds[1] else f"is {kinds[0]} where {kinds[1]} is due"


def _whole(got: Tensor, want: Tensor, near: Sequence[Tensor]) -> str | None:
    """Integers and booleans: equal, but where rounding decides them."""
    unequal = got != want
    for other in near:
        unequal &= other == want
    if not bool(unequal.any()):
        return None
    where = tuple(int(i) for i in unequal.nonzero()[0])
    return f"entry {where} is {got[where].item()}, due {want[where].item()}"


def _pattern(got: Floats, want: Floats) -> tuple[bool, ...]:
    """Whether NaNs, infinities above and infinities below lie elsewhere."""
    return tuple(not np.array_equal(look(got), look(want)) for look in _LOOKS.values())


def _named(got: Floats, want: Floats) -> str:
    counts = {name: (int(look(got).sum()), int(look(want).sum())) for name, look in _LOOKS.items()}
    told = [f"{a} {name} where {b} are due" for name, (a, b) in counts.items() if a != b]
    return ", ".join(told) or "NaN or infinities in other places"


def _wide(tensor: Tensor) -> Floats:
    return tensor.detach().to(torch.float64).numpy()


def _between(one: Floats, other: Floats) -> Floats:
    """The difference where both are finite; elsewhere 0, since patterns are judged apart."""
    finite = np.isfinite(one) & np.isfinite(other)
    return np.where(finite, one, 0.0) - np.where(finite, other, 0.0)


def _by_row(values: Floats) -> Floats:
    """`[rows, entries]`: a row is an entry of dim 0, and all of it where there is no dim."""
    return values.reshape(values.shape[0] if values.ndim else 1, -1)
