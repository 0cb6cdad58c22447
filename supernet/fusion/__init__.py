"""Which operators of a captured program run as one, and what that saves.

Rooms, in the order they build on each other:

- `rehearsal`: a program run without data, for its sizes and views. `work`: what one operator does:
  kind, FLOPs, effects. `graph`: all of a program's, with the bytes that flow between them.
- `memory`: how a batch uses the caches and the memory of one machine.
- `partition`: which sets of operators may legally become one. `regions`: what that saves.
- `matching`, `patterns`, `layers`: which are worth it. `rules`: all of them, by name.
- `onednn`: the door to its kernels. `kernels`, `convolutions`, `lowering`: regions onto them.
- `product`, `attention`, `winograd`: kernels of ours in C++ in the place of torch's and oneDNN's.
  `native`: how they are compiled and loaded. `packing`: weights as each kernel reads them.
- `rounding`, `emulation`, `sensitivity`, `mixing`: what may be rounded, and to what.
- `sizes`, `pieces`, `inductor`: what torch is left with, compiled once per form. `package`: loaded.
- `building`, `stored_graph`: a plan's files. `search`: which plans are worth building.
- `account`: what each region of a built plan runs on and saves. `layout`, `drawing`: its picture.

Names are imported at first use, because most of the rooms need torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supernet.fusion.graph import Op, OpGraph, OpKind, TensorUse
    from supernet.fusion.memory import FEATURES, MemoryPattern, extract_memory_pattern
    from supernet.fusion.regions import Partition, Region, Regions
    from supernet.fusion.rules import (
        RULES,
        FusionChoice,
        FusionRule,
        apply_fusion_rules,
        isomorphic,
    )

_HOMES = {
    "FEATURES": "memory",
    "FusionChoice": "rules",
    "FusionRule": "rules",
    "MemoryPattern": "memory",
    "Op": "graph",
    "OpGraph": "graph",
    "OpKind": "graph",
    "Partition": "regions",
    "RULES": "rules",
    "Region": "regions",
    "Regions": "regions",
    "TensorUse": "graph",
    "apply_fusion_rules": "rules",
    "extract_memory_pattern": "memory",
    "isomorphic": "rules",
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
