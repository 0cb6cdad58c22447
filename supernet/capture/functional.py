"""A program whose nodes are values: without operators that write into a tensor.

Making it is a second trace, seconds for a large model, and several analyses want it.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from supernet.capture.recurrent import any_length

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["functional"]

_made: WeakKeyDictionary[ExportedProgram, ExportedProgram] = WeakKeyDictionary()


def functional(program: ExportedProgram) -> ExportedProgram:
    """The same program, or one that does the same without in-place operators, made once."""
    if not any(_mutates(node) for node in _nodes(program)):
        return program
    if program not in _made:
        with warnings.catch_warnings(), any_length():
            warnings.simplefilter("ignore")  # torch's own deprecations
            _made[program] = program.run_decompositions({})
    return _made[program]


def _nodes(program: ExportedProgram) -> list[torch.fx.Node]:
    modules = program.graph_module.modules()
    graphs = [module.graph for module in modules if isinstance(module, torch.fx.GraphModule)]
    return [node for graph in graphs for node in graph.nodes]


def _mutates(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)
