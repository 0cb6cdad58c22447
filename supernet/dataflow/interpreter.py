"""One walk through a captured graph, with a `Value` for every tensor."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from supernet.dataflow.intervals import ANY, UNBOUNDED, Interval
from supernet.dataflow.sizes import Dim, Size, size_of
from supernet.dataflow.values import Span, Trouble, Value, follows, places, worst

__all__ = ["UNRULED", "Call", "Rule", "interpret", "top"]

UNRULED = "has no rule"


@dataclass(frozen=True, eq=False)
class Call:
    """One operator applied: its arguments by their schema's names, with values for tensors."""

    node: fx.Node
    name: str
    given: Mapping[str, Any]
    named: Mapping[Any, str]

    def __getitem__(self, argument: str) -> Any:
        return self.given[argument]

    def get(self, argument: str, default: Any = None) -> Any:
        return self.given.get(argument, default)

    @cached_property
    def tensors(self) -> list[Value]:
        """Every tensor among the arguments, in order."""
        return [value for argument in self.given.values() for value in _values(argument)]

    def sizes(self, output: int | None = None) -> list[Size]:
        """The sizes of the result (of this ``output`` where there are several)."""
        made = self.node.meta["val"]
        made = made if output is None else made[output]
        return [size_of(size, self.named) for size in made.shape]

    def dims(self, output: int | None = None) -> tuple[Dim, ...]:
        """The result's dims as far as sizes tell; factors in no particular order."""
        return tuple(
            (*((size.number,) if size.number != 1 else ()), *size.others)
            for size in self.sizes(output)
        )

    @property
    def dtype(self) -> torch.dtype:
        made = self.node.meta["val"]
        return (made if isinstance(made, Tensor) else made[0]).dtype

    def scalar_troubles(self) -> tuple[Trouble | None, Trouble | None]:
        """What numbers among the arguments bring in that follow the rows or the length."""
        sizes = [value for value in self.given.values() if isinstance(value, Size)]
        coupled = any(size.follows("rows") for size in sizes)
        moved = any(size.follows("length") for size in sizes)
        return (
            self.trouble("computes with the number of rows") if coupled else None,
            self.trouble("computes with the padded length") if moved else None,
        )

    def trouble(self, what: str, *, sure: bool = True) -> Trouble:
        """``"amax (net.py:12) <what>"``."""
        return Trouble(f"{self.name}{_where(self.node)} {what}", sure)


Rule: TypeAlias = Callable[[Call], Any]


def interpret(
    program: ExportedProgram,
    inputs: Sequence[Value],
    named: Mapping[Any, str],
    rules: Mapping[str, Rule],
) -> list[Value]:
    """What is known of every output, given what is known of the user's inputs, in order.

    ``named`` says which symbols of the program are ``"rows"`` and ``"length"``.
    """
    walk = _Walk(program.graph_module, named, rules)
    given = iter(inputs)
    values: list[Any] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            values.append(next(given))
        else:
            held = program.state_dict.get(spec.target)
            held = program.constants.get(spec.target) if held is None else held
            values.append(_constant(held))
    outputs = walk.run(values)
    return [value for value in outputs if isinstance(value, Value)]


class _Walk:
    def __init__(
        self, module: fx.GraphModule, named: Mapping[Any, str], rules: Mapping[str, Rule]
    ) -> None:
        self._module, self._named, self._rules = module, named, rules

    def run(self, inputs: Sequence[Any]) -> Sequence[Any]:
        known: dict[fx.Node, Any] = {}
        given = iter(inputs)
        for node in self._module.graph.nodes:
            if node.op == "placeholder":
                known[node] = next(given)
            elif node.op == "get_attr":
                known[node] = _constant(_attribute(self._module, str(node.target)))
            elif node.op == "call_function":
                known[node] = self._called(node, known)
            elif node.op == "output":
                answer = _looked_up(node.args[0], known)
                return answer if isinstance(answer, (tuple, list)) else (answer,)
        return ()

    def _called(self, node: fx.Node, known: Mapping[fx.Node, Any]) -> Any:
        made = node.meta.get("val")
        if node.target is operator.getitem:
            source, index = _looked_up(node.args, known)
            return source[index] if isinstance(source, (tuple, list)) else source
        if isinstance(made, (int, torch.SymInt, torch.SymFloat, torch.SymBool)):
            return size_of(made, self._named)
        if isinstance(made, float):
            return made
        arguments = _looked_up(node.args, known)
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            return self._nested(node, arguments)
        if not isinstance(node.target, torch._ops.OpOverload) or made is None:
            return None
        schema = node.target._schema.arguments
        bound = dict(zip((item.name for item in schema), arguments, strict=False))
        bound |= {name: _looked_up(value, known) for name, value in node.kwargs.items()}
        given = {  # in the schema's order, which is the operands' order
            item.name: bound.get(item.name, item.default_value)
            for item in schema
            if item.name in bound or item.has_default_value()
        }
        call = Call(node, node.target._schema.name.split("::")[-1], given, self._named)
        rule = self._rules.get(node.target._schema.name)
        if rule is None and torch.Tag.pointwise in node.target.tags:
            rule = self._rules["pointwise"]
        return top(call, UNRULED, sure=False) if rule is None else rule(call)

    def _nested(self, node: fx.Node, arguments: Sequence[Any]) -> Any:
        """A graph that is merely wrapped (no_grad, autocast); others are unknown."""
        if "wrap_with" in str(node.target):
            for index, argument in enumerate(node.args):
                if not isinstance(argument, fx.Node) or argument.op != "get_attr":
                    continue
                inner = _attribute(self._module, str(argument.target))
                if isinstance(inner, fx.GraphModule):
                    walk = _Walk(inner, self._named, self._rules)
                    return tuple(walk.run(arguments[index + 1 :]))
        call = Call(node, str(node.target), dict(enumerate(arguments)), self._named)  # type: ignore[arg-type]
        return top(call, UNRULED, sure=False)


def top(call: Call, what: str, *, sure: bool) -> Any:
    """Nothing is known of the result but its shape: what comes of operands that hold no row and no
    length is still the same for every request."""
    coupled, moved = call.scalar_troubles()
    made = call.node.meta["val"]
    if not isinstance(made, Tensor):
        return tuple(
            _top(call, i, what, coupled, moved, sure) if isinstance(one, Tensor) else None
            for i, one in enumerate(made)
        )
    return _top(call, None, what, coupled, moved, sure)


def _top(
    call: Call, output: int | None, what: str, coupled: Trouble | None, moved: Trouble | None,
    sure: bool,
) -> Value:  # fmt: skip
    dims = call.dims(output)
    reads_rows = any(v.rows != "same" or v.coupled for v in call.tensors)
    reads_rows |= any(follows(dim, "rows") for v in call.tensors for dim in v.dims)
    reads_rows |= any(follows(dim, "rows") for dim in dims)
    reads_length = any(
        v.moved or any(follows(dim, "length") for dim in v.dims) for v in call.tensors
    ) or any(follows(dim, "length") for dim in dims)
    trouble = call.trouble(what, sure=sure)
    return Value(
        dims,
        "own" if reads_rows else "same",
        UNBOUNDED,
        UNBOUNDED,
        (Span(UNBOUNDED, UNBOUNDED),) * len(places(dims, "length")),
        coupled=worst([coupled, *(v.coupled for v in call.tensors)])
        or (trouble if reads_rows else None),
        moved=worst([moved, *(v.moved for v in call.tensors)])
        or (trouble if reads_length else None),
    )


def _constant(held: Any) -> Any:
    """A parameter, buffer or constant: the same for every request."""
    if not isinstance(held, Tensor):
        return held
    dims: tuple[Dim, ...] = tuple(() if size == 1 else (int(size),) for size in held.shape)
    numbers = _numbers(held)
    return Value(dims, "same", numbers, numbers, weight=held)


def _numbers(held: Tensor) -> Interval:
    if held.numel() == 0:
        return ANY
    if held.is_complex() or held.layout is not torch.strided or held.is_quantized:
        return UNBOUNDED
    least, most = (float(value) for value in torch.aminmax(held.detach()))
    nan = least != least or most != most
    return UNBOUNDED if nan else Interval(least, most)


def _attribute(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module


def _looked_up(argument: Any, known: Mapping[fx.Node, Any]) -> Any:
    return fx.node.map_aggregate(
        argument, lambda item: known[item] if isinstance(item, fx.Node) else item
    )


def _values(argument: Any) -> list[Value]:
    if isinstance(argument, Value):
        return [argument]
    if isinstance(argument, (tuple, list)):
        return [value for item in argument for value in _values(item)]
    return []


def _where(node: fx.Node) -> str:
    """``" (net.py:12)"``, the user's line, where the trace kept it."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', str(node.meta.get("stack_trace") or ""))
    if not lines:
        return ""
    file, line = lines[-1]
    return f" ({file.rsplit('/', 1)[-1]}:{line})"
