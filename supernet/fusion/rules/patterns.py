"""Patterns of ops in a program that are worth running as one, each with where it comes from.

A rule only proposes; the partition says what is legal. Where a pattern has a longer and a shorter
form, the longer one is proposed first: once it is taken, the shorter is a part of a region, which
no merge accepts.
"""

from __future__ import annotations

from collections.abc import Iterator

from supernet.fusion.graph.matching import (
    base,
    epilogue,
    feeding,
    following,
    is_cast,
    is_inert,
    is_layout,
    is_projection,
    operand,
    sole_user,
    sources,
    until_product,
    users,
)
from supernet.fusion.graph.op_graph import Op, OpGraph, OpKind
from supernet.fusion.graph.partition import Partition

__all__ = [
    "Activation",
    "Attention",
    "Convolution",
    "Normalisation",
    "Pointwise",
    "Projections",
    "Residual",
]

_NORMS = frozenset({"layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm"})


class Pointwise:
    """Elementwise ops that feed each other: memory is passed over once, not once per op."""

    name = "pointwise"
    source = "Chen et al. 2018, TVM, section 3 (injective operators), arXiv:1802.04799"

    def matches(self, graph: OpGraph, partition: Partition) -> Iterator[frozenset[str]]:
        trial = partition.copy()
        fits = {op.name for op in graph.ops() if partition.is_free(op.name) and _fits(op)}
        for name in (n for n in graph.graph if n in fits):
            for before in (n for n in sources(graph, name) if n in fits):
                trial.merge({*trial.region(before), *trial.region(name)})
        for region in trial.regions():
            kinds = [graph.op(name).kind for name in region if name in fits]
            if kinds.count(OpKind.POINTWISE) > 1:
                yield frozenset(region)


class Normalisation:
    """A residual sum and the layer or RMS norm of it; also an RMS norm spelled out in parts."""

    name = "norm"
    source = "Ivanov et al. 2021, Data Movement Is All You Need, arXiv:2007.00072"

    def matches(self, graph: OpGraph, partition: Partition) -> Iterator[frozenset[str]]:
        for op in graph.ops():
            if base(op) in _NORMS:
                core, value = {op.name}, sources(graph, op.name)[:1]
            else:
                core, value = _rms_norm(graph, op)
            if not core:
                continue
            before = _residual_sum(graph, value[0]) if value else set[str]()
            if before:
                yield feeding(graph, core | before, is_inert)
            yield frozenset(core)


class Activation:
    """A linear layer with the activation of its result, the gate included that it opens."""

    name = "activation"
    source = (
        "Chen et al. 2018, TVM, section 3 (complex-out-fusable operators), arXiv:1802.04799; "
        "gates: Shazeer 2020, GLU Variants Improve Transformer, arXiv:2002.05202"
    )

    def matches(self, graph: OpGraph, partition: Partition) -> Iterator[frozenset[str]]:
        for op in graph.ops():
            found = epilogue(graph, op.name) if is_projection(op) else None
            if found is not None:
                activated, last = found
                gate = _gate(graph, op, last)
                if gate:
                    yield activated | gate
                yield activated


class Projections:
    """Linear layers of one module that take the same value, such as queries, keys and values."""

    name = "qkv"
    source = (
        "Ivanov et al. 2021, Data Movement Is All You Need (algebraic fusion), arXiv:2007.00072"
    )

    def matches(self, graph: OpGraph, partition: Partition) -> Iterator[frozenset[str]]:
        alike: dict[tuple[str, ...], list[str]] = {}
        for op in graph.ops():
            if is_projection(op) and partition.is_free(op.name):
                module = op.layer.rpartition(".")[0]
                alike.setdefault((module, *operand(graph, op.name)), []).append(op.name)
        yield from (frozenset(names) for names in alike.values() if len(names) > 1)


class Attention:
    """Attention and the views around it; also spelled out as product, softmax, product."""

    name = "attention"
    source = "Dao et al. 2022, FlashAttention, arXiv:2205.14135"

    def matches(self, graph: OpGraph, partition: Partition) -> Iterator[frozenset[str]]:
        for op in graph.ops():
            if op.kind is OpKind.ATTENTION:
                core = frozenset({op.name})
            elif op.kind is OpKind.SOFTMAX:
                core = _softmax_between_products(graph, op)
            else:
                continue
            if core:
                around = following(graph, feeding(graph, core, is_layout), is_layout)
                yield frozenset(n for n in around if n in core or partition.is_free(n))
                yield core


class Convolution:
    """A convolution, the padding before, the batch norm after that folds into it, an activation."""

    name = "conv"
    source = "Jacob et al. 2018, section 3.2 (batch normalization folding), arXiv:1712.05877"

    def matches(self, graph: OpGraph, partition: Partition) -> Iterator[frozenset[str]]:
        for op in graph.ops():
            if op.kind is OpKind.CONVOLUTION:
                last = _normed(graph, op)
                core = feeding(graph, {op.name, last}, _pads)
                found = epilogue(graph, last)
                if found is not None:
                    yield found[0] | core
                yield core


class Residual:
    """A convolution, the sum with what went around it, and the activation after.

    Linear layers are left out: with oneDNN their sum costs as much fused as apart.
    """

    name = "residual"
    source = (
        "He et al. 2016, Deep Residual Learning, arXiv:1512.03385, section 3.2; "
        "https://uxlfoundation.github.io/oneDNN/dev_guide_attributes_post_ops.html (binary)"
    )

    def matches(self, graph: OpGraph, partition: Partition) -> Iterator[frozenset[str]]:
        for op in graph.ops():
            if op.kind is not OpKind.CONVOLUTION:
                continue
            made = set(feeding(graph, {op.name, last := _normed(graph, op)}, _pads))
            while (after := sole_user(graph, last)) is not None and _passes(after):
                made.add(last := after.name)
            if after is None or not _sums_equals(graph, after):
                continue
            made.add(after.name)
            if (found := epilogue(graph, after.name)) is not None:
                yield found[0] | made
            yield frozenset(made)


def _fits(op: Op) -> bool:
    return op.kind is OpKind.POINTWISE or is_inert(op)


def _normed(graph: OpGraph, op: Op) -> str:
    """The batch norm that can be folded into a convolution; ``op`` itself where there is none."""
    norm = sole_user(graph, op.name)
    folds = norm is not None and norm.kind is OpKind.NORM and "batch_norm" in base(norm)
    return norm.name if norm is not None and folds else op.name


def _pads(op: Op) -> bool:
    return base(op) in ("pad", "constant_pad_nd") and op.effect is None


def _passes(op: Op) -> bool:
    return is_inert(op) or base(op) == "getitem"


def _sums_equals(graph: OpGraph, op: Op) -> bool:
    """Whether it is the sum of two tensors of its own shape, neither of them a weight."""
    if base(op) not in ("add", "add_") or op.effect is not None:
        return False
    inputs = [use for use in op.reads if use.kind != "weight"]
    return len(op.reads) == len(inputs) == 2 and all(use.bytes == op.writes for use in inputs)


def _residual_sum(graph: OpGraph, name: str) -> set[str]:
    """The sum of two tensors that ``name`` is, with the casts after it; empty if it is none."""
    casts = {name}
    while is_cast(graph.op(name)) and len(before := sources(graph, name)) == 1:
        name = before[0]
        casts.add(name)
    op = graph.op(name)
    adds = base(op) == "add" and op.kind is OpKind.POINTWISE and len(op.reads) > 1
    return casts if adds else set()


def _rms_norm(graph: OpGraph, op: Op) -> tuple[set[str], list[str]]:
    """The ops of ``w * x * rsqrt(mean(x²) + ε)`` around this rsqrt, and x; empty if they differ.

    Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", arXiv:1910.07467.
    """
    core, name = {op.name}, op.name
    if base(op) != "rsqrt":
        return set(), []
    for wanted in (("add",), ("mean",), ("pow", "square", "mul")):
        before = sources(graph, name)
        if len(before) != 1 or base(graph.op(before[0])) not in wanted:
            return set(), []
        name = before[0]
        core.add(name)
    value = sources(graph, name)
    if len(value) != 1:
        return set(), []
    same = {value[0], *(sources(graph, value[0]) if is_cast(graph.op(value[0])) else ())}
    scaled = [
        n
        for n in users(graph, op.name)
        if base(graph.op(n)) == "mul" and same & set(sources(graph, n))
    ]
    if len(scaled) != 1:
        return set(), []
    return core | {scaled[0]} | _weighted(graph, scaled[0]), value


def _weighted(graph: OpGraph, name: str) -> set[str]:
    """The cast back and the product with the norm's weight that follow."""
    found: set[str] = set()
    while (after := sole_user(graph, name)) is not None:
        product = base(after) == "mul" and any(use.kind == "weight" for use in after.reads)
        if not (product or is_cast(after)):
            return set()
        name = after.name
        found.add(name)
        if product:
            return found
    return set()


def _gate(graph: OpGraph, linear: Op, last: str) -> set[str]:
    """The product that ``last`` opens or closes and the other linear layer in it, if any."""
    product = sole_user(graph, last)
    if product is None or base(product) != "mul":
        return set()
    others = [n for n in sources(graph, product.name) if n != last]
    if len(others) != 1 or not is_projection(graph.op(others[0])):
        return set()
    same = operand(graph, others[0]) == operand(graph, linear.name)
    return {product.name, others[0]} if same else set()


def _softmax_between_products(graph: OpGraph, softmax: Op) -> frozenset[str]:
    """From the product that gives the scores to the one that takes the weights; or nothing."""

    def between(op: Op) -> bool:
        return (op.kind is OpKind.POINTWISE or is_layout(op)) and op.effect is None

    before = until_product(graph, softmax, sources, between)
    after = until_product(graph, softmax, users, between)
    return frozenset(before | after) if before and after else frozenset()
