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

from typing import TYPE_CHECKING

from profiler.lazy import lazy_exports

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
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "graph.memory": "FEATURES MemoryPattern extract_memory_pattern",
            "graph.op_graph": "Op OpGraph OpKind TensorUse",
            "graph.regions": "Partition Region Regions",
            "rules.rules": "FusionChoice FusionRule RULES apply_fusion_rules isomorphic",
        },
    )

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
