"""The steps of one capture: which dims are free, how far, and the original's own answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

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
from supernet.calls import CallForm
from supernet.captured import Capture
from supernet.errors import Uncapturable
from supernet.exporting import (
    Exported,
    FixedByTrace,
    Range,
    digest_tensors,
    export,
    graph_text,
    with_unknown,
)
from supernet.probe import Probe, structural_copy
from supernet.references import make_references
from supernet.signature import Signature, TensorSpec

__all__ = ["Study", "hashes"]

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


class Study:
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
        if not self.examples:
            raise Uncapturable(f"no example has the size that the trace fixed: {notes[-1]}")
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
        weights, graph_hash = hashes(self.model, exported, signature)
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


def hashes(
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
