"""The steps of one capture: which dims are free, how far, and the original's own answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from profiler.shapes import ShapeGrid
from supernet.capture.calls.call_signature import CallForm
from supernet.capture.calls.handed_on import NOTHING, handed_on
from supernet.capture.captured import Capture
from supernet.capture.dynamic_dims import (
    Axes,
    check_constants,
    infer_axes,
    output_dims,
    resize,
    vary,
)
from supernet.capture.exporting import (
    Exported,
    FixedByTrace,
    Range,
    export,
    graph_text,
    with_unknown,
)
from supernet.capture.probe import Probe, structural_copy
from supernet.capture.weights import digest_tensors, held
from supernet.dataflow.proof import Proof, prove
from supernet.domain.engine import Domain
from supernet.domain.study import find_domain, with_answers
from supernet.errors import Uncapturable, WrongArgument
from supernet.experiments.experiments import masks, padding_counts, rows_meet
from supernet.experiments.references import make_references
from supernet.experiments.unseen import Unseen, make_unseen
from supernet.findings import OFF, Finding
from supernet.guards import Guard, Shown
from supernet.signature import Dim, Signature, TensorSpec

__all__ = ["Study", "Wishes", "hashes"]

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
class Wishes:
    """What the user forbids (False) or demands (True); None leaves it to proof and experiment.

    ``lengths``: the only ones that plans and batches are for; None for all that the model takes.
    """

    batchable: bool | None = None
    paddable: bool | None = None
    lengths: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("batchable", "paddable"):
            wish = getattr(self, name)
            if wish is not None and not isinstance(wish, bool):
                raise TypeError(f"{name} must be True, False or None, got {wish!r}")
        if self.lengths is not None and (
            not self.lengths or any(type(n) is not int or n < 1 for n in self.lengths)
        ):
            raise ValueError(
                f"lengths must be one or more lengths of at least 1, got {self.lengths!r}"
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
        wishes: Wishes | None = None,
    ) -> None:
        self.model, self.form, self.probe = model, form, probe
        self.examples, self.max_rows = examples, max_rows
        self.wishes = wishes or Wishes()
        self.longest = examples[-1]  # the longest input that the original took

    def capture(self) -> Capture:
        self._check_dtypes()
        check_constants(self.probe, self.examples[0])
        axes = infer_axes(self.probe, self.examples, batchable=self.wishes.batchable is not False)
        if self.wishes.batchable is True and not axes.batchable:
            raise WrongArgument(
                "batchable must be False or None for this model: its rows were seen to depend on "
                "each other, or its inputs do not share their first dimension"
            )
        found = self._found(axes)
        if not axes.batchable:
            why = "forbidden" if self.wishes.batchable is False else axes.note
            return self._describe(found, Finding("off", why))
        rows = self._rows(found)
        if rows.allowed:
            return self._describe(found, rows)
        # Without rows of their own the dims mean something else: from the start again.
        found = self._found(infer_axes(self.probe, self.examples, batchable=False))
        return self._describe(found, rows)

    def _found(self, axes: Axes) -> _Found:
        """The program for these axes, or for fewer, and what it proves."""
        notes = [axes.note]
        exported: Exported | None = None
        try:
            copied = structural_copy(self.model)
            exported = export(copied, self.form, axes, self._sample)
        except FixedByTrace as why:  # no program to prove anything on: the original may batch
            notes = [str(why)]
        else:
            notes.append(exported.note)
            axes = exported.axes
        examples = [leaves for leaves in self.examples if _fits(leaves, axes)]
        if not examples:
            raise Uncapturable(f"no example has the size that the trace fixed: {notes[-1]}")
        shortest = 1
        if exported is not None and axes.has_length:
            examples, shortest, note = self._narrowed(axes, exported, examples)
            notes.append(note)
        outputs = output_dims(axes, self._runs(axes, examples))
        proof = None
        if exported is not None:
            outputs = with_unknown(outputs, exported.program)
            dtypes = [leaf.dtype for leaf in examples[0]]
            proof = prove(
                exported.program, axes.dims, dtypes, outputs, exported.named, masks(axes, examples)
            )
        reason = "; ".join(filter(None, notes)) or None
        return _Found(axes, exported, examples, outputs, proof, reason, shortest)

    def _narrowed(
        self, axes: Axes, exported: Exported, examples: list[list[Tensor]]
    ) -> tuple[list[list[Tensor]], int, str]:
        """The examples that the program stands for, the shortest length it does, and a note.

        Where the model's code takes another path from some length on, these are the lengths
        around the one that was traced.
        """
        traced, rows = axes.length(self._sample(axes)), 2 if axes.batchable else 1
        most = max(map(axes.length, examples))
        odd = [n for n in range(1, most + 1) if not exported.valid(rows, n)]
        shortest = max((n for n in odd if n < traced), default=0) + 1
        longest = min((n for n in odd if n >= traced), default=most + 1) - 1
        inside = [e for e in examples if shortest <= axes.length(e) <= longest]
        if not inside:
            raise Uncapturable(f"the model's code takes another path at length {traced}")
        if len(inside) == len(examples):
            return inside, shortest, ""
        note = f"the model's code takes another path at lengths other than {shortest}-{longest}"
        return inside, shortest, note

    def _rows(self, found: _Found) -> Finding:
        """Whether requests may share a batch."""
        trouble = found.proof.rows if found.proof else None
        if found.proof is not None and trouble is None:
            return Finding("proven")
        why = trouble.why if trouble else "there is no program to prove it on"
        if self.wishes.batchable is True:
            return Finding("demanded", f"by the user; not proven: {why}")
        if trouble is not None and trouble.sure:
            return Finding("off", why)
        if any("any" in dims for dims in found.outputs):
            return Finding("off", f"{why}, and an output has a size that its values decide")
        seen = rows_meet(self.probe, found.axes, found.outputs, found.examples, self.max_rows)
        if seen is not None:
            return Finding("off", f"not proven: {why}; {seen}")
        return Finding("inferred", f"not proven: {why}; experiments found no dependence")

    def _padding(self, found: _Found, longest: int) -> tuple[Finding, tuple[Guard, ...]]:
        """Whether a request may be padded, and what must hold for it."""
        axes, outputs = found.axes, found.outputs
        if not axes.has_length:
            return OFF, ()
        if self.wishes.paddable is False:
            return Finding("off", "forbidden"), ()
        if any("any" in dims for dims in outputs):
            return Finding("off", "an output has a size that follows the length otherwise"), ()
        trouble = found.proof.padding if found.proof else None
        if found.proof is not None and trouble is None:
            return Finding("proven"), self._shown(axes, found.proof.shown)
        why = trouble.why if trouble else "there is no program to prove it on"
        shown = self._shown(axes, masks(axes, found.examples))
        seen = None
        if trouble is None or not trouble.sure or self.wishes.paddable is True:
            seen = padding_counts(self.probe, axes, outputs, found.examples, longest)
        if self.wishes.paddable is True:
            if seen is not None:
                raise WrongArgument(f"paddable must be False or None for this model: {seen}")
            return Finding("demanded", f"by the user; not proven: {why}"), ()
        if trouble is not None and trouble.sure:
            return Finding("off", why), ()
        if seen is not None:
            return Finding("off", f"not proven: {why}; {seen}"), ()
        return Finding("inferred", f"not proven: {why}; experiments found no influence"), shown

    def _shown(self, axes: Axes, leaves: Sequence[int]) -> tuple[Guard, ...]:
        names = self.form.leaf_names()
        return tuple(Shown(i, names[i], axes.dims[i].index("length")) for i in leaves)

    def _describe(self, found: _Found, batching: Finding) -> Capture:
        axes, exported, examples = found.axes, found.exported, found.examples
        self.longest = examples[-1]
        # The user's own calls are served, however many rows they have.
        own_rows = max(axes.rows(leaves) for leaves in examples)
        max_rows = max(self.max_rows, own_rows) if axes.batchable else 1
        least, most = self._lengths(axes, exported, examples)
        if exported is not None:
            max_rows = self._valid_rows(axes, exported, max_rows, examples)
        padding, guards = self._padding(found, most)
        paddable = padding.allowed
        grid = ShapeGrid.covering(max_rows, least, most)
        outputs = found.outputs
        signature = Signature(
            inputs=_specs(self.form.leaf_names(), examples[0], axes.dims),
            outputs=_specs(_output_names(len(outputs)), self.probe(examples[0]), outputs),
            batchable=axes.batchable,
            paddable=paddable,
            min_length=found.shortest if paddable else least,
            device=str(examples[0][0].device),
        )
        weights, graph_hash = hashes(self.model, exported, signature)
        only = self.wishes.lengths
        more: tuple[Guard, ...] = ()
        domain = Domain()
        if exported is not None:
            more, domain = find_domain(
                exported.program,
                signature,
                grid,
                examples,
                [g.leaf for g in guards if isinstance(g, Shown)],
            )
        guards = (*guards, *more)
        longest = self.longest if _fits(self.longest, axes) else examples[-1]
        references = make_references(
            self.probe, axes, grid, examples, longest,
            paddable=paddable, guards=guards, shortest=signature.min_length,
        )  # fmt: skip
        domain = with_answers(domain, [reference.outputs for reference in references])
        return Capture(
            program=exported.program if exported else None,
            reason=found.reason,
            signature=signature,
            grid=grid,
            graph_hash=graph_hash,
            weights_version=weights,
            training=self.model.training,
            batching=batching,
            padding=padding,
            guards=guards,
            lengths=frozenset(only) if only is not None and axes.has_length else None,
            references=references,
            unseen=make_unseen(self.probe, axes, examples, guards) if exported else Unseen(),
            form=self.form,
            result=self.probe.structure,
            handed_on=handed_on(exported.program, self.model) if exported else NOTHING,
            domain=domain,
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

    def _lengths(
        self, axes: Axes, exported: Exported | None, examples: Sequence[Sequence[Tensor]]
    ) -> tuple[int, int]:
        """The shortest and longest length to plan for, which the original itself accepts."""
        if not axes.has_length:
            return 1, 1
        own = [axes.length(leaves) for leaves in examples]
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

    def _valid_rows(
        self, axes: Axes, exported: Exported, max_rows: int, examples: Sequence[Sequence[Tensor]]
    ) -> int:
        length = axes.length(examples[0])
        wrong = (n for n in range(2, max_rows + 1) if not exported.valid(n, length))
        return next(wrong, max_rows + 1) - 1

    def _runs(
        self, axes: Axes, examples: Sequence[Sequence[Tensor]]
    ) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Inputs and outputs of several sizes, to see how output sizes follow."""
        first = list(examples[0])
        own = axes.length(first)
        inputs = [list(leaves) for leaves in examples]
        if axes.batchable:
            inputs.append(resize(first, axes, axes.rows(first) + 1, own))
        if axes.has_length and len({axes.length(leaves) for leaves in examples}) < 2:
            inputs.append(resize(first, axes, axes.rows(first), own + 1))
        return [(leaves, self.probe(leaves)) for leaves in inputs]

    def _check_dtypes(self) -> None:
        for leaf in (*self.examples[0], *self.probe(self.examples[0])):
            if _dtype(leaf) not in _STORABLE:
                raise Uncapturable(f"plans cannot hold tensors of dtype {_dtype(leaf)}")


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A program (None where the trace fixes what must be free), and the examples that fit it."""

    axes: Axes
    exported: Exported | None
    examples: list[list[Tensor]]
    outputs: tuple[tuple[Dim, ...], ...]
    proof: Proof | None
    reason: str | None
    shortest: int = 1  # below, the model's code takes another path than the program


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
    state = list(held(model))
    if exported is not None:
        constants = exported.program.constants.items()
        state.extend((name, value) for name, value in constants if isinstance(value, Tensor))
    weights = digest_tensors(sorted(state, key=lambda item: item[0]))
    text = graph_text(exported.program) if exported else f"{type(model).__qualname__}\n{model}"
    described = json.dumps(signature.to_json() if signature else {}, sort_keys=True)
    graph = hashlib.sha256(f"{text}\n{weights}\n{described}".encode()).hexdigest()
    return weights, graph
