"""A program run once without data: what every node takes, makes and is made of at one shape.

A program is *rehearsed*: run node by node on fake tensors, which have sizes, strides and storage
but no memory. That gives exact sizes, shows what is a view of what, and takes composite operators
apart into those that torch's own tags and FLOP formulas know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from profiler.shapes import Shape
from supernet.capture.probe import one_line
from supernet.signature import Signature, TensorSpec

__all__ = ["Rehearsal", "Step", "operator_name", "tensors_in"]

# Products with a vector, which torch's counter leaves out: the argument that holds the matrix.
_VECTOR_PRODUCTS = {"mv": 0, "addmv": 1, "dot": 0, "vdot": 0}


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One node, rehearsed: its arguments by name, in order and with defaults, and its result.

    `parts`: the operators it is made of, itself if it is not composite. `products`: FLOPs of the
    matrix products and convolutions among them. `known`: False where the size of the result
    depends on values and a stand-in took its place.
    """

    node: fx.Node
    given: dict[str, Any]
    value: Any
    parts: tuple[OpOverload, ...] = ()
    products: int = 0
    known: bool = True

    @property
    def name(self) -> str:
        """The operator's name without library and overload: `"linear"`."""
        return operator_name(self.node.target)

    @property
    def taken(self) -> list[Tensor]:
        """The tensors among its arguments."""
        return tensors_in(self.given)

    @property
    def made(self) -> list[Tensor]:
        """The tensors of its result."""
        return tensors_in(self.value)

    @property
    def changed(self) -> list[Tensor]:
        """The tensors among its arguments that it writes into."""
        schema = getattr(self.node.target, "_schema", None)
        arguments = schema.arguments if schema else ()
        written = (a.name for a in arguments if a.alias_info and a.alias_info.is_write)
        return tensors_in([self.given[name] for name in written])

    @property
    def only_looks(self) -> bool:
        """Whether it uses the sizes and dtypes of its tensors, never their contents."""
        return self.name.startswith(("new_", "sym_")) or self.name.endswith("_like")


class Rehearsal:
    """A program run once on fake tensors of one shape.

    A size that only values decide (`nonzero`) is taken to be the batch's rows times its length.
    """

    def __init__(self, program: ExportedProgram, signature: Signature, shape: Shape) -> None:
        self._program, self._signature, self._shape = program, signature, shape
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._guessed = False
        nodes = program.graph.find_nodes(op="placeholder")
        specs = program.graph_signature.input_specs
        given = [node for node, s in zip(nodes, specs, strict=True) if _is_given(s)]
        if len(given) != len(signature.inputs):
            raise ValueError(
                f"signature must have the program's {len(given)} inputs, "
                f"got {len(signature.inputs)}"
            )
        self.inputs = {n: self._input(s) for n, s in zip(given, signature.inputs, strict=True)}
        rest = [(n, s) for n, s in zip(nodes, specs, strict=True) if not _is_given(s)]
        self.values: dict[fx.Node, Any] = {**self.inputs, **{n: self._weight(s) for n, s in rest}}

    def steps(self) -> Iterator[Step]:
        """Every call, in program order; a `ValueError` where one can't run at the shape."""
        for node in self._program.graph.nodes:
            if node.op == "get_attr":
                self.values[node] = getattr(self._program.graph_module, str(node.target))
            elif node.op == "call_function":
                step = self._step(node)
                self.values[node] = step.value
                yield step

    def _input(self, spec: TensorSpec) -> Tensor:
        sizes = spec.shape(self._shape.rows, self._shape.length)
        dtype = getattr(torch, spec.dtype)
        with self._fake:
            return torch.empty(sizes, dtype=dtype, device=self._signature.device)

    def _weight(self, spec: InputSpec) -> Tensor:
        held = (self._program.constants | self._program.state_dict).get(spec.target or "")
        if not isinstance(held, Tensor):
            raise ValueError(f"program must take tensors only, got {spec.kind} {spec.target!r}")
        return self._fake.from_tensor(held)

    def _step(self, node: fx.Node) -> Step:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
        given = _by_name(node.target, args, kwargs)
        try:
            value, parts, products = self._run(node.target, args, kwargs)
        except Exception as error:  # an operator may raise anything
            if not self._guessed and not _sized_by_value(node):
                raise ValueError(
                    f"shape must be one that the program can run, got {self._shape}: "
                    f"{node.name}: {one_line(error)}"
                ) from error
            self._guessed = True
            return Step(node, given, self._stand_in(node.meta.get("val")), known=False)
        return Step(node, given, value, tuple(parts), products)

    def _run(
        self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, list[OpOverload], int]:
        inner = [index for index, arg in enumerate(args) if isinstance(arg, fx.GraphModule)]
        if not inner:
            with torch.inference_mode(False), torch.no_grad(), self._fake, _Parts() as parts:
                value = target(*args, **kwargs)
            return value, parts.found, parts.products
        operands = tree_leaves(args[inner[-1] + 1 :])
        branches = [self._run(args[index], tuple(operands), {}) for index in inner]
        value, parts_of_last, _ = branches[-1]
        return value, parts_of_last, max(products for _, _, products in branches)

    def _stand_in(self, traced: Any) -> Any:
        """What the trace saw, with a known size in place of every one that it left open."""

        def size(traced: int | torch.SymInt) -> int:
            return self._shape.tokens if isinstance(traced, torch.SymInt) else traced

        def fixed(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return size(leaf)
            return torch.empty([size(s) for s in leaf.shape], dtype=leaf.dtype, device=leaf.device)

        with self._fake:
            return tree_map(fixed, traced)


class _Parts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operators that reach it and the FLOPs of their products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[OpOverload] = []
        self.products = 0

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        value = func(*args, **kwargs)
        self.found.append(func)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.products += formula(*args, **kwargs, out_val=value)
        elif (matrix := _VECTOR_PRODUCTS.get(operator_name(func))) is not None:
            self.products += 2 * args[matrix].numel()
        return value


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in a nested value, in order."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _is_given(spec: InputSpec) -> bool:
    return spec.kind is InputKind.USER_INPUT


def _by_name(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    schema = target._schema.arguments if isinstance(target, OpOverload) else ()
    names = [argument.name for argument in schema] or map(str, range(len(args)))
    given = {argument.name: argument.default_value for argument in schema}
    return {**given, **dict(zip(names, args, strict=False)), **kwargs}


def operator_name(target: Any) -> str:
    if isinstance(target, OpOverload):
        return target._overloadpacket.__name__
    return str(getattr(target, "__name__", target))


def _sized_by_value(node: fx.Node) -> bool:
    """Whether the trace could not know the sizes of this result, or what the node does."""
    tags = getattr(node.target, "tags", ())
    telling = (torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output)
    return not isinstance(node.target, OpOverload) or any(tag in tags for tag in telling)
