"""Proofs that the captured graph gives about its batches."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram

from supernet.capture.functional import functional
from supernet.dataflow.interpreter import UNRULED, interpret
from supernet.dataflow.intervals import ANY, BIT, TRUE, ZERO, Interval
from supernet.dataflow.layers import RULES
from supernet.dataflow.values import Place, Span, Trouble, Value, follows, places, worst
from supernet.signature import Dim

__all__ = ["Proof", "prove"]


@dataclass(frozen=True, slots=True)
class Proof:
    """Why rows cannot be proven independent, and why padding cannot be proven neutral; None where
    they are.

    ``shown`` are the integer inputs whose first position must be 1 for the second to hold: masks
    that hide it would leave a row of attention with nothing to see.
    """

    rows: Trouble | None
    padding: Trouble | None
    shown: tuple[int, ...] = ()


def prove(
    program: ExportedProgram,
    dims: Sequence[Sequence[Dim]],
    dtypes: Sequence[torch.dtype],
    outputs: Sequence[Sequence[Dim]],
    named: Mapping[Any, str],
    masks: Sequence[int] = (),
) -> Proof:
    """From the dims of inputs and outputs, and which symbols of the program they are.

    ``masks`` are the inputs of which it may be demanded that they show the first position. Raises
    nothing: what the analysis itself cannot do is a reason like any other.
    """
    try:
        proof = _proven(functional(program), dims, dtypes, outputs, named, masks)
        if any(t is not None and t.why.endswith(UNRULED) for t in (proof.rows, proof.padding)):
            # Composite operators are made of ones that have a rule; taking all apart takes long.
            return _proven(_core(program), dims, dtypes, outputs, named, masks)
        return proof
    except Exception as error:  # an operator used in a way that its rule did not foresee
        trouble = Trouble(f"the graph cannot be analysed: {type(error).__name__}: {error}", False)
        return Proof(trouble, trouble)


def _proven(
    program: ExportedProgram,
    dims: Sequence[Sequence[Dim]],
    dtypes: Sequence[torch.dtype],
    outputs: Sequence[Sequence[Dim]],
    named: Mapping[Any, str],
    masks: Sequence[int],
) -> Proof:
    def walk(shown: Sequence[int]) -> tuple[Trouble | None, Trouble | None]:
        inputs = [
            _input(d, dtype, shown=index in shown)
            for index, (d, dtype) in enumerate(zip(dims, dtypes, strict=True))
        ]
        found = interpret(program, inputs, named, RULES)
        if len(found) != len(outputs):
            trouble = Trouble("the graph returns other outputs than the model", False)
            return trouble, trouble
        pairs = list(zip(found, outputs, strict=True))
        return worst(_coupled(*pair) for pair in pairs), worst(_moved(*pair) for pair in pairs)

    rows, padding = walk(())
    if padding is None or not any("length" in d for d in dims):
        return Proof(rows, padding)
    for shown in (*((mask,) for mask in masks), tuple(masks)):
        if shown and walk(shown)[1] is None:
            return Proof(rows, None, shown)
    return Proof(rows, padding)


def _core(program: ExportedProgram) -> ExportedProgram:
    """The same in core ATen operators alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        made: ExportedProgram = program.run_decompositions(None)
    return made


def _input(dims: Sequence[Dim], dtype: torch.dtype, *, shown: bool) -> Value:
    """One of the user's tensors, zeros where it is padded."""
    numbers = _numbers(dtype)
    factors = tuple(() if dim == 1 else (dim,) for dim in dims)
    first = TRUE if shown else numbers
    spans = tuple(Span(ZERO, first) for dim in dims if dim == "length")
    return Value(factors, "own" if "rows" in dims else "same", numbers, numbers, spans)  # type: ignore[arg-type]


def _numbers(dtype: torch.dtype) -> Interval:
    if dtype is torch.bool:
        return BIT
    if dtype.is_floating_point or dtype.is_complex:
        return ANY
    limits = torch.iinfo(dtype)
    return Interval(float(limits.min), float(limits.max))


def _coupled(value: Value, dims: Sequence[Dim]) -> Trouble | None:
    if value.coupled is not None:
        return value.coupled
    if value.rows == "index":
        return Trouble("an output is the place in the batch", sure=True)
    found = places(value.dims, "rows")
    seen = [Place(dim, 0) for dim, kind in enumerate(dims) if kind == "rows"]
    alone = all(value.dims[place.dim] == ("rows",) for place in found)
    if len(found) > 1 or not alone or (found != seen and value.rows == "own"):
        return Trouble("an output has the rows not in one dim of their own", sure=False)
    if any(follows(dim, "rows") and dim != ("rows",) for dim in value.dims):
        return Trouble("an output has a size that follows the rows", sure=True)
    return None


def _moved(value: Value, dims: Sequence[Dim]) -> Trouble | None:
    if value.moved is not None:
        return value.moved
    for dim, kind in zip(value.dims, dims, strict=True):
        if follows(dim, "length") and (dim != ("length",) or kind != "length"):
            return Trouble("an output has a size that follows the length in another way", True)
    return None
