"""A lowered program as files: a graph in JSON, its weights as safetensors, packed when read.

Reading it back needs none of torch's export machinery, which takes two seconds and 90 MiB in every
worker that imports it. The files come from a cache whose hashes were checked; still nothing in
them is code: an operator is looked up by name, a function only among those listed here. A call of
a compiled piece names one in the package beside them.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from supernet.errors import BuildFailed
from supernet.fusion.kernels import attention, native, product, winograd
from supernet.fusion.kernels.packing import Pack
from supernet.fusion.kernels.quantization import quantize
from supernet.fusion.lowering.compiled_package import load_pieces
from supernet.fusion.lowering.shared_weights import held

__all__ = ["read_graph", "write_graph"]

_GRAPH, _WEIGHTS = "graph.json", "weights.safetensors"
_SYMBOLIC = ("sym_float", "sym_int", "sym_ite", "sym_max", "sym_min", "sym_not")
# Of sizes; `operator` also has functions that call whatever they are told to.
_ARITHMETIC = """abs add and_ eq floordiv ge getitem gt invert le lshift lt mod mul ne neg not_ or_
    pos pow rshift sub truediv xor"""
_FORBIDDEN = ("aten.from_file",)  # reads any file
_NODES = ("placeholder", "get_attr", "call_function", "call_module", "output")
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{f"operator.{name}": getattr(operator, name) for name in _ARITHMETIC.split()},
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc")},
    **{f"torch.{name}": getattr(torch, name) for name in _SYMBOLIC},
    "attend": attention.attend,
    "convolve": winograd.convolve,
    "multiply": product.multiply,
    "quantize": quantize,
}
_NAMES = {function: name for name, function in _FUNCTIONS.items()}
_BY_KERNELS = (attention.attend, product.multiply, winograd.convolve)
_KINDS: tuple[type[Any], ...] = (torch.dtype, torch.layout, torch.memory_format)


def write_graph(module: GraphModule, packs: Mapping[str, Pack], folder: Path) -> None:
    """Write ``module`` into ``folder``; ``packs``: what its packed tensors were made of.

    Raises `BuildFailed` where it holds what cannot be written (control flow, foreign functions).
    """
    from safetensors.torch import save_file

    stored: dict[str, Tensor] = {}
    names: dict[tuple[Any, ...], str] = {}  # one tensor under several names is stored once
    held: dict[str, str] = {}
    nodes = []
    for node in module.graph.nodes:
        if node.op == "get_attr":
            name = str(node.target)
            weight = packs[name].weight if name in packs else getattr(module, name)
            if not isinstance(weight, Tensor):
                raise BuildFailed(f"{node.name} must be a tensor to be stored, got control flow")
            key = (weight.data_ptr(), weight.shape, weight.stride(), weight.dtype)
            held[name] = names.setdefault(key, name)
            stored.setdefault(held[name], weight.detach().contiguous().clone())
        target = _target(node) if node.op == "call_function" else str(node.target)
        given = [_encode(list(node.args)), _encode(dict(node.kwargs))]
        nodes.append([node.op, node.name, target, *given])
    packed = {name: [packs[name].kind, list(packs[name].where)] for name in held if name in packs}
    pieces = sorted({str(node.target) for node in module.graph.find_nodes(op="call_module")})
    ours = any(node.target in _BY_KERNELS for node in module.graph.nodes)
    brings = ours and native.kernels() is not None
    if brings:
        native.write(folder)
    record = {"nodes": nodes, "held": held, "packed": packed, "pieces": pieces, "kernels": brings}
    (folder / _GRAPH).write_text(json.dumps(record), encoding="utf-8")
    save_file(stored, str(folder / _WEIGHTS))


def read_graph(folder: Path) -> GraphModule:
    """What ``write_graph`` wrote, with its weights packed for this machine.

    Weights that another plan of this process holds already are shared with it.
    """
    from safetensors.torch import load_file

    record = json.loads((folder / _GRAPH).read_text(encoding="utf-8"))
    if record["kernels"]:
        native.load(folder)
    stored = load_file(str(folder / _WEIGHTS))
    last = {place: name for name, place in record["held"].items()}
    root: dict[str, Any] = {}
    for name, place in record["held"].items():
        weight = stored.pop(place) if last[place] == name else stored[place]
        kind, where = record["packed"].get(name, (None, ()))
        root[name] = held(weight, Pack(kind, weight, tuple(where)) if kind else None)
    root.update(load_pieces(folder, record["pieces"]))
    graph, nodes = Graph(), dict[str, Node]()
    for op, name, target, args, kwargs in record["nodes"]:
        if op not in _NODES or (op in ("get_attr", "call_module") and target not in root):
            raise ValueError(f"node must be one that is written here, got {op} of {target!r}")
        what = _function(target) if op == "call_function" else target
        arguments = tuple(_decode(args, nodes)), _decode(kwargs, nodes)
        nodes[name] = graph.create_node(op, what, *arguments, name=name)
    return GraphModule(root, graph)


def _target(node: Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target)
    if node.target not in _NAMES:
        raise BuildFailed(f"{node.name} must be a known operator to be stored, got {node.target}")
    return _NAMES[node.target]


def _function(name: str) -> Callable[..., Any]:
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    found: Any = torch.ops
    parts = name.split(".")
    if len(parts) == 3 and all(part.isidentifier() for part in parts):
        for part in parts:
            found = getattr(found, part)
    if not isinstance(found, torch._ops.OpOverload) or name.startswith(_FORBIDDEN):
        raise ValueError(f"target must be an operator of torch, got {name!r}")
    return found


def _encode(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, tuple):
        return {"tuple": [_encode(part) for part in value]}
    if isinstance(value, list):
        return [_encode(part) for part in value]
    if isinstance(value, dict):
        return {"dict": {str(key): _encode(part) for key, part in value.items()}}
    if isinstance(value, slice):
        return {"slice": [_encode(part) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, _KINDS):
        return {"torch": str(value).removeprefix("torch.")}
    raise BuildFailed(f"an argument of type {type(value).__name__} cannot be stored")


def _decode(value: Any, nodes: Mapping[str, Node]) -> Any:
    if isinstance(value, list):
        return [_decode(part, nodes) for part in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "node":
        return nodes[held]
    if kind == "float":
        return float(held)
    if kind == "tuple":
        return tuple(_decode(part, nodes) for part in held)
    if kind == "dict":
        return {key: _decode(part, nodes) for key, part in held.items()}
    if kind == "slice":
        return slice(*(_decode(part, nodes) for part in held))
    if kind == "device":
        return torch.device(held)
    found = getattr(torch, held)
    if not isinstance(found, _KINDS):
        raise ValueError(f"argument must be a dtype, layout or memory format, got {held!r}")
    return found
