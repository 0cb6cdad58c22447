"""Learn how a model is called and turn it into a program that other engines can run.

The user's module is never touched: everything runs on copies that share its tensors. Call
``capture`` in the thread that owns the model; tracing patches ``torch.nn.Module`` for the whole
process while it lasts (docs/decisions/0003).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from profiler.shapes import ShapeGrid
from supernet.axes import (
    Axes,
    check_constants,
    infer_axes,
    output_dims,
    pads_harmlessly,
    resize,
    vary,
)
from supernet.calls import CallForm, Example, check_example
from supernet.errors import OutsideCapture, Uncapturable
from supernet.exporting import (
    Exported,
    FixedByTrace,
    Range,
    digest_tensors,
    export,
    graph_text,
    with_unknown,
)
from supernet.probe import Probe, one_line, structural_copy
from supernet.references import Reference, make_references
from supernet.signature import Signature, TensorSpec
from supernet.structure import Structure

__all__ = ["Capture", "Examples", "Flat", "capture"]

# Without a bound from the model itself, lengths up to this many times the longest example are
# planned for; longer requests are answered by the original.
_LENGTH_ROOM = 4
_LONGEST = 4096
_STORABLE = frozenset(
    {
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
    }
)


@dataclass(frozen=True, slots=True)
class Examples:
    """Calls of the model that stand for the traffic to come, at least one."""

    items: tuple[Example, ...]

    @staticmethod
    def of(example_inputs: Any) -> Examples:
        """From a tuple of arguments, a dict of keyword arguments, or a list of several such.

        >>> import torch
        >>> len(Examples.of([(torch.ones(1, 4),), (torch.ones(1, 9),)]).items)
        2
        """
        if isinstance(example_inputs, Examples):
            return example_inputs
        if not isinstance(example_inputs, list):
            return Examples((check_example(example_inputs, "example_inputs"),))
        if not example_inputs:
            raise ValueError("example_inputs must hold at least one example, got an empty list")
        return Examples(
            tuple(
                check_example(item, f"example_inputs[{index}]")
                for index, item in enumerate(example_inputs)
            )
        )


class Flat(NamedTuple):
    """One call taken apart: its tensors in signature order, and how large it is."""

    leaves: list[Tensor]
    rows: int
    length: int


@dataclass(frozen=True, eq=False)
class Capture:
    """What was learned about a model.

    ``program`` is None where torch.export cannot take the model or plans could not stand for
    it; ``reason`` then says why, and otherwise why less than the examples ask for is free
    (None: nothing to say). ``grid`` are the padded shapes plans are made and measured for.
    ``graph_hash`` is the same for the same model, weights and signature in every process.
    ``references`` are batches with the original's own answers, which plans are judged by.
    """

    program: ExportedProgram | None
    reason: str | None
    signature: Signature
    grid: ShapeGrid
    graph_hash: str
    weights_version: str
    training: bool
    references: tuple[Reference, ...] = ()
    form: CallForm | None = None
    result: Structure | None = None
    _checks: tuple[tuple[torch.dtype, tuple[int, ...]], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        codes = {"rows": -1, "length": -2}
        checks = tuple(
            (getattr(torch, s.dtype), tuple(d if isinstance(d, int) else codes[d] for d in s.dims))
            for s in self.signature.inputs
        )
        object.__setattr__(self, "_checks", checks)
        object.__setattr__(self, "_on_cpu", self.signature.device == "cpu")

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Flat:
        """A call's tensors, rows and length; ``OutsideCapture`` where the original must answer."""
        if self.form is None:
            raise OutsideCapture(self.reason or "the model was not captured")
        leaves = self.form.leaves(args, kwargs)
        rows = length = 0
        for tensor, (dtype, dims) in zip(leaves, self._checks, strict=True):
            if tensor.dtype is not dtype:
                raise self._outside(leaves, tensor, f"dtype {dtype}", tensor.dtype)
            shape = tensor.shape
            if len(shape) != len(dims):
                raise self._outside(leaves, tensor, f"{len(dims)} dimensions", len(shape))
            for size, dim in zip(shape, dims, strict=True):
                if dim == -1:
                    if rows and size != rows:
                        raise self._outside(leaves, tensor, f"{rows} rows", size)
                    rows = size or self._no_rows()
                elif dim == -2:
                    if length and size != length:
                        raise self._outside(leaves, tensor, f"length {length}", size)
                    length = size
                elif size != dim:
                    raise self._outside(leaves, tensor, f"size {dim}", size)
            if not self._at_home(tensor):
                raise self._outside(leaves, tensor, self.signature.device, tensor.device)
        if rows > self.grid.max_rows:
            raise OutsideCapture(f"rows must be at most {self.grid.max_rows}, got {rows}")
        if self.signature.has_length:
            self._check_length(length)
        return Flat(leaves, rows or 1, length or 1)

    def rebuild(self, leaves: Sequence[Tensor]) -> Any:
        """The user's own result structure around these flat outputs."""
        if self.result is None:
            raise OutsideCapture(self.reason or "the model was not captured")
        return self.result.rebuild(leaves)

    def _at_home(self, tensor: Tensor) -> bool:
        if tensor.layout is not torch.strided:
            return False
        return tensor.is_cpu if self._on_cpu else str(tensor.device) == self.signature.device

    _on_cpu: bool = field(default=True, init=False, repr=False)

    def _no_rows(self) -> int:
        raise OutsideCapture("rows must be at least 1, got 0")

    def _check_length(self, length: int) -> None:
        least, most = self.signature.min_length, self.grid.lengths[-1]
        if not least <= length <= most:
            raise OutsideCapture(f"length must be between {least} and {most}, got {length}")

    def _outside(self, leaves: list[Tensor], tensor: Tensor, want: str, got: Any) -> OutsideCapture:
        index = next(i for i, leaf in enumerate(leaves) if leaf is tensor)
        return OutsideCapture(f"{self.signature.inputs[index].name} must have {want}, got {got}")


def capture(model: nn.Module, examples: Any, *, max_rows: int = 16) -> Capture:
    """Export ``model`` with the dims that the examples and experiments show to be free.

    ``examples`` is anything ``Examples.of`` takes; ``max_rows`` the most rows in one batch (more if an example has more). A
    model that cannot be captured is no error: ``program`` is None and ``reason`` says why.
    Examples that contradict each other, or that the model itself refuses, are a ``ValueError``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}; "
            "wrap a function in a module whose forward calls it"
        )
    if max_rows < 1:
        raise ValueError(f"max_rows must be at least 1, got {max_rows}")
    model = getattr(model, "_orig_mod", model)  # what torch.compile was given
    calls = Examples.of(examples).items
    try:
        form, leaves = _take_apart(model, calls)
    except Uncapturable as why:
        return _original_only(model, str(why))
    try:
        probe = Probe(model, form)
        _answer_examples(probe, leaves)
        probe.check_pure(leaves[0])
        return _Study(model, form, probe, leaves, max_rows).capture()
    except Uncapturable as why:
        return _original_only(model, str(why))


def _take_apart(model: nn.Module, calls: Sequence[Example]) -> tuple[CallForm, list[list[Tensor]]]:
    form, first = CallForm.of(model.forward, calls[0])
    if not first:
        raise Uncapturable("the example holds no tensor")
    leaves = [first]
    for index, call in enumerate(calls[1:], 1):
        try:
            leaves.append(form.leaves(call.args, call.kwargs))
        except OutsideCapture as why:
            raise ValueError(f"example_inputs[{index}] must be called as the first: {why}") from why
    for index, example in enumerate(leaves):
        for tensor, other, name in zip(example, first, form.leaf_names(), strict=True):
            where = f"example_inputs[{index}]: {name}"
            if tensor.numel() == 0:
                raise ValueError(f"{where} must not be empty, got shape {tuple(tensor.shape)}")
            if (tensor.dtype, tensor.ndim) != (other.dtype, other.ndim):
                raise ValueError(
                    f"{where} must have dtype {other.dtype} and {other.ndim} dimensions as in "
                    f"the first example, got {tensor.dtype} and {tensor.ndim}"
                )
            if tensor.device != first[0].device:
                raise Uncapturable(f"{name} is on {tensor.device}, others on {first[0].device}")
    return form, leaves


def _answer_examples(probe: Probe, examples: Sequence[Sequence[Tensor]]) -> None:
    for index, leaves in enumerate(examples):
        try:
            probe(leaves)
        except Uncapturable:
            raise
        except Exception as error:
            raise ValueError(
                f"example_inputs[{index}] must be a call the model accepts; it raised "
                f"{one_line(error)}"
            ) from error


class _Study:
    """One capture under way: the steps, and what each learned."""

    def __init__(
        self,
        model: nn.Module,
        form: CallForm,
        probe: Probe,
        examples: list[list[Tensor]],
        max_rows: int,
    ) -> None:
        self.model, self.form, self.probe = model, form, probe
        self.examples, self.max_rows = examples, max_rows
        self.longest = examples[-1]  # the longest input that the original took

    def capture(self) -> Capture:
        self._check_dtypes()
        check_constants(self.probe, self.examples[0])
        axes = infer_axes(self.probe, self.examples)
        notes = [axes.note]
        exported: Exported | None = None
        try:
            copied = structural_copy(self.model)
            exported = export(copied, self.form, axes, self._sample)
        except FixedByTrace as why:  # rows were seen to be independent: the original may batch
            notes = [str(why)]
        else:
            notes.append(exported.note)
            axes = exported.axes
        self.examples = [leaves for leaves in self.examples if _fits(leaves, axes)]
        self.longest = self.examples[-1]
        return self._describe(axes, exported, "; ".join(filter(None, notes)) or None)

    def _describe(self, axes: Axes, exported: Exported | None, reason: str | None) -> Capture:
        # The user's own calls are served, however many rows they have.
        own_rows = max(axes.rows(leaves) for leaves in self.examples)
        max_rows = max(self.max_rows, own_rows) if axes.batchable else 1
        least, most = self._lengths(axes, exported)
        if exported is not None:
            max_rows = self._valid_rows(axes, exported, max_rows)
        outputs = output_dims(axes, self._runs(axes))
        if exported is not None:
            outputs = with_unknown(outputs, exported.program)
        paddable = pads_harmlessly(self.probe, axes, outputs, self.examples, most)
        grid = ShapeGrid.covering(max_rows, least, most)
        signature = Signature(
            inputs=_specs(self.form.leaf_names(), self.examples[0], axes.dims),
            outputs=_specs(_output_names(len(outputs)), self.probe(self.examples[0]), outputs),
            batchable=axes.batchable,
            paddable=paddable,
            min_length=1 if paddable else least,
            device=str(self.examples[0][0].device),
        )
        weights, graph_hash = _hashes(self.model, exported, signature)
        references = make_references(
            self.probe, axes, grid, self.examples, self.longest, paddable=paddable
        )
        program = exported.program if exported else None
        return Capture(
            program=program,
            reason=reason,
            signature=signature,
            grid=grid,
            graph_hash=graph_hash,
            weights_version=weights,
            training=self.model.training,
            references=references,
            form=self.form,
            result=self.probe.structure,
        )

    def _sample(self, axes: Axes) -> list[Tensor]:
        """Inputs to trace with: at least two rows, another number than the length."""
        leaves = next((e for e in self.examples if axes.length(e) > 1), self.examples[0])
        own, length = axes.rows(leaves), axes.length(leaves)
        if axes.batchable:
            rows = max(own, 2)
            rows = rows + 1 if rows == length else rows
            leaves = resize(leaves, axes, rows, length)
        return [leaf.detach().contiguous() for leaf in leaves]

    def _lengths(self, axes: Axes, exported: Exported | None) -> tuple[int, int]:
        """The shortest and longest length to plan for, which the original itself accepts."""
        if not axes.has_length:
            return 1, 1
        own = [axes.length(leaves) for leaves in self.examples]
        least, most = min(own), max(own)
        bound = exported.length if exported else Range()
        room = 1 << (_LENGTH_ROOM * most - 1).bit_length()
        if bound.most is not None and bound.most <= _LONGEST:
            room = bound.most
        longest = max(most, min(room, bound.most or room))
        if exported is not None:
            rows = 2 if axes.batchable else 1
            wrong = (n for n in range(most + 1, longest + 1) if not exported.valid(rows, n))
            longest = next(wrong, longest + 1) - 1
            odd = [n for n in range(least, most + 1) if not exported.valid(rows, n)]
            if odd:
                raise Uncapturable(f"the model's code takes another path at length {odd[0]}")
        return least, self._accepted(axes, most, longest)

    def _accepted(self, axes: Axes, known: int, longest: int) -> int:
        """The longest length up to ``longest`` that the original takes, by bisection."""
        low, high = known, longest
        while low < high:
            # Try the far end first: mostly it works, and costs one run.
            middle = high if high == longest and low == known else (low + high + 1) // 2
            if self._takes(axes, middle):
                low = middle
            else:
                high = middle - 1
                longest = high + 1
        return low

    def _takes(self, axes: Axes, length: int) -> bool:
        leaves = resize(vary(self.examples[-1], seed=1), axes, 1, length)
        try:
            self.probe(leaves)
        except (RuntimeError, ValueError, IndexError, TypeError, Uncapturable):
            return False
        self.longest = leaves
        return True

    def _valid_rows(self, axes: Axes, exported: Exported, max_rows: int) -> int:
        length = axes.length(self.examples[0])
        wrong = (n for n in range(2, max_rows + 1) if not exported.valid(n, length))
        return next(wrong, max_rows + 1) - 1

    def _runs(self, axes: Axes) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Inputs and outputs of several sizes, to see how output sizes follow."""
        first = self.examples[0]
        own = axes.length(first)
        inputs = [list(leaves) for leaves in self.examples]
        if axes.batchable:
            inputs.append(resize(first, axes, axes.rows(first) + 1, own))
        if axes.has_length:
            inputs.append(self.longest)
        return [(leaves, self.probe(leaves)) for leaves in inputs]

    def _check_dtypes(self) -> None:
        for leaf in (*self.examples[0], *self.probe(self.examples[0])):
            if _dtype(leaf) not in _STORABLE:
                raise Uncapturable(f"plans cannot hold tensors of dtype {_dtype(leaf)}")


def _fits(leaves: Sequence[Tensor], axes: Axes) -> bool:
    return all(
        all(
            not isinstance(dim, int) or dim == size for dim, size in zip(d, leaf.shape, strict=True)
        )
        for d, leaf in zip(axes.dims, leaves, strict=True)
    )


def _specs(
    names: Sequence[str], tensors: Sequence[Tensor], dims: Sequence[tuple[Any, ...]]
) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name, _dtype(tensor), d)
        for name, tensor, d in zip(names, tensors, dims, strict=True)
    )


def _output_names(count: int) -> tuple[str, ...]:
    return tuple(f"output_{index}" for index in range(count))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _hashes(
    model: nn.Module, exported: Exported | None, signature: Signature | None
) -> tuple[str, str]:
    state = [*model.named_parameters(), *model.named_buffers()]
    if exported is not None:
        constants = exported.program.constants.items()
        state.extend((name, value) for name, value in constants if isinstance(value, Tensor))
    weights = digest_tensors(sorted(state, key=lambda item: item[0]))
    text = graph_text(exported.program) if exported else f"{type(model).__qualname__}\n{model}"
    described = json.dumps(signature.to_json() if signature else {}, sort_keys=True)
    graph = hashlib.sha256(f"{text}\n{weights}\n{described}".encode()).hexdigest()
    return weights, graph


def _original_only(model: nn.Module, reason: str) -> Capture:
    weights, graph_hash = _hashes(model, None, None)
    return Capture(
        program=None,
        reason=reason,
        signature=Signature((), (), batchable=False, paddable=False),
        grid=ShapeGrid.covering(1),
        graph_hash=graph_hash,
        weights_version=weights,
        training=model.training,
    )
