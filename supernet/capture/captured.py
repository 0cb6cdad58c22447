"""A captured model: what is known about it, and how a call of it becomes flat tensors and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export import ExportedProgram

from profiler.shapes import ShapeGrid
from supernet.capture.calls.call_signature import CallForm, Example, check_example
from supernet.capture.calls.handed_on import NOTHING, HandedOn
from supernet.capture.calls.pytree import Structure
from supernet.domain.engine import Domain
from supernet.errors import OutsideCapture
from supernet.experiments.references import Reference
from supernet.experiments.unseen import Unseen
from supernet.findings import OFF, Finding
from supernet.guards import Guard
from supernet.signature import Signature

__all__ = ["Capture", "Examples", "Flat"]


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
    ``references`` are batches with the original's own answers, which plans are judged by,
    ``unseen`` more of them, for coarse plans alone.
    ``batching`` and ``padding`` say what may be done with requests, and how that is known;
    ``guards`` what a request must fulfil for it, ``lengths`` the only ones to plan for (None: all
    within the grid).
    ``handed_on`` are the outputs that the program does not compute.
    ``needs_gradients``: the original must be called with gradients on, or it raises.
    ``ops`` are the program's operators in order (None: no program); a capture made in another
    process has them without the program, which stays in that process's files.
    ``domain`` is what is known of the program's numbers where the guards hold.
    """

    program: ExportedProgram | None
    reason: str | None
    signature: Signature
    grid: ShapeGrid
    graph_hash: str
    weights_version: str
    training: bool
    batching: Finding = OFF
    padding: Finding = OFF
    guards: tuple[Guard, ...] = ()
    lengths: frozenset[int] | None = None
    references: tuple[Reference, ...] = ()
    unseen: Unseen = field(default_factory=Unseen)
    form: CallForm | None = None
    result: Structure | None = None
    handed_on: HandedOn = NOTHING
    needs_gradients: bool = False
    ops: tuple[str, ...] | None = None
    domain: Domain = field(default_factory=Domain)
    _checks: tuple[tuple[torch.dtype, tuple[int, ...]], ...] = field(init=False, repr=False)
    _on_cpu: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        codes = {"rows": -1, "length": -2}
        checks = tuple(
            (getattr(torch, s.dtype), tuple(d if isinstance(d, int) else codes[d] for d in s.dims))
            for s in self.signature.inputs
        )
        object.__setattr__(self, "_checks", checks)
        object.__setattr__(self, "_on_cpu", self.signature.device == "cpu")
        if self.program is not None and self.ops is None:
            nodes = (n for n in self.program.graph.nodes if n.op == "call_function")
            object.__setattr__(self, "ops", tuple(str(node.target) for node in nodes))

    @property
    def exported(self) -> bool:
        """Whether there is a program of it, here or in the files of who traced it."""
        return self.ops is not None

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

    def check(self, leaves: Sequence[Tensor]) -> None:
        """``OutsideCapture`` where a request's contents are none that plans were made for."""
        for guard in self.guards:
            if (why := guard.violation(leaves)) is not None:
                raise OutsideCapture(why)

    def describe(self) -> dict[str, Any]:
        """Whether there is a program, and what may be done with batches: JSON-able, for people."""
        return {
            "program": self.reason or ("exported" if self.exported else "none"),
            "batching": self.batching.to_json(),
            "padding": self.padding.to_json(),
        }

    def rebuild(self, leaves: Sequence[Tensor]) -> Any:
        """The user's own result structure around these flat outputs."""
        if self.result is None:
            raise OutsideCapture(self.reason or "the model was not captured")
        return self.result.rebuild(leaves)

    def _at_home(self, tensor: Tensor) -> bool:
        if tensor.layout is not torch.strided:
            return False
        return tensor.is_cpu if self._on_cpu else str(tensor.device) == self.signature.device

    def _no_rows(self) -> int:
        raise OutsideCapture("rows must be at least 1, got 0")

    def _check_length(self, length: int) -> None:
        least, most = self.signature.min_length, self.grid.lengths[-1]
        if not least <= length <= most:
            raise OutsideCapture(f"length must be between {least} and {most}, got {length}")
        if self.lengths is not None and length not in self.lengths:
            raise OutsideCapture(f"length must be one of {sorted(self.lengths)}, got {length}")

    def _outside(self, leaves: list[Tensor], tensor: Tensor, want: str, got: Any) -> OutsideCapture:
        index = next(i for i, leaf in enumerate(leaves) if leaf is tensor)
        return OutsideCapture(f"{self.signature.inputs[index].name} must have {want}, got {got}")
