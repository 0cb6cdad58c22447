"""A lowered program rehearsed with symbolic sizes: what every node makes, whatever the shape.

The captured program knows its free dims as symbols; here they are carried through the kernels that
lowering put in, so that a part of the program can be compiled for all shapes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import SymBool, SymFloat, SymInt, Tensor
from torch._guards import detect_fake_mode
from torch.fx import GraphModule, Node, map_arg
from torch.utils._pytree import tree_leaves

from supernet.capture.probe import one_line
from supernet.capture.recurrent import shapes_of
from supernet.errors import BuildFailed
from supernet.fusion.kernels import onednn
from supernet.fusion.kernels.attention import add_masks, attend
from supernet.fusion.kernels.product import multiply
from supernet.fusion.kernels.quantization import quantize
from supernet.fusion.kernels.winograd import convolve
from supernet.fusion.lowering.inductor import packed_product
from supernet.fusion.lowering.lowering import Lowered

__all__ = ["SYMBOLS", "is_size", "place_of", "rehearse", "tensors_of"]

SYMBOLS = (SymInt, SymFloat, SymBool)


def rehearse(lowered: Lowered) -> None:
    """Leave a fake value under every node's ``meta["val"]``.

    Two things are tidied on the way. Sizes that an input of the program has are read from it,
    before anything runs. Masks of booleans become the numbers that attention adds, once and not
    once per layer. Raises `BuildFailed` where an operator cannot be rehearsed.
    """
    graph = lowered.module.graph
    add_masks(graph)
    mode = detect_fake_mode([n.meta["val"] for n in graph.find_nodes(op="placeholder")])
    if mode is None:
        raise BuildFailed("the program must know the sizes of its inputs to be compiled")
    with mode, torch.no_grad():
        for node in graph.nodes:
            if node.op == "get_attr":
                node.meta["val"] = _weight(lowered, str(node.target))
            elif node.op == "call_function":
                node.meta["val"] = _value(node)
    _read_sizes(lowered.module)


def is_size(node: Node) -> bool:
    """Whether a rehearsed node makes a number and no tensor."""
    return isinstance(node.meta.get("val"), (*SYMBOLS, int, float, bool))


def tensors_of(node: Node) -> list[Tensor]:
    """The fake tensors that a rehearsed node makes."""
    return [leaf for leaf in tree_leaves(node.meta["val"]) if isinstance(leaf, Tensor)]


def place_of(size: Any, tensors: Sequence[Node]) -> tuple[Node, int] | None:
    """The first of these tensors with a dim of this symbolic size, and which dim."""
    for node in tensors:
        for tensor in tensors_of(node):
            for dim, length in enumerate(tensor.shape):
                if isinstance(length, SymInt) and length.node.expr == size.node.expr:
                    return node, dim
    return None


def _weight(lowered: Lowered, name: str) -> Tensor:
    held = lowered.packs[name].weight if name in lowered.packs else getattr(lowered.module, name)
    if not isinstance(held, Tensor):
        raise BuildFailed(f"{name} must be a tensor to be compiled, got control flow")
    return torch.empty_strided(held.shape, held.stride(), dtype=held.dtype)


def _value(node: Node) -> Any:
    given: Any = map_arg((node.args, dict(node.kwargs)), lambda n: n.meta["val"])
    args, kwargs = given
    if node.target is quantize:
        return torch.empty_like(args[0], dtype=torch.uint8)
    if str(node.target) == "onednn.qlinear_pointwise.default":
        x, packed = args[0], args[3]
        return x.new_empty((*x.shape[:-1], packed.shape[0]), dtype=torch.float32)
    if node.target is multiply:
        return args[0].new_empty((*args[0].shape[:-1], args[1].shape[0]))
    if node.target is attend:
        batch, heads, rows, size = args[0].shape
        return args[0].new_empty((batch, rows, heads, size)).transpose(1, 2)
    if node.target is convolve:
        x, weight, pad = args[0], args[1], args[4][0]
        rows, columns = (size + 2 * pad - 2 for size in x.shape[2:])
        return x.new_empty((len(x), rows, columns, len(weight))).permute(0, 3, 1, 2)
    target: Any = packed_product() if node.target is onednn.linear() else node.target
    target = shapes_of(target) or target  # by itself, it would be unrolled at one length
    try:
        return target(*args, **kwargs)
    except Exception as error:  # an operator raises what it likes at sizes without numbers
        raise BuildFailed(f"{node.name} cannot be rehearsed: {one_line(error)}") from error


def _read_sizes(module: GraphModule) -> None:
    graph = module.graph
    given = graph.find_nodes(op="placeholder")
    known: dict[Any, Node] = {}
    for node in list(graph.nodes):
        value = node.meta.get("val")
        if node.op != "call_function" or not isinstance(value, SymInt):
            continue
        size = value.node.expr
        if size not in known and (place := place_of(value, given)) is not None:
            with graph.inserting_after(given[-1]):
                known[size] = graph.call_function(torch.ops.aten.sym_size.int, place)
            known[size].meta["val"] = value
        if size in known:
            node.replace_all_uses_with(known[size])
            graph.erase_node(node)
