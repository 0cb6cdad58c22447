"""A lowered program in pieces that are compiled once each and called for every layer of that form.

Between the ops that only torch can run, the program is cut where it repeats itself, mostly into
its layers; the packed products inside stay oneDNN's, with their own weights. A piece takes all
weights as inputs, so equal pieces are one. It is a stretch of the program's own order, so nothing
in it can wait for something outside that waits for it: no path leaves a stretch and comes back.

    lowered ─► rehearsed ─► stretches ─► pieces ─► the different ones compiled ─► calls of them
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node, map_arg
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils._pytree import tree_leaves

from supernet.capture.recurrent import shapes_of
from supernet.errors import BuildFailed
from supernet.fusion.kernels import onednn
from supernet.fusion.kernels.attention import ATTENTION
from supernet.fusion.kernels.product import multiply
from supernet.fusion.kernels.winograd import convolve
from supernet.fusion.lowering.compiled_package import load_pieces
from supernet.fusion.lowering.inductor import compile_pieces, packed_product
from supernet.fusion.lowering.lowering import Lowered, drop_unused_tensors
from supernet.fusion.lowering.symbolic_shapes import (
    SYMBOLS,
    is_size,
    place_of,
    rehearse,
    tensors_of,
)
from supernet.fusion.rules.layers import repeats, values_alive

__all__ = ["Piece", "compile_stretches", "pieces_of"]

_CONVOLUTIONS = ("aten.conv", "mkldnn._conv")
_LEAST_OPS = 2  # one alone moves as much memory compiled as not


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the program (``nodes``) as a program of its own.

    ``inputs`` and ``outputs``: the nodes behind its placeholders and results, in order. ``form``:
    equal where two pieces compute the same function of other tensors.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    module: GraphModule
    form: str


def compile_stretches(lowered: Lowered, folder: Path) -> tuple[tuple[tuple[str, ...], ...], int]:
    """Compile what pays in ``lowered`` into a package in ``folder``, and call it there instead.

    What each call stands for (names of nodes), and how many different pieces they are. Raises
    `BuildFailed` where nothing pays.
    """
    pieces = pieces_of(lowered)
    if not pieces:
        raise BuildFailed("nothing to compile: torch is left with no two ops that move memory")
    forms = {piece.form: piece.module for piece in pieces}
    names = {form: f"piece_{index}" for index, form in enumerate(forms)}
    compile_pieces({names[form]: made for form, made in forms.items()}, folder)
    for name, call in load_pieces(folder, names.values()).items():
        lowered.module.add_submodule(name, call)
    stretches = tuple(tuple(node.name for node in piece.nodes) for piece in pieces)
    for piece in pieces:
        _call(lowered.module.graph, piece, names[piece.form])
    lowered.module.graph.eliminate_dead_code()
    drop_unused_tensors(lowered.module)
    lowered.module.recompile()
    return stretches, len(forms)


def pieces_of(lowered: Lowered) -> tuple[Piece, ...]:
    """The stretches of ``lowered`` that are worth compiling, in program order; rehearses it."""
    rehearse(lowered)
    found = (_piece(nodes) for nodes in _stretches(lowered.module.graph))
    return tuple(piece for piece in found if piece is not None)


def _stretches(graph: Graph) -> Iterator[Sequence[Node]]:
    """The program cut where it repeats itself, and at every op that only torch can run."""
    nodes = [n for n in graph.nodes if n.op == "call_function" and not _stands_anywhere(n)]
    if any(n.target is convolve or str(n.target).startswith(_CONVOLUTIONS) for n in nodes):
        return  # what a convolution makes lies in memory in an order that fakes do not know
    place = {node: index for index, node in enumerate(nodes)}
    last_uses = [max((place.get(u, i) for u in n.users), default=i) for n, i in place.items()]
    products = [node.target in (onednn.linear(), multiply) for node in nodes]
    cuts = repeats([_label(node) for node in nodes], products, values_alive(last_uses))
    for first, end in itertools.pairwise((0, *cuts, len(nodes))):
        for compiles, stretch in itertools.groupby(nodes[first:end], _compiles):
            if compiles:
                yield tuple(stretch)


def _stands_anywhere(node: Node) -> bool:
    """Whether it is a size that is computed from other sizes or read from an input."""
    return is_size(node) and all(n.op == "placeholder" or is_size(n) for n in node.all_input_nodes)


def _compiles(node: Node) -> bool:
    """Whether Inductor may run it: a pure function with tensors of foreseeable sizes."""
    leaves = tree_leaves(node.meta["val"])
    if not leaves or not all(
        isinstance(v, Tensor) and not free_unbacked_symbols(v) for v in leaves
    ):
        return False  # one without results raises, or does nothing
    if node.target is operator.getitem or node.target is onednn.linear():
        return True
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return False
    if shapes_of(target) is not None:  # it would be unrolled
        return False
    return not target._schema.is_mutable and not _is_random(node, target)


def _is_random(node: Node, target: torch._ops.OpOverload) -> bool:
    if target is not ATTENTION:
        return torch.Tag.nondeterministic_seeded in target.tags
    dropped = node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0)
    return bool(dropped != 0.0)


def _piece(nodes: Sequence[Node]) -> Piece | None:
    """The stretch as a program; None where it is not worth it or a size cannot be had there."""
    if sum(_moves_memory(node) for node in nodes) < _LEAST_OPS:
        return None
    inside, graph = set(nodes), Graph()
    taken = dict.fromkeys(n for node in nodes for n in node.all_input_nodes if not is_size(n))
    inputs = tuple(n for n in taken if n not in inside)
    copies: dict[Node, Node] = {}
    for index, node in enumerate(inputs):
        copies[node] = graph.placeholder(f"input_{index}")
        copies[node].meta["val"] = node.meta["val"]
    try:
        for node in nodes:
            copies[node] = graph.node_copy(node, lambda n: _there(graph, n, inputs, copies))
            if node.target is onednn.linear():
                copies[node].target = packed_product()
    except _NoSize:
        return None
    outputs = tuple(node for node in nodes if set(node.users) - inside)
    graph.output(tuple(copies[node] for node in outputs))
    return Piece(tuple(nodes), inputs, outputs, GraphModule({}, graph), _form(graph))


class _NoSize(Exception):
    """A size that no tensor which enters a piece has."""


def _there(graph: Graph, node: Node, inputs: Sequence[Node], copies: dict[Node, Node]) -> Any:
    """``node`` in a piece: its copy; a size is read from one of the piece's inputs."""
    if node in copies or not is_size(node):
        return copies[node]
    value = node.meta["val"]
    if not isinstance(value, SYMBOLS):
        return value
    if (place := place_of(value, inputs)) is not None:
        read = (copies[place[0]], place[1])
        copies[node] = graph.call_function(torch.ops.aten.sym_size.int, read)
    elif all(is_size(n) for n in node.all_input_nodes):
        copies[node] = graph.node_copy(node, lambda n: _there(graph, n, inputs, copies))
    else:
        raise _NoSize(node.name)
    copies[node].meta["val"] = value
    return copies[node]


def _moves_memory(node: Node) -> bool:
    """Whether it writes a result of its own, other than a product's."""
    if node.target in (onednn.linear(), multiply):
        return False
    taken = {_storage(tensor) for n in node.all_input_nodes for tensor in tensors_of(n)}
    return any(_storage(tensor) not in taken for tensor in tensors_of(node))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _label(node: Node) -> str:
    """Equal for nodes that do the same to tensors of the same form."""
    return f"{node.target} {map_arg((node.args, node.kwargs), _outline)} {_outline(node)}"


def _form(graph: Graph) -> str:
    place = {node: f"%{index}" for index, node in enumerate(graph.nodes)}
    return "\n".join(
        _outline(node)
        if node.op == "placeholder"
        else f"{node.target} {map_arg((node.args, node.kwargs), place.__getitem__)}"
        for node in graph.nodes
    )


def _outline(node: Node) -> str:
    return ", ".join(
        f"{leaf.dtype} {tuple(leaf.shape)} {leaf.stride()}" if isinstance(leaf, Tensor)
        else str(leaf)
        for leaf in tree_leaves(node.meta["val"])
    )  # fmt: skip


def _call(graph: Graph, piece: Piece, name: str) -> None:
    """Put a call of the named piece in the place of its stretch."""
    inside = set(piece.nodes)
    # Not the inputs as they were: an earlier call may stand in for them by now.
    used = dict.fromkeys(n for node in piece.nodes for n in node.all_input_nodes if not is_size(n))
    with graph.inserting_after(piece.nodes[-1]):
        after = call = graph.call_module(name, tuple(n for n in used if n not in inside))
    for index, node in enumerate(piece.outputs):
        with graph.inserting_after(after):
            after = graph.call_function(operator.getitem, (call, index))
        after.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(after, delete_user_cb=lambda user: user not in inside)
    for node in reversed(piece.nodes):
        graph.erase_node(node)
