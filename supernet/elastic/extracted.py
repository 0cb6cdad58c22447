"""A sub-network on its own: a plain module that can be saved, read back and exported again."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from supernet.capture.recurrent import any_length
from supernet.elastic.axes.tracing import copied
from supernet.elastic.subnet import SubnetSpec
from supernet.fusion.lowering.stored_graph import read_graph, write_graph
from supernet.operators import define
from supernet.signature import Signature

__all__ = ["Subnet"]

_RECORD = "subnet.json"
_SCHEMA = 1


@dataclass(frozen=True, slots=True, eq=False)
class Subnet:
    """What one spec makes of a model.

    `module` takes the signature's flat tensors and gives a tuple of them; its weights bear the
    names of the user's model. `operators`: those that a library defines, and in which module.
    """

    spec: SubnetSpec
    signature: Signature
    module: fx.GraphModule
    operators: dict[str, str]

    def export(self) -> ExportedProgram:
        """The module traced again, rows and length free where the signature has them."""
        rows, length = 2, max(3, self.signature.min_length)
        inputs, free = [], []
        for spec in self.signature.inputs:
            shape = spec.shape(rows, length)
            inputs.append(torch.zeros(shape, dtype=getattr(torch, spec.dtype)))
            free.append({i: Dim.AUTO for i, d in enumerate(spec.dims) if isinstance(d, str)})
        with torch.no_grad(), any_length():
            return torch.export.export(
                _Flat(self.module), tuple(inputs), dynamic_shapes=(tuple(free),)
            )

    def save(self, folder: Path) -> None:
        """Write it into a folder: a graph and a record in JSON, the weights as safetensors.

        Raises `BuildFailed` for what cannot be written: control flow, foreign functions.
        """
        folder.mkdir(parents=True, exist_ok=True)
        flat, names = _with_flat_names(self.module)
        write_graph(flat, {}, folder)
        record = {
            "v": _SCHEMA,
            "spec": self.spec.to_json(),
            "signature": self.signature.to_json(),
            "weights": names,
            "parameters": [n for n, _ in self.module.named_parameters(remove_duplicate=False)],
            "operators": self.operators,
        }
        (folder / _RECORD).write_text(json.dumps(record), encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> Subnet:
        """What ``save`` wrote; needs no class of the user's model."""
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        if record.get("v") != _SCHEMA:
            raise ValueError(f"the schema of {_RECORD} must be {_SCHEMA}, got {record.get('v')!r}")
        define(record["operators"])
        module = _with_names(read_graph(folder), record["weights"], set(record["parameters"]))
        return Subnet(
            SubnetSpec.from_json(record["spec"]),
            Signature.from_json(record["signature"]),
            module,
            dict(record["operators"]),
        )


class _Flat(nn.Module):
    """Any number of flat tensors, as the trace takes them."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.model = module
        self.eval()

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(*leaves))


def _with_flat_names(module: fx.GraphModule) -> tuple[fx.GraphModule, dict[str, str]]:
    """The same with weights as attributes of its own, and what each is called in the model."""
    graph = copy.deepcopy(module.graph)
    root: dict[str, Any] = {}
    names: dict[str, str] = {}
    for index, node in enumerate(graph.find_nodes(op="get_attr")):
        found: Any = module
        for part in str(node.target).split("."):
            found = getattr(found, part)
        flat = f"weight_{index}"
        root[flat] = found.detach() if isinstance(found, Tensor) else found
        names[flat] = str(node.target)
        node.target = flat
    return fx.GraphModule(root, graph), names


def _with_names(
    flat: fx.GraphModule, names: dict[str, str], parameters: set[str]
) -> fx.GraphModule:
    held: dict[str, Tensor] = {}
    for node in flat.graph.find_nodes(op="get_attr"):
        name = names[str(node.target)]
        held[name] = getattr(flat, str(node.target))
        node.target = name
    root: dict[str, Any] = copied(held, parameters)
    module = fx.GraphModule(root, flat.graph)
    module.eval()
    return module
