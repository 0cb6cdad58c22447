"""Operators that a program calls and a library defines: a process must import it before it can run.

``torch.library`` keeps them by name; a process that reads the program from a file knows the names
and not who defined them.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from supernet.errors import OperatorMissing

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["custom_operators", "define", "read_operators", "write_operators"]

_FILE = "operators.json"
_TORCHS_OWN = frozenset({"aten", "prim", "prims", "quantized", "onednn", "mkldnn", "higher_order"})


def custom_operators(program: ExportedProgram) -> dict[str, str]:
    """The operators of others that the program calls, and the module that defines each."""
    import torch

    names = {
        node.target._schema.name
        for module in program.graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
        and node.target.namespace not in _TORCHS_OWN
    }
    found = {name: _module_of(name) for name in sorted(names)}
    return {name: module for name, module in found.items() if module is not None}


def _module_of(name: str) -> str | None:
    """Where an operator was defined; None where torch itself does, or nobody can tell."""
    import torch
    from torch._library.custom_ops import OPDEFS

    if (kept := OPDEFS.get(name)) is not None:
        module = str(kept._init_fn.__module__)
    else:
        told = re.search(r"^debug: registered at (.+):\d+", torch._C._dispatch_dump(name), re.M)
        path = told and told[1]
        # Of one defined in C++ the file says nothing; its library mostly bears its name.
        namespace = name.partition("::")[0]
        module = _module_at(path) or (namespace if namespace in sys.modules else "")
    return module if module and module.partition(".")[0] != "torch" else None


def _module_at(path: str | None) -> str:
    held = list(sys.modules.items())
    return next((name for name, one in held if path and getattr(one, "__file__", "") == path), "")


def define(operators: Mapping[str, str]) -> None:
    """Import the modules that define ``operators``; ``OperatorMissing`` where one cannot be."""
    for name, module in operators.items():
        if module == "__main__":
            raise OperatorMissing(
                f"it calls the operator {name}, which the main script defines; define it in a "
                "module of its own, which other processes can import"
            )
        try:
            import_module(module)
        except Exception as error:  # whatever the module's own code raises
            raise OperatorMissing(
                f"it calls the operator {name} of the module {module}, which cannot be imported "
                f"in another process: {type(error).__name__}: {error}"
            ) from error


def write_operators(operators: Mapping[str, str], folder: Path) -> None:
    """Leave word in an artifact of what must be defined before it is loaded."""
    if operators:
        (folder / _FILE).write_text(json.dumps(dict(operators)), encoding="utf-8")


def read_operators(folder: Path) -> dict[str, str]:
    """What ``write_operators`` left."""
    path = folder / _FILE
    if not path.exists():
        return {}
    return {str(k): str(v) for k, v in json.loads(path.read_text(encoding="utf-8")).items()}
