"""Stretches of a lowered program are compiled once per form, called per layer, and stay correct."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from supernet.backends.aoti import AotiBackend
from supernet.backends.base import backend
from supernet.capture.subject import Capture, capture
from supernet.errors import BuildFailed
from supernet.fidelity import error
from supernet.fusion.graph.partition import Partition
from supernet.fusion.kernels import onednn
from supernet.fusion.kernels.quantization import Rounding
from supernet.fusion.lowering import inductor
from supernet.fusion.lowering.lowering import Lowered, functional, lower
from supernet.fusion.lowering.stored_graph import read_graph
from supernet.fusion.lowering.subgraphs import Piece, pieces_of
from supernet.fusion.lowering.symbolic_shapes import is_size
from supernet.fusion.rules.layers import repeats
from supernet.plans import PlanSpec
from tests.supernet.contract import MemorySource, make_spec
from tests.supernet.lowered import regions
from tests.supernet.models import Attention, Wrapped, noise, seeded

if (why := onednn.unavailable()) is not None:
    pytest.skip(why, allow_module_level=True)

ALL = ("qkv", "attention", "activation", "residual", "conv", "norm", "pointwise")
needs_compiler = pytest.mark.skipif(AotiBackend().unavailable() is not None, reason="no compiler")


class Encoder(nn.Module):
    """Layers of one form that all look at the same mask, of numbers to add or of booleans."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.qkv = nn.ModuleList(nn.Linear(16, 48) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(16, 16) for _ in range(layers))
        self.norm = nn.ModuleList(nn.LayerNorm(16) for _ in range(layers))

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x, seen = self.embed(ids), mask[:, None, None, :]
        for qkv, out, norm in zip(self.qkv, self.out, self.norm, strict=True):
            q, k, v = (
                part.unflatten(-1, (2, 8)).transpose(1, 2) for part in qkv(x).chunk(3, dim=-1)
            )
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v, seen)
            x = norm(x + out(y.transpose(1, 2).flatten(2)))
        return x, x.mean(1)


def words(rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Numbers of words, and what masks the second half of the last row."""
    mask = torch.zeros(rows, length)
    mask[-1, (length + 1) // 2 :] = -torch.inf
    return torch.arange(rows * length).reshape(rows, length) % 40, mask


@pytest.fixture(scope="module")
def encoder() -> tuple[nn.Module, Capture]:
    model = seeded(lambda: Encoder(3))
    return model, capture(model, [words(2, 6), words(3, 9)])


def lowered_of(learned: Capture, rounded: dict[str, Rounding] | None = None) -> Lowered:
    program = functional(learned.program)
    return lower(program, regions(learned, program, *ALL), rounded or {})


def pieces(learned: Capture, rounded: dict[str, Rounding] | None = None) -> tuple[Piece, ...]:
    return pieces_of(lowered_of(learned, rounded))


def compiled(spec: PlanSpec) -> PlanSpec:
    return dataclasses.replace(spec, fusion=f"{spec.fusion}+compiled")


@needs_compiler
def test_a_compiled_plan_answers_at_every_shape(
    encoder: tuple[nn.Module, Capture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(inductor._OPTIONS, "aot_inductor.compile_wrapper_opt_level", "O0")
    model, learned = encoder
    spec = compiled(make_spec(learned, "fused"))
    backend("fused").build(MemorySource(learned, tmp_path), spec, tmp_path)
    record = json.loads((tmp_path / "graph.json").read_text())
    calls = [node[2] for node in record["nodes"] if node[0] == "call_module"]
    assert calls == ["piece_0"] * 3
    assert "3 stretches compiled, 1 of them different" in (tmp_path / "about.txt").read_text()
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    plan = backend("fused").load(tmp_path, spec)
    assert list(temporary.iterdir()) == [], "its pieces are loaded where they lie"
    for rows, length in ((2, 6), (1, 1), (1, 7), (5, 2), (4, 16)):
        given = words(rows, length)
        with torch.no_grad():
            assert error("relative_l2", plan.run(given), list(model(*given))) < 1e-5
    plan.close()
    shutil.rmtree(tmp_path / "pieces.pt2")
    (tmp_path / "pieces.pt2").write_bytes(b"no package")
    with pytest.raises(RuntimeError):
        read_graph(tmp_path)


def test_layers_of_one_form_are_one_piece(encoder: tuple[nn.Module, Capture]) -> None:
    _, learned = encoder
    layers = pieces(learned)
    assert len(layers) == 3
    assert len({piece.form for piece in layers}) == 1
    assert len(pieces(capture(seeded(lambda: Encoder(1)), words(2, 6)))) == 1  # nothing repeats


def test_a_mask_of_booleans_becomes_numbers_once() -> None:
    ids, mask = words(2, 6)
    first, *layers = pieces(capture(seeded(lambda: Encoder(3)), (ids, mask == 0)))
    assert [str(node.target) for node in first.nodes].count("aten.where.Scalar") == 1
    assert len(layers) == 3
    assert len({piece.form for piece in layers}) == 1


def test_pieces_are_legal_regions_of_what_was_lowered(encoder: tuple[nn.Module, Capture]) -> None:
    example = (torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1, 1, 1], [1, 1, 0]]))
    for learned in (encoder[1], capture(seeded(Attention), example)):
        lowered = lowered_of(learned)
        together = [[node.name for node in piece.nodes] for piece in pieces_of(lowered)]
        graph = nx.DiGraph()
        for node in lowered.module.graph.nodes:
            # Sizes of inputs are read again where they are needed.
            if not (is_size(node) and node.all_input_nodes[0].op == "placeholder"):
                graph.add_edges_from((n.name, node.name) for n in node.all_input_nodes)
        assert together
        Partition(graph, together)  # raises where a region would wait for itself


@given(st.lists(st.integers(0, 2), max_size=30), st.integers(0, 3), st.integers(1, 4))
def test_what_repeats_is_cut_into_equal_parts(noise: list[int], begin: int, times: int) -> None:
    labels = [*noise[:begin], *([3, 4, 5] * (times + 1)), *noise[begin:]]
    cuts = repeats(labels, [label == 4 for label in labels], [0] * (len(labels) + 1))
    parts = [labels[a:b] for a, b in itertools.pairwise(cuts)]
    assert len(parts) > 1
    assert all(part == parts[0] for part in parts)
    assert 4 in parts[0]
    assert not repeats(labels, [False] * len(labels), [0] * (len(labels) + 1))


def test_int8_products_stay_outside(encoder: tuple[nn.Module, Capture]) -> None:
    if (missing := onednn.without_int8()) is not None:
        pytest.skip(missing)
    _, learned = encoder
    program = functional(learned.program)
    linears = [n.name for n in program.graph.nodes if str(n.target) == "aten.linear.default"]
    found = pieces(learned, {name: Rounding("int8", -4.0, 4.0) for name in linears})
    targets = {str(node.target) for piece in found for node in piece.nodes}
    assert not any("qlinear" in target or "quantize" in target for target in targets)
    assert len({piece.form for piece in found}) < len(found)  # still shared between layers


def tied(m: Any, ids: Tensor) -> Tensor:
    x = torch.tanh(m.table(ids) * 2)
    return torch.softmax(torch.nn.functional.linear(x, m.table.weight) * 3, -1)


def test_tied_weights_are_two_inputs_of_pieces() -> None:
    learned = capture(
        seeded(lambda: Wrapped(tied, table=nn.Embedding(50, 16))), (torch.tensor([[1, 2, 3]]),)
    )
    (piece,) = pieces(learned)
    assert sum(node.op == "get_attr" for node in piece.inputs) == 2  # as it is, and packed


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), (2, 8)),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Softmax(1)), (2, 3, 8, 8)),
    ],
    ids=["products only", "convolutions"],
)
def test_a_model_without_pieces_says_so(
    model: Callable[[], nn.Module], example: tuple[int, ...], tmp_path: Path
) -> None:
    learned = capture(seeded(model), (noise(*example),))
    spec = compiled(make_spec(learned, "fused"))
    with pytest.raises(BuildFailed, match="nothing to compile"):
        backend("fused").build(MemorySource(learned, tmp_path), spec, tmp_path)


def test_without_a_compiler_the_build_fails_and_the_plain_plan_does_not(
    block: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "")
    spec = make_spec(block, "fused")
    with pytest.raises(BuildFailed, match=r"nothing can be compiled: no C\+\+ compiler"):
        backend("fused").build(MemorySource(block, tmp_path), compiled(spec), tmp_path)
    backend("fused").build(MemorySource(block, tmp_path), spec, tmp_path)
    assert not json.loads((tmp_path / "graph.json").read_text())["pieces"]
