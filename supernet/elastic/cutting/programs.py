"""A narrowed graph as an exported program with smaller weights, and as a plain module."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputSpec,
    TensorArgument,
)
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from profiler.flops import flops_per_row
from profiler.shapes import Shape
from supernet.elastic.axes.tracing import copied, parameters_of, weight_name
from supernet.elastic.cutting.narrowing import Narrowed
from supernet.signature import TensorSpec

__all__ = ["assemble", "module_of", "products"]


def assemble(
    program: ExportedProgram, narrowed: Narrowed, weights: Mapping[str, Tensor]
) -> ExportedProgram:
    """The program of a sub-network: ``program`` with this graph and these weights, by name.

    Takes and gives what ``program`` does, for the same free sizes.
    """
    graph = copy.deepcopy(narrowed.graph)
    specs = _input_specs(program, graph, narrowed.names)
    state: dict[str, Any] = {}
    constants: dict[str, Any] = dict(program.constants)
    for spec in program.graph_signature.input_specs:
        if weight_name(spec) is not None and spec.kind is not InputKind.PARAMETER:
            constants.pop(spec.target or "", None)
    own = _owned(program, narrowed, weights)
    for spec in specs:
        name = weight_name(spec)
        if name is None or spec.target is None:
            continue
        persistent = spec.kind is InputKind.PARAMETER or spec.target in program.state_dict
        (state if persistent else constants)[spec.target] = own[name]
    module = fx.GraphModule(program.graph_module, graph)
    _infer_shapes(module, specs, {**constants, **state})
    return ExportedProgram(
        root=module,
        graph=graph,
        graph_signature=ExportGraphSignature(specs, _output_specs(program, graph)),
        state_dict=state,
        range_constraints=dict(program.range_constraints),
        module_call_graph=list(program.module_call_graph[:1]),
        example_inputs=program.example_inputs,
        constants=constants,
        verifiers=program.verifiers,
    )


def _input_specs(
    program: ExportedProgram, graph: fx.Graph, names: Mapping[str, str]
) -> list[InputSpec]:
    known = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    found = []
    for node in graph.find_nodes(op="placeholder"):
        new = InputSpec(
            InputKind.PARAMETER, TensorArgument(node.name), f"model.{names.get(node.name)}"
        )
        found.append(known.get(node.name, new))
    return found


def _output_specs(program: ExportedProgram, graph: fx.Graph) -> list[OutputSpec]:
    results: Any = graph.output_node().args[0]
    found = []
    for spec, result in zip(program.graph_signature.output_specs, results, strict=True):
        named = isinstance(result, fx.Node) and isinstance(spec.arg, TensorArgument)
        arg = TensorArgument(name=result.name) if named else spec.arg
        found.append(OutputSpec(spec.kind, arg, spec.target))
    return found


def _infer_shapes(
    module: fx.GraphModule, specs: list[InputSpec], weights: Mapping[str, Tensor]
) -> None:
    """What every node is now, with the sizes that stayed free still free."""
    nodes = module.graph.find_nodes(op="placeholder")
    fakes = [node.meta.get("val") for node in nodes]
    mode = next(fake.fake_mode for fake in fakes if hasattr(fake, "fake_mode"))
    values = [
        fake if weight_name(spec) is None else _fake(mode, weights[spec.target or ""])
        for fake, spec in zip(fakes, specs, strict=True)
    ]
    with torch.no_grad(), enable_python_dispatcher():
        FakeTensorProp(module, mode).propagate_dont_convert_inputs(*values)


def _fake(mode: Any, weight: Tensor) -> Tensor:
    made: Tensor = mode.from_tensor(weight, static_shapes=True)
    return made


def products(
    program: ExportedProgram,
    narrowed: Narrowed,
    weights: Mapping[str, Tensor],
    inputs: Sequence[TensorSpec],
    shape: Shape,
) -> int:
    """FLOPs of a sub-network's products for one batch, counted without computing anything."""
    graph = fx.GraphModule(program.graph_module, narrowed.graph)
    mode = FakeTensorMode()
    held = [mode.from_tensor(weights[name]) for name in narrowed.names.values()]
    with mode:
        given = [
            torch.empty(spec.shape(shape.rows, shape.length), dtype=getattr(torch, spec.dtype))
            for spec in inputs
        ]
        return round(flops_per_row(graph, (*held, *given), rows=1))


def module_of(
    program: ExportedProgram, narrowed: Narrowed, weights: Mapping[str, Tensor]
) -> fx.GraphModule:
    """A sub-network as a plain module: flat tensors in the signature's order, and a tuple back.

    Parameters and buffers bear the names that the user's model gave them, and are copies.
    """
    graph = copy.deepcopy(narrowed.graph)
    own = _owned(program, narrowed, weights)
    root: dict[str, Any] = dict(program.graph_module.named_children())
    for node in graph.find_nodes(op="placeholder"):
        name = narrowed.names.get(node.name)
        if name is None:
            continue
        root[name] = own[name]
        with graph.inserting_before(node):
            held = graph.get_attr(name)
        held.meta = dict(node.meta)
        node.replace_all_uses_with(held)
        graph.erase_node(node)
    module = fx.GraphModule(root, graph)
    module.eval()
    return module


def _owned(
    program: ExportedProgram, narrowed: Narrowed, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Copies of a sub-network's weights; what the original does not have is a parameter."""
    used = list(narrowed.names.values())
    known = {weight_name(spec) for spec in program.graph_signature.input_specs}
    parameters = parameters_of(program) | {name for name in used if name not in known}
    return copied({name: weights[name] for name in used}, parameters)
