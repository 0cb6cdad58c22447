"""A captured program as a graph of operators: what each reads, writes and computes at one shape."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, Literal, TypeAlias

import networkx as nx
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.export import ExportedProgram

from profiler.shapes import Shape
from supernet.fusion.graph.op_kinds import OpKind, classify, effect_of, flops_of
from supernet.fusion.graph.shape_propagation import Rehearsal, Step, tensors_in
from supernet.signature import Signature

__all__ = ["Op", "OpGraph", "OpKind", "TensorUse", "touched"]

# What torch.export calls the module of a node that it made itself, and the capture's wrapper.
_NONE = "_empty_nn_module_stack_from_metadata_hook"
_WRAPPER = ".exporting._Flat"

_Kind: TypeAlias = Literal["input", "weight", "value"]


@dataclass(frozen=True, slots=True)
class TensorUse:
    """A tensor that an op reads, and how many of its bytes.

    `name`: the placeholder of an input or weight, or the op that wrote the value. `bytes`: what is
    really read: the part behind a slice, the rows a lookup picks, each byte once.
    """

    name: str
    bytes: int
    kind: _Kind


@dataclass(frozen=True, slots=True)
class Op:
    """One call in the program at one shape.

    `name`: of its fx node. `target`: e.g. `"aten.linear.default"`. `reads`: distinct tensors; a
    view is seen through to the tensor it shows, and reads nothing itself. `writes`: bytes, 0 for
    a view. `flops`: multiply and add counted apart. `shape`, `dtype`: of its first output, `()`
    and `"int64"` for a size. `effect`: why it must stay where it is and alone: `"mutates"`,
    `"random"`, `"data-dependent"`; None for the rest. `layer`: qualified name of the module that
    it came from, e.g. `"encoder.layer.3.attention"`; `""` for the model itself or unknown.
    """

    name: str
    target: str
    kind: OpKind
    reads: tuple[TensorUse, ...]
    writes: int
    flops: int
    shape: tuple[int, ...]
    dtype: str
    effect: str | None = None
    layer: str = ""

    @property
    def intensity(self) -> float:
        """FLOPs per byte moved; 0.0 where nothing is moved."""
        moved = self.writes + sum(use.bytes for use in self.reads)
        return self.flops / moved if moved else 0.0


@dataclass(frozen=True, eq=False)
class OpGraph:
    """The ops of a program in program order and what flows between them.

    `graph`: node attribute `"op"` holds the `Op`, edge attribute `"bytes"` what passes. An edge
    is wherever a node takes another's result, views and sizes included, and where one must
    follow another because it writes into a tensor that both use. Checks of dtype and device
    (`_assert_tensor_metadata`) are left out: the capture fixes what they check. `outputs`: the
    ops returned and, where those are views, the ops that wrote what they show.
    """

    graph: nx.DiGraph
    shape: Shape
    outputs: frozenset[str]

    @classmethod
    def of(cls, program: ExportedProgram, signature: Signature, shape: Shape) -> OpGraph:
        """The graph at `shape`; a `ValueError` where the program can't run at that shape."""
        rehearsal = Rehearsal(program, signature, shape)
        drawing = _Drawing(rehearsal)
        for step in rehearsal.steps():
            if step.name != "_assert_tensor_metadata":
                drawing.add(step)
        return cls(drawing.graph, shape, drawing.outputs(program))

    def op(self, name: str) -> Op:
        """The op of that name; a `KeyError` if there is none."""
        found: Op = self.graph.nodes[name]["op"]
        return found

    def ops(self) -> tuple[Op, ...]:
        """All ops in program order."""
        return tuple(op for _, op in self.graph.nodes(data="op"))

    def reuse_distance(self, producer: str, consumer: str) -> int:
        """Bytes of distinct tensors touched strictly between two ops, the producer's own aside.

        A cache smaller than this and the value has dropped the value by the time it is read
        (stack distance: Mattson et al., IBM Systems Journal 9(2), 1970).
        """
        first, last = self._position[producer], self._position[consumer]
        if first >= last:
            raise ValueError(f"consumer must come after {producer!r}, got {consumer!r}")
        between = touched(self.ops()[first + 1 : last])
        return sum(size for name, size in between.items() if name != producer)

    @cached_property
    def _position(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.graph)}


def touched(ops: Iterable[Op]) -> dict[str, int]:
    """Every tensor that these ops read or write, with the most bytes any of them touches."""
    found: dict[str, int] = {}
    for op in ops:
        for use in op.reads:
            found[use.name] = max(found.get(use.name, 0), use.bytes)
        if op.writes:
            found[op.name] = max(found.get(op.name, 0), op.writes)
    return found


@dataclass(slots=True)
class _Held:
    """One tensor's memory: who wrote it last and, since then, who has read it."""

    writer: str
    bytes: int
    kind: _Kind
    rewritten: bool = False
    readers: list[str] = field(default_factory=list)


class _Drawing:
    """The graph while it is drawn, and all memory that its ops have met so far."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self.graph = nx.DiGraph()
        self._values = rehearsal.values
        self._held: dict[int, _Held] = {}  # by storage, so that views and tied weights are one
        for node, tensor in rehearsal.values.items():
            kind: _Kind = "input" if node in rehearsal.inputs else "weight"
            size = tensor.untyped_storage().nbytes()  # several weights may share one
            self._held[_storage(tensor)] = _Held(node.name, size, kind)

    def add(self, step: Step) -> None:
        name, changed = step.node.name, step.changed
        fresh = {_storage(t): t for t in step.made if _storage(t) not in self._held}.values()
        writes = sum(_bytes(tensor) for tensor in [*fresh, *changed])
        kind = classify(step, writes=writes)
        moves = kind is not OpKind.VIEW and not step.only_looks
        reads = self._reads(step, writes if kind is OpKind.GATHER else None) if moves else ()
        first = step.made[0] if step.made else None
        op = Op(
            name=name,
            target=_target(step.node.target),
            kind=kind,
            reads=reads,
            writes=writes,
            flops=flops_of(step, kind),
            shape=() if first is None else tuple(first.shape),
            dtype="int64" if first is None else str(first.dtype).removeprefix("torch."),
            effect=effect_of(step),
            layer=_layer(step.node),
        )
        self.graph.add_node(name, op=op, arguments=_arguments(step.node))
        self._connect(step)
        for tensor in step.taken if moves else ():
            self._note_read(name, self._held[_storage(tensor)])
        for tensor in changed:
            self._note_write(name, self._held[_storage(tensor)])
        for tensor in fresh:
            self._held[_storage(tensor)] = _Held(name, _bytes(tensor), "value")

    def outputs(self, program: ExportedProgram) -> frozenset[str]:
        nodes = program.graph.output_node().all_input_nodes
        tensors = tensors_in([self._values[node] for node in nodes])
        writers = (self._held[_storage(tensor)].writer for tensor in tensors)
        return frozenset({*(node.name for node in nodes), *writers} & set(self.graph))

    def _reads(self, step: Step, most_of_first: int | None) -> tuple[TensorUse, ...]:
        views: dict[int, dict[Any, int]] = {}
        for index, tensor in enumerate(step.taken):
            size = _bytes(tensor)
            if index == 0 and most_of_first is not None:
                size = min(size, most_of_first)  # a table, read where it is looked up
            seen = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
            views.setdefault(_storage(tensor), {})[seen] = size
        uses: dict[str, TensorUse] = {}
        for storage, sizes in views.items():
            held = self._held[storage]
            other = uses[held.writer].bytes if held.writer in uses else 0
            size = other + min(held.bytes, sum(sizes.values()))
            uses[held.writer] = TensorUse(held.writer, size, held.kind)
        return tuple(uses.values())

    def _connect(self, step: Step) -> None:
        """An edge from every op whose result this one takes."""
        for node in step.node.all_input_nodes:
            if node.name in self.graph:
                passed = step.made if step.name == "getitem" else tensors_in(self._values[node])
                size = 0 if step.only_looks else sum(_bytes(tensor) for tensor in passed)
                self.graph.add_edge(node.name, step.node.name, bytes=size)

    def _note_read(self, name: str, held: _Held) -> None:
        held.readers.append(name)
        if held.rewritten and not self.graph.has_edge(held.writer, name):
            self.graph.add_edge(held.writer, name, bytes=held.bytes)

    def _note_write(self, name: str, held: _Held) -> None:
        for reader in held.readers:
            if reader != name and not self.graph.has_edge(reader, name):
                self.graph.add_edge(reader, name, bytes=0)
        held.writer, held.kind, held.rewritten, held.readers = name, "value", True, []


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensor: Tensor) -> int:
    """Of its distinct elements: an expanded dimension shows the same ones again."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * prod(size for size, stride in sizes if stride or not size)


def _target(target: Any) -> str:
    plain = f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', target)}"
    return str(target) if isinstance(target, OpOverload) else plain


def _arguments(node: fx.Node) -> str:
    """The arguments that are no values of the program: what tells two slices apart."""
    return str(fx.map_arg((node.args, dict(node.kwargs)), lambda value: "_"))


def _layer(node: fx.Node) -> str:
    """The innermost module call, less the wrapper that the capture put around the model."""
    stack = [entry for entry in node.meta.get("nn_module_stack", {}).values() if entry[0] != _NONE]
    path = str(stack[-1][0]) if stack else ""
    wrapped = stack and str(stack[0][1]).endswith(_WRAPPER)
    return path.removeprefix("model").removeprefix(".") if wrapped else path
