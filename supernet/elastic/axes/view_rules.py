"""Axes through operators that move, split and repeat entries without computing."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import Any

from torch import fx

from supernet.elastic.axes.axes import Axis, dims_of, fix, size_of
from supernet.elastic.axes.tracing import Dims, Trace, arguments, operator
from supernet.elastic.axes.unification import regroup, section, unify

__all__ = ["RULES"]


def _same(trace: Trace, node: fx.Node) -> Dims:
    return trace.of(node.all_input_nodes[0])


def _reshape(trace: Trace, node: fx.Node) -> Dims:
    source = node.all_input_nodes[0]
    axes = [axis for dim in trace.of(source) for axis in dim]
    shape = node.meta["val"].shape
    found = regroup(axes, [size_of(size) for size in shape])
    if found is not None:
        return found
    why = f"{operator(node)} mixes it with others"
    fix(axes, why)
    return dims_of(shape, [why])


def _reshape_as(trace: Trace, node: fx.Node) -> Dims:
    """Seen as another value is: the dims of both are cut together."""
    given = arguments(node)
    found = (_expand if operator(node) == "expand_as" else _reshape)(trace, node)
    for own, other in zip(found, trace.of(given["other"]), strict=True):
        unify(own, other)
    return found


def _transpose(trace: Trace, node: fx.Node) -> Dims:
    given = arguments(node)
    dims = list(trace.of(node.all_input_nodes[0]))
    if operator(node) in ("t", "numpy_T"):
        return dims[::-1]
    if operator(node) == "mT":
        return [*dims[:-2], dims[-1], dims[-2]]
    first, second = (int(given.get(f"dim{i}", given.get(f"axis{i}"))) for i in (0, 1))  # type: ignore[arg-type]
    dims[first], dims[second] = dims[second], dims[first]
    return dims


def _permute(trace: Trace, node: fx.Node) -> Dims:
    given = arguments(node)
    dims = trace.of(given["self"])
    if operator(node) == "movedim":
        source, target = _listed(given["source"]), _listed(given["destination"])
        order = [i for i in range(len(dims)) if i not in [s % len(dims) for s in source]]
        for at, of in sorted(zip([t % len(dims) for t in target], source, strict=True)):
            order.insert(at, of % len(dims))
        return [dims[index] for index in order]
    return [dims[index] for index in given["dims"]]


def _listed(value: Any) -> list[int]:
    return list(value) if isinstance(value, Sequence) else [value]


def _unsqueeze(trace: Trace, node: fx.Node) -> Dims:
    given = arguments(node)
    dims = list(trace.of(given["self"]))
    at = given["dim"]
    dims.insert(at if at >= 0 else at + len(dims) + 1, [])
    return dims


def _squeeze(trace: Trace, node: fx.Node) -> Dims:
    given = arguments(node)
    source = given["self"]
    shape = source.meta["val"].shape
    wanted = given.get("dim")
    places = range(len(shape)) if wanted is None else _listed(wanted)
    gone = {p % len(shape) for p in places if size_of(shape[p]) == 1}
    return [dim for index, dim in enumerate(trace.of(source)) if index not in gone]


def _expand(trace: Trace, node: fx.Node) -> Dims:
    source = node.all_input_nodes[0]
    shape = node.meta["val"].shape
    dims: Dims = [[] for _ in range(len(shape) - len(trace.of(source)))]
    dims.extend(trace.of(source))
    return [
        dim or ([] if size_of(size) == 1 else [Axis(size_of(size))])
        for dim, size in zip(dims, shape, strict=True)
    ]


def _repeat(trace: Trace, node: fx.Node) -> Dims:
    given = arguments(node)
    dims: Dims = [[] for _ in range(len(given["repeats"]) - len(trace.of(given["self"])))]
    dims.extend(trace.of(given["self"]))
    made = []
    for dim, times in zip(dims, given["repeats"], strict=True):
        again = size_of(times.meta["val"]) if isinstance(times, fx.Node) else times
        made.append(dim if again == 1 else [Axis(again, ["it is a number of copies"]), *dim])
    return made


def _repeat_interleave(trace: Trace, node: fx.Node) -> Dims:
    given = arguments(node)
    dims = list(trace.of(given["self"]))
    if not isinstance(given.get("repeats"), int) or given.get("dim") is None:
        raise NotImplementedError
    if given["repeats"] > 1:
        copies = Axis(given["repeats"], ["it is a number of copies"])
        dims[given["dim"]] = [*dims[given["dim"]], copies]
    return dims


def _select(trace: Trace, node: fx.Node) -> Dims:
    given = arguments(node)
    dims = list(trace.of(given["self"]))
    gone = dims.pop(given["dim"])
    fix(gone, "select takes one of it")
    return dims


def _unbind(trace: Trace, node: fx.Node) -> list[Dims]:
    given = arguments(node)
    dims = list(trace.of(given["self"]))
    gone = dims.pop(given["dim"])
    fix(gone, "unbind takes it apart")
    return [dims for _ in node.meta["val"]]


def _slice(trace: Trace, node: fx.Node) -> Dims:
    given = arguments(node)
    dims, dim = list(trace.of(given["self"])), int(given["dim"])
    before = given["self"].meta["val"].shape[dim]
    start, stop = given["start"] or 0, given.get("end")
    if operator(node) == "narrow":
        stop = start + given["length"] if _known(start, given["length"]) else node
    stop = sys.maxsize if stop is None else stop
    plain = given.get("step", 1) == 1
    if start == 0 and stop == sys.maxsize and plain:
        return dims
    if not _known(start, stop, before) or not plain:
        why = f"{operator(node)} takes a part of it"
        fix(dims[dim], why)
        dims[dim] = dims_of([node.meta["val"].shape[dim]], [why])[0]
        return dims
    first, last = (max(0, min(before, at + before if at < 0 else at)) for at in (start, stop))
    dims[dim] = section(dims[dim], first, last, operator(node))
    return dims


def _known(*values: Any) -> bool:
    return all(isinstance(value, int) for value in values)


def _split(trace: Trace, node: fx.Node) -> list[Dims]:
    given = arguments(node)
    dims, dim = trace.of(given["self"]), given["dim"]
    sizes = [size_of(part.shape[dim]) for part in node.meta["val"]]
    if not _known(*sizes):
        fix(dims[dim], f"{operator(node)} takes parts of it")
        return [dims_of(part.shape, [f"{operator(node)} made it"]) for part in node.meta["val"]]
    edges = [0, *itertools.accumulate(sizes)]
    made = []
    for start, stop in itertools.pairwise(edges):
        part = list(dims)
        part[dim] = section(dims[dim], start, stop, operator(node))
        made.append(part)
    return made


def _getitem(trace: Trace, node: fx.Node) -> Any:
    source, index = node.all_input_nodes[0], node.args[1]
    return trace.dims[source][index]


RULES = {
    **dict.fromkeys(("reshape", "view", "_unsafe_view", "flatten", "unflatten"), _reshape),
    **dict.fromkeys(("reshape_as", "view_as", "expand_as"), _reshape_as),
    **dict.fromkeys(("transpose", "t", "numpy_T", "mT", "swapaxes", "swapdims"), _transpose),
    **dict.fromkeys(("permute", "movedim"), _permute),
    **dict.fromkeys(
        ("to", "_to_copy", "contiguous", "clone", "detach", "alias", "lift_fresh_copy", "dropout",
         "native_dropout", "type_as", "feature_dropout", "alpha_dropout"), _same),
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "expand": _expand,
    "repeat": _repeat,
    "repeat_interleave": _repeat_interleave,
    "select": _select,
    "unbind": _unbind,
    **dict.fromkeys(("slice", "narrow"), _slice),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), _split),
    "getitem": _getitem,
}  # fmt: skip
