"""Put another kind of attention in the place of a softmax one, as operators of the graph."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from supernet.elastic.attention.attentions import Core
from supernet.elastic.attention.linear import (
    causal_linear_attention,
    feature_map,
    linear_attention,
    window_attention,
)

__all__ = ["put_linear", "put_window"]

aten = torch.ops.aten

_VALID = "elastic_valid"  # of a node's meta: which mask's keys it tells of
# Sizes to trace with where they are free: of rows, and of a length with more than two blocks.
_ROWS, _LENGTH = 3, 130


@dataclass(frozen=True, slots=True)
class _Form:
    """All that a piece of program depends on, but for the sizes that stay free in it.

    `shapes`: of query, key, value and, where keys may be padding, valid; None for a free size.
    """

    linear: bool
    causal: bool
    window: int = 0
    sinks: int = 0
    scale: float = 1.0
    shapes: tuple[tuple[int | None, ...], ...] = ()
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    @property
    def heads(self) -> int:
        heads = self.shapes[0][1]
        assert heads is not None  # for the type checker: heads are never free
        return heads


class _Attend(nn.Module):
    def __init__(self, form: _Form) -> None:
        super().__init__()
        self.form = form

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None, *maps: Tensor
    ) -> Tensor:
        form = self.form
        if not form.linear:
            return window_attention(
                query, key, value, valid, window=form.window, sinks=form.sinks,
                scale=form.scale, causal=form.causal,
            )  # fmt: skip
        if key.shape[1] != form.heads:
            wide = key.unsqueeze(2).expand(-1, -1, form.heads // key.shape[1], -1, -1)
            key = wide.reshape(key.shape[0], form.heads, key.shape[2], key.shape[3])
        attend = causal_linear_attention if form.causal else linear_attention
        return attend(feature_map(query, maps[0]), feature_map(key, maps[1]), value, valid)


def put_linear(
    graph: fx.Graph, core: Core, heads: Mapping[str, int], maps: tuple[fx.Node, fx.Node]
) -> None:
    """Hedgehog attention in a copied graph. `heads`: by node, how many it has there."""
    _put(graph, core, heads, _Form(linear=True, causal=core.causal), maps)


def put_window(
    graph: fx.Graph, core: Core, heads: Mapping[str, int], window: int, sinks: int
) -> None:
    """Softmax over near keys and the first few in a copied graph."""
    _put(graph, core, heads, _Form(False, core.causal, window, sinks, core.scale), ())


def _put(
    graph: fx.Graph, core: Core, heads: Mapping[str, int], form: _Form, maps: tuple[fx.Node, ...]
) -> None:
    nodes = {node.name: node for node in graph.nodes}
    product = nodes[core.product]
    given = [nodes[core.query], nodes[core.key], nodes[core.value]]
    shapes = [_sizes(node, heads[node.name]) for node in given]
    valid = _valid(graph, core, nodes[core.mask]) if core.mask is not None else None
    if valid is not None:
        shapes.append(_sizes(valid))
    like = given[0].meta["val"]
    piece = _traced(
        dataclasses.replace(form, shapes=tuple(shapes), dtype=like.dtype, device=str(like.device))
    )
    with graph.inserting_before(product):
        product.replace_all_uses_with(_inline(graph, piece, [*given, valid, *maps], product))


def _sizes(node: fx.Node, heads: int | None = None) -> tuple[int | None, ...]:
    shape: Any = node.meta["val"].shape
    sizes = [size if isinstance(size, int) else None for size in shape]
    sizes[1] = sizes[1] if heads is None else heads
    return tuple(sizes)


def _valid(graph: fx.Graph, core: Core, mask: fx.Node) -> fx.Node:
    """Which keys count, ``[B or 1, H or 1, S]``: the mask of the query that sees them all."""
    key = f"{mask.name}_{'last' if core.causal else 'first'}"
    for node in graph.nodes:
        if node.meta.get(_VALID) == key:
            found: fx.Node = node
            return found
    with graph.inserting_after(mask):
        row = _call(graph, aten.select.int, (mask, -2, -1 if core.causal else 0))
    last = row
    if core.added == "numbers":
        last = _after(graph, last, aten.gt.Scalar, (row, -5000.0))
    elif core.added == "hidden":
        last = _after(graph, last, aten.logical_not.default, (row,))
    for _ in range(3 - last.meta["val"].dim()):
        last = _after(graph, last, aten.unsqueeze.default, (last, 0))
    last.meta[_VALID] = key
    return last


def _after(graph: fx.Graph, place: fx.Node, target: Any, args: tuple[Any, ...]) -> fx.Node:
    with graph.inserting_after(place):
        return _call(graph, target, args)


def _call(graph: fx.Graph, target: Any, args: tuple[Any, ...]) -> fx.Node:
    node = graph.call_function(target, args)
    values = fx.map_arg(args, lambda n: n.meta["val"])
    node.meta["val"] = target(*values)
    return node


@functools.lru_cache(maxsize=64)
def _traced(form: _Form) -> fx.Graph:
    """The operators of one attention, rows and lengths free."""
    inputs: list[Tensor | None] = []
    free: list[dict[int, Any] | None] = []
    for index, shape in enumerate(form.shapes):
        own = [size or (_LENGTH if dim else _ROWS) for dim, size in enumerate(shape)]
        dtype = torch.bool if index == 3 else form.dtype
        inputs.append(torch.zeros(own, dtype=dtype, device=form.device))
        free.append({dim: Dim.AUTO for dim, size in enumerate(shape) if size is None})
    if len(form.shapes) == 3:
        inputs.append(None)
        free.append(None)
    width = form.shapes[0][3] or 0
    size = (form.heads, width, width)
    maps = [torch.zeros(size, dtype=form.dtype, device=form.device) for _ in range(2)]
    maps = maps if form.linear else []
    more: tuple[Any, ...] = (tuple({} for _ in maps),) if maps else ()
    with torch.no_grad():
        program = torch.export.export(
            _Attend(form), (*inputs, *maps), dynamic_shapes=(*free, *more)
        )
    graph: fx.Graph = program.graph
    return graph


def _inline(
    graph: fx.Graph, piece: fx.Graph, given: list[fx.Node | None], product: fx.Node
) -> fx.Node:
    """Copy a traced piece in front of ``product``; gives the node of its result."""
    mine = iter(given)
    known: dict[fx.Node, Any] = {}
    for node in piece.nodes:
        if node.op == "placeholder":
            known[node] = next(mine)
        elif node.op == "output":
            result = node.args[0][0]
        elif getattr(node.target, "__name__", "").startswith("_assert"):
            continue
        else:
            copied = graph.node_copy(node, known.__getitem__)
            copied.meta = {**product.meta, "val": node.meta["val"]}
            known[node] = copied
    found: fx.Node = known[result]
    return found
