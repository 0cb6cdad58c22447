"""Agreement of one live answer with the model's own, each element judged by its own scale.

A norm over everything hides a small output beside a large one, and one wrong position among five
hundred. Here an element may differ by a share of itself and of the vector along the last dim that
it lies in, which is what arithmetic in another order changes. What differs by more is looked at a
second time beside the model's own rounding noise (`noise.py`) before anybody is accused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from supernet.fidelity import as_array, as_floats

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Difference", "Noise", "difference", "noise_of", "rounding_of"]

_ROUNDING = {"float64": 1e-9, "complex128": 1e-9, "float16": 2e-2, "bfloat16": 5e-2}
_SINGLE = 1e-4
_NOISE_FACTOR = 8.0  # times the noise of many times the real rounding: no accident exceeds that

_MANY = 4  # values that one whole number takes: any of a crowd may come next

Noise = Sequence["NDArray[Any] | None"]
"""Per output: of numbers with a fraction how far each moves by rounding, of others the values they
take, one run after the other; None where even the shape moves."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where an answer is farthest from the model's, in words that a journal can hold."""

    output: int
    what: str

    def __str__(self) -> str:
        return f"output {self.output} {self.what}"


def rounding_of(dtype: str) -> float:
    """The relative difference that another order of arithmetic may make in ``dtype``."""
    return _ROUNDING.get(dtype, _SINGLE)


def difference(
    got: Sequence[Tensor],
    want: Sequence[Tensor],
    *,
    relative: float = 0.0,
    noise: Noise | None = None,
) -> Difference | None:
    """The first output of ``got`` that is not ``want`` but for rounding; None if all are.

    ``relative`` allows more than the rounding of each output's dtype, ``noise`` what the model
    itself moves by.

    >>> import torch
    >>> print(difference([torch.tensor([1.0, 2.0])], [torch.tensor([1.0, 2.5])]))
    output 0 at (1,) is 2 where the model alone gives 2.5
    """
    if len(got) != len(want):
        return Difference(min(len(got), len(want)), f"of {len(want)} is missing or one too many")
    for index, (one, other) in enumerate(zip(got, want, strict=True)):
        moves = None if noise is None else noise[index]
        if noise is not None and moves is None:
            continue
        if one.shape != other.shape or one.dtype != other.dtype:
            return Difference(
                index, f"is {one.dtype} {tuple(one.shape)} where the model alone gives "
                f"{other.dtype} {tuple(other.shape)}",
            )  # fmt: skip
        name = str(other.dtype).removeprefix("torch.")
        what = _elements(as_array(one), as_array(other), max(relative, rounding_of(name)), moves)
        if what is not None:
            return Difference(index, what)
    return None


def noise_of(runs: Sequence[Sequence[Tensor]], want: Sequence[Tensor]) -> Noise:
    """How the elements of ``want`` moved in ``runs``; infinitely where one was not finite."""
    moved: list[NDArray[Any] | None] = []
    for index, tensor in enumerate(want):
        outputs = [run[index] if index < len(run) else None for run in runs]
        if any(o is None or o.shape != tensor.shape or o.dtype != tensor.dtype for o in outputs):
            moved.append(None)
            continue
        base, arrays = as_array(tensor), [as_array(output) for output in outputs]
        if base.dtype.kind in "fc":
            moved.append(np.max([_apart(array, base) for array in arrays], axis=0))
        else:
            moved.append(np.stack(arrays))
    return moved


def _elements(
    got: NDArray[Any], want: NDArray[Any], relative: float, moves: NDArray[Any] | None
) -> str | None:
    if not want.size:
        return None
    apart = _apart(got, want)
    if want.dtype.kind in "fc":
        allowed = relative * (np.abs(_finite(as_floats(want))) + _size(want))
        if moves is not None:
            allowed = np.maximum(allowed, _NOISE_FACTOR * _spread(moves))
        over = apart > allowed
    else:
        over = (apart > 0) & (True if moves is None else ~_on_the_edge(got, moves))
    if not over.any():
        return None
    # Of what is over, the one that is farthest off.
    flat = int(np.argmax(np.where(over, apart, -1.0)))
    where = tuple(int(i) for i in np.unravel_index(flat, over.shape))[: want.ndim]
    return f"at {where} is {_shown(got[where])} where the model alone gives {_shown(want[where])}"


def _apart(got: NDArray[Any], want: NDArray[Any]) -> NDArray[np.float64]:
    """Distance per element; infinite where one is NaN or infinite and the other is not the same."""
    if want.dtype.kind not in "fc":
        return np.asarray(got != want, np.float64)
    a, b = as_floats(got), as_floats(want)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    finite = np.isfinite(a) & np.isfinite(b)
    distance = np.where(finite, np.abs(_finite(a) - _finite(b)), np.inf)
    return np.where(same, 0.0, distance)


def _size(want: NDArray[Any]) -> NDArray[np.float64]:
    """Root mean square of the vector that each element lies in."""
    values = _finite(as_floats(want))
    if values.ndim == 0:
        return np.abs(values)
    return np.asarray(np.sqrt(np.mean(np.square(values), axis=-1, keepdims=True)))


def _on_the_edge(got: NDArray[Any], values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where rounding alone makes a whole number what it is in ``got``."""
    ordered = np.sort(values, axis=0)
    taken = 1 + np.count_nonzero(ordered[1:] != ordered[:-1], axis=0)
    return np.asarray((values == got).any(axis=0) | (taken >= _MANY), np.bool_)


def _spread(moves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each element's own movement, and at least the root mean square of its vector's: rounding
    that cancelled in one of them by chance did not in its neighbours."""
    if moves.ndim == 0:
        return moves
    finite = np.where(np.isfinite(moves), moves, 0.0)
    spread = np.sqrt(np.mean(np.square(finite), axis=-1, keepdims=True))
    return np.asarray(np.maximum(moves, spread))


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, 0.0)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if value.dtype.kind == "f" else str(value)
