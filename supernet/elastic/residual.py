"""Layers that a residual stream runs around: they can be left out, and the stream goes on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from supernet.elastic.axes.axes import factors
from supernet.elastic.axes.tracing import Trace, operator

__all__ = ["Stream", "find_stream", "numbered_modules"]

_SUMS = ("add", "add_", "sub", "rsub")
_PASSES = frozenset(
    {"to", "_to_copy", "contiguous", "clone", "detach", "alias", "dropout", "layer_norm",
     "native_layer_norm", "rms_norm", "_fused_rms_norm", "batch_norm", "group_norm", "getitem",
     "_native_batch_norm_legit_no_training", "hardswish", "view", "reshape"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stream:
    """The names of the nodes whose value enters a layer, and with something added leaves it."""

    entry: str
    exit: str


def numbered_modules(program: ExportedProgram) -> list[str]:
    """Modules whose own name is a number, in program order."""
    found: dict[str, None] = {}
    for node in program.graph.nodes:
        for path in _paths(node):
            if re.search(r"(^|\.)\d+$", path):
                found.setdefault(path)
    return list(found)


def _paths(node: fx.Node) -> list[str]:
    stack = node.meta.get("nn_module_stack", {}).values()
    return [str(entry[0]).removeprefix("model").removeprefix(".") for entry in stack]


def find_stream(trace: Trace, module: str) -> Stream | str:
    """The stream around a module, or why there is none."""
    inside = {
        node
        for node in trace.program.graph.nodes
        if node.op == "call_function"
        and any(path == module or path.startswith(f"{module}.") for path in _paths(node))
    }
    if not inside:
        return "nothing is computed in it"
    entering = {
        source: None
        for node in trace.program.graph.nodes
        if node in inside
        for source in node.all_input_nodes
        if source not in inside and source in trace.varying and _is_tensor(source)
    }
    leaving = [
        node
        for node in trace.program.graph.nodes
        if node in inside and _is_tensor(node) and any(user not in inside for user in node.users)
    ]
    pairs = [
        (entry, last)
        for last in leaving
        for entry in entering
        if _alike(trace, entry, last) and _is_sum_with(entry, last, inside)
    ]
    if not pairs:
        return "what it gives is not what it was given with something added"
    if len({entry for entry, _ in pairs}) > 1:
        return "more than one value that it was given is in the sum that it gives"
    entry = pairs[0][0]
    depending = _reached(entry, inside)
    others = [node for node in leaving if node in depending and node is not pairs[0][1]]
    if len(pairs) > 1 or others:
        return "it gives more than one value that follows the stream"
    return Stream(entry.name, pairs[0][1].name)


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _alike(trace: Trace, one: fx.Node, other: fx.Node) -> bool:
    a, b = one.meta["val"], other.meta["val"]
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    pairs: Sequence[tuple[list[object], list[object]]] = [
        (list(factors(x)), list(factors(y)))
        for x, y in zip(trace.of(one), trace.of(other), strict=True)
    ]
    return all(x == y for x, y in pairs)


def _is_sum_with(entry: fx.Node, last: fx.Node, inside: set[fx.Node]) -> bool:
    """Whether ``last`` is ``entry``, elementwise and normalised at most, with something added."""
    waiting, seen = [(last, False)], set()
    while waiting:
        node, summed = waiting.pop()
        if node is entry and summed:
            return True
        if (node, summed) in seen or node not in inside:
            continue
        seen.add((node, summed))
        tags = getattr(node.target, "tags", ())
        if operator(node) in _PASSES or torch.Tag.pointwise in tags:
            sums = operator(node) in _SUMS and len(node.all_input_nodes) > 1
            waiting.extend((source, summed or sums) for source in node.all_input_nodes)
    return False


def _reached(start: fx.Node, inside: set[fx.Node]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = [start]
    while waiting:
        for user in waiting.pop().users:
            if user in inside and user not in found:
                found.add(user)
                waiting.append(user)
    return found
