"""Lower regions to a program that runs them: what a region allows, kernels of ours and oneDNN's do.

Inside one region, linears that read the same value become one matrix product, an activation
moves into the product or convolution before it, and a batch norm into the convolution's weights.
Nothing crosses the border of a region; what has no fused kernel stays torch's own.

    program ─► weights bound ─► no-ops out ─► per region: merge, fold, fuse, pack ─► GraphModule
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import GraphModule, Node

from supernet.capture.recurrent import any_length
from supernet.errors import BuildFailed
from supernet.fusion.kernels.packing import Pack
from supernet.fusion.kernels.quantization import Rounding
from supernet.fusion.lowering.convolutions import is_convolution, lower_convolution, sum_in_place
from supernet.fusion.lowering.linear import (
    Rewrite,
    is_product,
    lower_product,
    merge_products,
    weight_of,
)

__all__ = ["Lowered", "bind", "drop_unused_tensors", "functional", "lower", "products"]

NOT_ROUNDED: Mapping[str, Rounding] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Lowered:
    """The program as one module of flat tensors, and what was done to which op.

    ``kernels``: of each fused kernel, the ops of the captured program that it stands for.
    ``packs``: what the packed tensors were made of, by name.
    """

    module: GraphModule
    kernels: tuple[tuple[str, ...], ...]
    packs: Mapping[str, Pack]


def functional(program: ExportedProgram) -> ExportedProgram:
    """The same program without in-place ops (``relu_``), which no region may hold."""
    mutates = any(
        node.op == "call_function"
        and getattr(getattr(node.target, "_schema", None), "is_mutable", False)
        for node in program.graph.nodes
    )
    if not mutates:
        return program
    with warnings.catch_warnings(), any_length():
        warnings.simplefilter("ignore")  # torch warns about its own pytree
        pure: ExportedProgram = program.run_decompositions({})
    return pure


def lower(
    program: ExportedProgram,
    regions: Sequence[Sequence[str]],
    rounded: Mapping[str, Rounding] = NOT_ROUNDED,
) -> Lowered:
    """``program`` with each region (names of its ops) on the fewest kernels.

    ``rounded``: the linears computed in a coarser precision; their inputs and weights are rounded
    (of fp16 the weights alone), sums are not. Weights that were packed are let go; ``program`` is
    not changed.
    """
    work = Rewrite(_bound(program), rounded)
    _drop_no_ops(work.module)
    for region in regions:
        _lower_region(work, [work.nodes[name] for name in region if name in work.nodes])
    work.module.graph.eliminate_dead_code()
    sum_in_place(work)
    work.module.delete_all_unused_submodules()
    drop_unused_tensors(work.module)
    work.module.recompile()
    return Lowered(work.module, tuple(work.kernels), work.packs)


def bind(program: ExportedProgram) -> Rewrite:
    """The program with its weights as attributes, nothing lowered."""
    return Rewrite(_bound(program))


def products(program: ExportedProgram) -> dict[str, Tensor]:
    """The linears that ``lower`` can put on a kernel, and the weight of each."""
    work = bind(program)
    return {node.name: weight_of(work, node) for node in work.graph.nodes if is_product(work, node)}


def _bound(program: ExportedProgram) -> GraphModule:
    """A copy in which weights are attributes, so that only the user's tensors are arguments."""
    module = copy.copy(program.graph_module)
    graph = copy.deepcopy(program.graph_module.graph)
    root: dict[str, Any] = dict(module.named_children())
    tensors: Mapping[str, Any] = {**program.constants, **program.state_dict}
    kinds = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    for node in list(graph.nodes):
        if node.op != "placeholder" or kinds[node.name].kind is InputKind.USER_INPUT:
            continue
        spec = kinds[node.name]
        held = tensors.get(spec.target)
        if not isinstance(held, Tensor):
            raise BuildFailed(
                f"the program must take tensors only, got {spec.kind} {spec.target!r}"
            )
        name = f"weight_{node.name}"
        root[name] = held.detach()
        with graph.inserting_before(node):
            weight = graph.get_attr(name)
        weight.meta = dict(node.meta)
        node.replace_all_uses_with(weight)
        graph.erase_node(node)
    return GraphModule(root, graph)


def _drop_no_ops(module: GraphModule) -> None:
    """Dropout outside training, and checks that the trace has made once for all.

    Views become reshapes: after q, k and v are one product each is a part of its rows, which a
    view may refuse to see another way.
    """
    for node in list(module.graph.nodes):
        target = str(node.target)
        if target == "aten.dropout.default" and node.args[2] is False:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
        elif target == "aten._assert_tensor_metadata.default":
            module.graph.erase_node(node)
        elif target == "aten.view.default":
            node.target = torch.ops.aten.reshape.default


def _lower_region(work: Rewrite, nodes: Sequence[Node]) -> None:
    inside = set(nodes)
    groups: dict[tuple[Any, Rounding | None], list[Node]] = {}
    for node in nodes:
        if is_product(work, node):
            groups.setdefault((node.args[0], work.rounded.get(node.name)), []).append(node)
        elif is_convolution(work, node):
            lower_convolution(work, node, inside)
    for linears in groups.values():
        if len(linears) == 1:
            lower_product(work, linears[0], inside)
        else:
            merge_products(work, linears)


def drop_unused_tensors(module: GraphModule) -> None:
    """Let go of the weights that no node asks for."""
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name, _ in [*module.named_buffers(), *module.named_parameters()]:
        if name not in used:
            delattr(module, name)
