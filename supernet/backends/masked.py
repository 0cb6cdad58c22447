"""Attention to nothing, made explicit for engines that answer it otherwise than torch.

Where a mask hides every key of a query, torch's scaled dot product attention gives 0. ONNX has a
softmax of nothing but infinities in its place: a mean of all values, or NaN, as the engine likes.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Graph, GraphModule, Node

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["with_hidden_rows"]

_ATTENTION = "scaled_dot_product_attention"


def with_hidden_rows(program: ExportedProgram) -> ExportedProgram:
    """The program with answers of 0 wherever attention sees no key; itself where no mask hides."""
    if not any(_mask_of(node) is not None for node in program.graph.nodes):
        return program
    graph = Graph()
    copied: dict[Node, Node] = {}
    graph.output(graph.graph_copy(program.graph, copied))
    signature = copy.deepcopy(program.graph_signature)
    seen: dict[Node, Node] = {}
    for node in list(graph.nodes):
        mask = _mask_of(node)
        if mask is not None:
            shown = _zeroed(graph, node, mask, seen)
            signature.replace_all_uses(node.name, shown.name)
    return _rebuilt(program, GraphModule(program.graph_module, graph), signature)


def _mask_of(node: Node) -> Node | None:
    """The mask of an attention."""
    target = node.target
    if (
        not isinstance(target, torch._ops.OpOverload)
        or target.overloadpacket.__name__ != _ATTENTION
    ):
        return None
    mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
    return mask if isinstance(mask, Node) else None


def _zeroed(graph: Graph, node: Node, mask: Node, seen: dict[Node, Node]) -> Node:
    """Attention's result where any key is seen, 0 elsewhere; layers share the looks at a mask."""
    aten = torch.ops.aten
    with graph.inserting_after(node):
        end = node
        if mask not in seen:
            kept = mask
            if mask.meta["val"].dtype is not torch.bool:
                kept = end = _called(graph, aten.ne.Scalar, (mask, -math.inf), end)
            seen[mask] = end = _called(graph, aten.any.dim, (kept, -1, True), end)
        shown = _called(graph, aten.where.ScalarOther, (seen[mask], node, 0.0), end)
    node.replace_all_uses_with(shown, delete_user_cb=lambda user: user is not shown)
    return shown


def _called(graph: Graph, target: Any, arguments: tuple[Any, ...], after: Node) -> Node:
    with graph.inserting_after(after):
        made = graph.call_function(target, arguments)
    values = [a.meta["val"] if isinstance(a, Node) else a for a in arguments]
    mode = next(v.fake_mode for v in values if hasattr(v, "fake_mode"))
    with mode:
        made.meta["val"] = target(*values)
    return made


def _rebuilt(program: ExportedProgram, module: GraphModule, signature: Any) -> ExportedProgram:
    module.meta.update(program.graph_module.meta)
    return torch.export.ExportedProgram(
        root=module,
        graph=module.graph,
        graph_signature=signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=program.constants,
    )
