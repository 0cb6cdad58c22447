"""Attention by a kernel of ours: half the time of torch's on CPUs with AVX-512 (decision 0015).

What `attention.cpp` does not take (several threads, other types, sizes or ranks) stays torch's own
`scaled_dot_product_attention`.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from supernet.fusion.kernels import native

__all__ = ["ATTENTION", "SIZES", "add_masks", "attend", "put_in"]

ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
SIZES = (32, 64, 96, 128)
"""Of a head, in numbers: what the kernel is written for."""

_Strides = ctypes.c_int64 * 13


def put_in(module: GraphModule) -> int:
    """Have the kernel do every attention of `module` that it can; how many. None without kernels
    (`native.prepare`)."""
    nodes = module.graph.find_nodes(op="call_function", target=ATTENTION)
    found = [node for node in nodes if _fits(node)]
    if native.kernels() is None or not found:
        return 0
    add_masks(module.graph)
    for node in found:
        node.target = attend
    module.recompile()
    return len(found)


def _fits(node: Node) -> bool:
    names = ("query", "key", "value", "attn_mask", "dropout_p")
    given: dict[str, Any] = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    if given.get("dropout_p", 0.0) != 0.0 or given.get("enable_gqa", False):
        return False
    parts: list[Tensor] = [given[name].meta["val"] for name in names[:3]]
    fits = all(
        part.dtype is torch.float32 and part.device.type == "cpu" and part.ndim == 4
        for part in parts
    )
    sizes = {part.shape[-1] for part in parts}
    return fits and len(sizes) == 1 and next(iter(sizes)) in SIZES


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Torch's `scaled_dot_product_attention` of float32 [batch, head, row, size], one of `SIZES`.

    A mask holds numbers to be added. The result lies in memory as [batch, row, head, size].
    """
    batch, heads, queries, size = query.shape
    keys = key.shape[2]
    alike = key.shape == value.shape == (batch, heads, keys, size)
    if torch.get_num_threads() > 1 or not alike or 0 in (*query.shape, keys):
        return ATTENTION(query, key, value, attn_mask, 0.0, is_causal, scale=scale)  # type: ignore[no-any-return]
    parts = [part if part.stride(3) == 1 else part.contiguous() for part in (query, key, value)]
    bias = None if attn_mask is None else attn_mask.expand(batch, heads, queries, keys)
    strides = _Strides(
        *(step for part in parts for step in part.stride()[:3]),
        *((0, 0, 0, 0) if bias is None else bias.stride()),
    )
    kernel = native.kernels()
    assert kernel is not None  # whoever put `attend` into a program saw to that
    out = query.new_empty((batch, queries, heads, size))
    scratch = query.new_empty(kernel.evolve_attention_scratch(keys, size))
    failed = kernel.evolve_attention(
        *(part.data_ptr() for part in parts), None if bias is None else bias.data_ptr(),
        out.data_ptr(), batch, heads, queries, keys, size, strides,
        1 / math.sqrt(size) if scale is None else scale, is_causal, scratch.data_ptr(),
    )  # fmt: skip
    if failed:
        raise ValueError(f"the last dim of query must be one of {SIZES}, got {size}")
    return out.transpose(1, 2)


def add_masks(graph: Graph) -> None:
    """Masks of booleans become the numbers that attention adds, once and not once per layer."""
    numbers: dict[tuple[Node, torch.dtype], Node] = {}
    for node in graph.find_nodes(op="call_function", target=ATTENTION):
        mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
        if not isinstance(mask, Node) or mask.meta["val"].dtype is not torch.bool:
            continue
        key = mask, node.meta["val"].dtype
        if key not in numbers:
            with graph.inserting_after(mask):
                added = graph.call_function(torch.ops.aten.where.Scalar, (mask, 0.0, -math.inf))
            with graph.inserting_after(added):
                numbers[key] = graph.call_function(torch.ops.aten.to.dtype, (added, key[1]))
        node.replace_input_with(mask, numbers[key])
