"""Fusion: which operators of a captured program run as one, and what that saves.

Rooms, in the order they build on each other:

- `graph`: a program run without data, as operators with the bytes that flow between them; which
  sets of them may legally become one, what that saves, how a batch uses caches and memory.
- `rules`: which are worth it, by name.
- `kernels`: ours in C++, the door to oneDNN's, and weights as each reads them.
- `precision`: what may be rounded, and to what.
- `lowering`: regions onto kernels; what torch is left with, compiled once per form; a plan's files.
- `search`: which plans are worth building.
- `report`: what each region of a built plan runs on and saves, and its picture.

Names are imported at first use, because most of the rooms need torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supernet.fusion.graph.memory import FEATURES, MemoryPattern, extract_memory_pattern
    from supernet.fusion.graph.op_graph import Op, OpGraph, OpKind, TensorUse
    from supernet.fusion.graph.regions import Partition, Region, Regions
    from supernet.fusion.rules.rules import (
        RULES,
        FusionChoice,
        FusionRule,
        apply_fusion_rules,
        isomorphic,
    )

_HOMES = {
    "FEATURES": "graph.memory",
    "FusionChoice": "rules.rules",
    "FusionRule": "rules.rules",
    "MemoryPattern": "graph.memory",
    "Op": "graph.op_graph",
    "OpGraph": "graph.op_graph",
    "OpKind": "graph.op_graph",
    "Partition": "graph.regions",
    "RULES": "rules.rules",
    "Region": "graph.regions",
    "Regions": "graph.regions",
    "TensorUse": "graph.op_graph",
    "apply_fusion_rules": "rules.rules",
    "extract_memory_pattern": "graph.memory",
    "isomorphic": "rules.rules",
}

__all__ = [
    "FEATURES",
    "RULES",
    "FusionChoice",
    "FusionRule",
    "MemoryPattern",
    "Op",
    "OpGraph",
    "OpKind",
    "Partition",
    "Region",
    "Regions",
    "TensorUse",
    "apply_fusion_rules",
    "extract_memory_pattern",
    "isomorphic",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
