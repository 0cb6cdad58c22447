"""A rule's view of a graph: neighbours of an op, and the few groups of ops that rules ask about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import prod

from supernet.fusion.graph.op_graph import Op, OpGraph, OpKind

__all__ = [
    "base",
    "epilogue",
    "feeding",
    "following",
    "is_cast",
    "is_inert",
    "is_layout",
    "is_product",
    "is_projection",
    "is_size",
    "operand",
    "sole_user",
    "sources",
    "until_product",
    "users",
]

_INERT = frozenset({"alias", "clone", "contiguous", "detach", "dropout", "feature_dropout"})
_CASTS = frozenset({"to", "_to_copy", "type_as", "float", "half", "bfloat16"})
_PRODUCTS = frozenset({"matmul", "mm", "bmm", "baddbmm", "einsum"})
_LINEAR = frozenset({"linear", "addmm", "mm", "matmul"})
_ACTIVATIONS = frozenset(
    {"celu", "clamp", "clamp_min", "elu", "erf", "gelu", "glu", "hardsigmoid", "hardswish",
     "hardtanh", "leaky_relu", "log_sigmoid", "mish", "prelu", "relu", "relu6", "selu", "sigmoid",
     "silu", "softplus", "softsign", "tanh", "threshold"}
)  # fmt: skip


def base(op: Op) -> str:
    """The operator's name without namespace and overload: ``"aten.add.Tensor"`` is ``"add"``."""
    parts = op.target.split(".")
    return parts[1] if len(parts) > 1 else op.target


def is_size(op: Op) -> bool:
    """Whether the value is a number about a shape rather than a tensor."""
    return op.shape == () and op.dtype == "int64" and op.writes == 0


def is_cast(op: Op) -> bool:
    """Whether it changes the dtype at most."""
    return base(op) in _CASTS


def is_inert(op: Op) -> bool:
    """Whether values come out as they went in (dropout in a model that is not trained)."""
    return op.effect is None and (base(op) in _INERT or is_cast(op))


def is_layout(op: Op) -> bool:
    """Whether the same values come out in another order or shape, or just so."""
    moves = op.kind in (OpKind.VIEW, OpKind.COPY) and op.effect is None and not is_size(op)
    return moves or is_inert(op)


def is_product(op: Op) -> bool:
    """Whether it is a matrix product that could be one of an attention's two."""
    return op.kind is OpKind.MATMUL and base(op) in _PRODUCTS


def is_projection(op: Op) -> bool:
    """Whether it is the product of one value with weights."""
    kinds = [use.kind for use in op.reads]
    weights = kinds.count("weight")
    return (
        base(op) in _LINEAR
        and op.kind is OpKind.MATMUL
        and weights > 0
        and len(kinds) == weights + 1
    )


def sources(graph: OpGraph, name: str) -> list[str]:
    """The ops whose values it takes, sizes aside."""
    return [p for p in graph.graph.pred[name] if not is_size(graph.op(p))]


def users(graph: OpGraph, name: str) -> list[str]:
    """The ops that take its value, not only its size."""
    return [s for s in graph.graph.succ[name] if not is_size(graph.op(s))]


def sole_user(graph: OpGraph, name: str) -> Op | None:
    """The op that alone takes its value; None where several do, or the program returns it."""
    found = users(graph, name)
    return graph.op(found[0]) if len(found) == 1 and name not in graph.outputs else None


def operand(graph: OpGraph, name: str) -> tuple[str, ...]:
    """What a projection is applied to: equal for two that take the very same value."""
    read = (use.name for use in graph.op(name).reads if use.kind != "weight")
    return (*sources(graph, name), "reads", *read)


def feeding(graph: OpGraph, names: Iterable[str], fits: Callable[[Op], bool]) -> frozenset[str]:
    """``names`` and the fitting ops before them that nobody else needs."""
    found = set(names)
    waiting = list(found)
    while waiting:
        for name in sources(graph, waiting.pop()):
            alone = name not in graph.outputs and found.issuperset(users(graph, name))
            if name not in found and alone and fits(graph.op(name)):
                found.add(name)
                waiting.append(name)
    return frozenset(found)


def following(graph: OpGraph, names: Iterable[str], fits: Callable[[Op], bool]) -> frozenset[str]:
    """``names`` and the fitting ops after them that take nothing else."""
    found = set(names)
    waiting = list(found)
    while waiting:
        for name in users(graph, waiting.pop()):
            closed = found.issuperset(sources(graph, name))
            if name not in found and closed and fits(graph.op(name)):
                found.add(name)
                waiting.append(name)
    return frozenset(found)


def epilogue(graph: OpGraph, start: str) -> tuple[frozenset[str], str] | None:
    """The activation that ``start``'s value goes through: (``start`` and its ops, the last one).

    Several ops where it is spelled out (``x * sigmoid(x)``, the tanh form of GELU): elementwise,
    fed by ``start`` and weights only, with a single result. None where there is no activation.
    """
    after = following(graph, {start}, _is_elementwise) - {start}
    inside, best = {start}, None
    activated = False
    for name in (n for n in graph.graph if n in after):
        inside.add(name)
        activated = activated or base(graph.op(name)).rstrip("_") in _ACTIVATIONS
        leaving = [n for n in inside if not _stays(graph, n, inside)]
        if activated and leaving == [name] and graph.op(name).kind is OpKind.POINTWISE:
            best = frozenset(inside), name
    return best


def _is_elementwise(op: Op) -> bool:
    fits = op.kind is OpKind.POINTWISE or is_layout(op)
    return fits and op.effect is None and all(use.kind != "input" for use in op.reads)


def _stays(graph: OpGraph, name: str, inside: set[str]) -> bool:
    return name not in graph.outputs and inside.issuperset(users(graph, name))


def until_product(
    graph: OpGraph,
    start: Op,
    step: Callable[[OpGraph, str], list[str]],
    between: Callable[[Op], bool],
) -> set[str]:
    """The nearest product of the scores in the direction of ``step``, and what leads there."""
    seen: dict[str, str] = {}  # op -> the one that the search came from
    waiting = [start.name]
    for name in waiting:
        for found in (n for n in step(graph, name) if n not in seen):
            seen[found] = name
            op = graph.op(found)
            if is_product(op) and (step is users or prod(op.shape) == prod(start.shape)):
                return _way_back(seen, found, start.name)
            if between(op):
                waiting.append(found)
    return set()


def _way_back(seen: Mapping[str, str], name: str, start: str) -> set[str]:
    way = {name}
    while name != start:
        name = seen[name]
        way.add(name)
    return way
