"""A lowered program written and read back is the same program, and loads without torch's export."""

from __future__ import annotations

import gc
import json
import math
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from supernet.backends.base import backend
from supernet.capture.subject import Capture, capture
from supernet.errors import BuildFailed
from supernet.fusion.kernels import onednn
from supernet.fusion.kernels.packing import Pack
from supernet.fusion.kernels.quantization import Rounding
from supernet.fusion.lowering.lowering import functional, lower
from supernet.fusion.lowering.shared_weights import held
from supernet.fusion.lowering.stored_graph import read_graph, write_graph
from tests.supernet.contract import MemorySource, make_spec
from tests.supernet.lowered import regions
from tests.supernet.models import Wrapped, noise, seeded

if (why := onednn.unavailable()) is not None:
    pytest.skip(why, allow_module_level=True)

ALL = ("qkv", "attention", "activation", "residual", "conv", "norm", "pointwise")


def stored(learned: Capture, folder: Path, kind: str | None = None) -> torch.fx.GraphModule:
    """`learned` lowered, written and read; asserts that the answers are the very same."""
    program = functional(learned.program)
    parts = regions(learned, program, *ALL)
    names = [node.name for node in program.graph.nodes if str(node.target) == "aten.linear.default"]
    rounded = {} if kind is None else {name: Rounding(kind, -4.0, 4.0) for name in names}
    lowered = lower(program, parts, rounded)
    write_graph(lowered.module, lowered.packs, folder)
    module = read_graph(folder)
    with torch.no_grad():
        for reference in learned.references:
            before, after = lowered.module(*reference.inputs), module(*reference.inputs)
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return module


@pytest.mark.parametrize("kind", [None, "bf16", "int8"])
def test_a_transformer_layer(block: Capture, tmp_path: Path, kind: str | None) -> None:
    if kind == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bfloat16 products")
    if kind == "int8" and (missing := onednn.without_int8()) is not None:
        pytest.skip(missing)
    stored(block, tmp_path, kind)


def convolutions(m: Any, x: Tensor) -> Tensor:
    y = torch.relu(m.norm(m.a(x)))
    return torch.relu(m.b(torch.nn.functional.pad(torch.tanh(y), (1, 1, 1, 1))) + y)


def odd_arguments(m: Any, x: Tensor) -> dict[str, Tensor]:
    rows, length = x.shape[0], x.shape[1]
    mask = torch.full((length, length), -math.inf, dtype=torch.float32, device="cpu").triu(1)
    y = m.a(x)[..., 1:9:2].to(torch.float64).to(torch.float32)
    z = torch.cat([y.reshape(rows * length, -1), y.reshape(rows * length, -1)], dim=-1)
    return {"z": z.view(rows, length, -1).mean(dim=(1, 2)), "y": (y @ y.mT + mask).softmax(-1)}


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (lambda: Wrapped(convolutions, a=nn.Conv2d(3, 6, 3, padding=1), b=nn.Conv2d(6, 6, 3),
                         norm=nn.BatchNorm2d(6)), (2, 3, 8, 8)),
        (lambda: Wrapped(odd_arguments, a=nn.Linear(8, 12)), (2, 5, 8)),
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True)), (2, 8)),
    ],
    ids=["convolutions", "arguments of many kinds", "in place"],
)  # fmt: skip
def test_models(model: Callable[[], nn.Module], example: tuple[int, ...], tmp_path: Path) -> None:
    stored(capture(seeded(model), (noise(*example),)), tmp_path)


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    def tied(m: Any, ids: Tensor) -> Tensor:
        return torch.nn.functional.linear(m.table(ids), m.table.weight, m.bias.bias)

    model = seeded(lambda: Wrapped(tied, table=nn.Embedding(1000, 16), bias=nn.Linear(1, 1000)))
    stored(capture(model, (torch.tensor([[1, 2, 3]]),)), tmp_path)
    size = (tmp_path / "weights.safetensors").stat().st_size
    assert 64_000 < size < 80_000


def test_a_function_nobody_knows_is_not_stored(tmp_path: Path) -> None:
    graph = torch.fx.Graph()
    graph.output((graph.call_function(len, (graph.placeholder("x"),)),))
    with pytest.raises(BuildFailed, match="must be a known operator"):
        write_graph(torch.fx.GraphModule({}, graph), {}, tmp_path)


@pytest.mark.parametrize(
    "target", ["os.system", "aten.linear", "aten.__class__.mro", "nowhere.x.y"]
)
def test_only_operators_are_looked_up(tmp_path: Path, block: Capture, target: str) -> None:
    stored(block, tmp_path)
    record = json.loads((tmp_path / "graph.json").read_text())
    index = next(i for i, node in enumerate(record["nodes"]) if node[0] == "call_function")
    record["nodes"][index][2] = target
    (tmp_path / "graph.json").write_text(json.dumps(record))
    with pytest.raises((ValueError, AttributeError)):
        read_graph(tmp_path)


def test_loading_needs_neither_export_nor_inductor(block: Capture, tmp_path: Path) -> None:
    spec = make_spec(block, "fused")
    backend("fused").build(MemorySource(block, tmp_path), spec, tmp_path)
    code = (
        "import sys, torch; before = set(sys.modules)\n"
        "from pathlib import Path\n"
        "from supernet.backends.fused import FusedBackend\n"
        f"plan = FusedBackend().load(Path({str(tmp_path)!r}), None)\n"
        "print([m for m in set(sys.modules) - before if m.startswith(('torch.export', "
        "'torch._inductor', 'torch._dynamo', 'networkx'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def weights(module: torch.fx.GraphModule) -> dict[str, Tensor]:
    return {**dict(module.named_buffers()), **dict(module.named_parameters())}


def test_plans_of_one_process_share_equal_weights(block: Capture, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("exact", "mixed")]
    for folder, kind in zip(folders, (None, "bf16"), strict=True):
        if kind == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            pytest.skip("this CPU has no bfloat16 products")
        folder.mkdir()
        stored(block, folder, kind)
    first, again, mixed = read_graph(folders[0]), read_graph(folders[0]), read_graph(folders[1])
    mine = weights(first)
    assert all(weights(again)[name] is tensor for name, tensor in mine.items())
    shared = {id(tensor) for tensor in mine.values()} & {id(t) for t in weights(mixed).values()}
    assert 0 < len(shared) < len(mine), "norms and biases, but no product"
    kept = [weakref.ref(tensor) for tensor in mine.values()]
    del mine, first, again, mixed
    gc.collect()
    assert not any(reference() is not None for reference in kept), "nobody holds them any more"


def test_equal_bytes_of_another_kind_are_not_shared() -> None:
    zeros = torch.zeros(4, 4)
    assert held(zeros) is held(torch.zeros(4, 4))
    assert held(zeros) is not held(torch.zeros(16))
    assert held(zeros) is not held(torch.zeros(4, 4, dtype=torch.int32))
    assert held(torch.tensor(0.0)).shape == ()
    packed = held(zeros, Pack("linear", zeros))
    assert packed is not held(zeros)
    assert packed is held(torch.zeros(4, 4), Pack("linear", zeros))


NODE = ["call_function", "add", "aten.add.Tensor", [], {"dict": {}}]
HOSTILE = {
    "a function that fetches any attribute": {2: "operator.attrgetter"},
    "a function that calls any method": {2: "operator.methodcaller"},
    "a function that calls what it is given": {2: "operator.call"},
    "an operator that reads any file": {2: "aten.from_file.default"},
    "an attribute of the operators": {2: "aten.__class__.__init__"},
    "an operator's packet": {2: "aten.add"},
    "a longer path": {2: "aten.add.Tensor.__call__"},
    "a call of a method": {0: "call_method", 2: "format"},
    "an attribute of the module": {0: "get_attr", 2: "forward.__globals__"},
    "a module that is no piece": {0: "call_module", 2: "forward"},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_graph_names_nothing_but_operators(block: Capture, tmp_path: Path, kind: str) -> None:
    stored(block, tmp_path)
    record = json.loads((tmp_path / "graph.json").read_text())
    node: list[Any] = list(NODE)
    for place, what in HOSTILE[kind].items():
        node[place] = what
    record["nodes"].insert(-1, node)
    (tmp_path / "graph.json").write_text(json.dumps(record))
    with pytest.raises((ValueError, AttributeError), match=r"must be|has no attribute"):
        read_graph(tmp_path)
