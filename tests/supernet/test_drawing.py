"""A layer in a picture: which one, what is told of its regions, and where boxes and lines go."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from profiler.shapes import Shape
from supernet.backends.base import backend
from supernet.capture.subject import Capture, capture
from supernet.fusion.graph.op_graph import OpGraph
from supernet.fusion.graph.regions import Regions
from supernet.fusion.kernels import onednn
from supernet.fusion.kernels.quantization import Rounding
from supernet.fusion.lowering.lowering import functional, lower
from supernet.fusion.report.drawing import draw
from supernet.fusion.report.layout import layered
from supernet.fusion.report.region_report import (
    Account,
    accounts,
    amount,
    flow_of,
    home,
    layer_to_draw,
    read,
    tally,
)
from supernet.fusion.rules.rules import FusionChoice, apply_fusion_rules
from tests.supernet.contract import MemorySource, make_spec
from tests.supernet.models import Wrapped, noise, seeded

RULES = FusionChoice(("qkv", "attention", "activation", "conv", "norm"))
PNG = b"\x89PNG\r\n\x1a\n"
needs_onednn = pytest.mark.skipif(
    onednn.unavailable() is not None, reason=str(onednn.unavailable())
)


class Block(nn.Module):
    """A transformer layer; its dropout, sizes and views are what a picture must put up with."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        heads = [f(x).view(rows, length, 2, -1).transpose(1, 2) for f in (self.q, self.k, self.v)]
        seen = torch.nn.functional.scaled_dot_product_attention(*heads)
        seen = seen.transpose(1, 2).reshape(rows, length, width)
        x = self.first(x + self.dropout(self.out(seen)))
        return self.second(x + self.down(torch.nn.functional.gelu(self.up(x))))


def stack(layers: int = 3) -> nn.Module:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return self.head(self.layers(self.inlet(x)))  # type: ignore[no-any-return, operator]

    layers_ = nn.Sequential(*(Block() for _ in range(layers)))
    return Wrapped(forward, inlet=nn.Linear(16, 16), layers=layers_, head=nn.Linear(16, 4))


@pytest.fixture(scope="module")
def learned() -> Capture:
    return capture(seeded(stack), (noise(2, 6, 16),))


@pytest.fixture(scope="module")
def found(learned: Capture) -> Regions:
    return regions_of(learned)


def regions_of(learned: Capture, shape: Shape = Shape(2, 6)) -> Regions:  # noqa: B008
    graph = OpGraph.of(functional(learned.program), learned.signature, shape)
    return apply_fusion_rules(graph, RULES)


def relabelled(found: Regions, layer: Callable[[str], str]) -> Regions:
    """The same regions of ops that say another module."""
    graph = found.graph.graph.copy()
    for _, data in graph.nodes(data=True):
        data["op"] = replace(data["op"], layer=layer(data["op"].layer))
    return Regions(OpGraph(graph, found.graph.shape, found.graph.outputs), found.regions)


# -- what a region is ---------------------------------------------------------------------------


def test_home_is_what_the_modules_have_in_common(found: Regions) -> None:
    by_rule = {region.rule: region for region in reversed(found.regions)}
    assert home(found.graph, by_rule["qkv"].ops) == "layers.0"
    assert home(found.graph, found.regions[-1].ops) == "head"
    assert home(found.graph, ()) == ""


def test_tally_begins_with_what_is_computed(found: Regions) -> None:
    attention = next(region for region in found.regions if region.rule == "attention")
    assert tally(found.graph, attention.ops) == (
        "scaled_dot_product_attention, view × 3, transpose × 4, reshape"
    )


@pytest.mark.parametrize(
    ("size", "told"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (2**20, "1 MiB")]
)
def test_amounts_have_a_fitting_unit(size: int, told: str) -> None:
    assert amount(size) == told


@needs_onednn
@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bfloat16 products"
)
def test_accounts_tell_kernels_from_what_torch_runs(learned: Capture, found: Regions) -> None:
    up = [n for n in found.graph.graph if found.graph.op(n).layer == "layers.0.up"]
    rounded = {name: Rounding("bf16") for name in up}
    lowered = lower(functional(learned.program), [r.ops for r in found.regions], rounded)
    told = accounts(found, lowered, rounded)
    assert [account.number for account in told] == list(range(1, len(found.regions) + 1))
    of = {
        rule: [a for a in told if a.region.rule == rule] for rule in ("qkv", "activation", "norm")
    }
    assert [a.runs_on for a in of["qkv"]] == ["oneDNN"] * 3
    assert [a.runs_on for a in of["activation"]] == ["oneDNN bf16", "evolve", "evolve"]
    without = accounts(found, lowered, rounded, has_own=False)
    assert {a.runs_on for a in without if a.kernels} == {"oneDNN", "oneDNN bf16"}
    assert [a.runs_on for a in of["norm"]] == ["torch × 2"] * 6
    hidden, wide = 2 * 6 * 16 * 4, 2 * 6 * 64 * 4
    assert all((a.bytes_saved, a.bytes_kept) == (wide, wide) for a in of["activation"])
    assert all((a.bytes_saved, a.bytes_kept) == (hidden, 0) for a in of["norm"])
    assert len({a.alike for a in of["activation"]}) == 1
    assert sum(len(a.kernels) for a in told) == len(lowered.kernels)


def test_runs_on_counts() -> None:
    kernels = (("a", "b"), ("c",), ("d",))
    one = Account(1, None, "", "", kernels, ("oneDNN", "oneDNN", "oneDNN int8"), ("e",), 0, 0)  # type: ignore[arg-type]
    assert one.runs_on == "oneDNN × 2, oneDNN int8, torch"
    assert replace(one, by_torch=(), compiled=("e", "f")).runs_on.endswith("int8, compiled × 2")
    assert replace(one, kernels=(), engines=(), by_torch=()).runs_on == "–"


@needs_onednn
def test_stored_regions_are_read_with_their_rules(learned: Capture, tmp_path: Path) -> None:
    spec = make_spec(learned, "fused")
    backend("fused").build(MemorySource(learned, tmp_path), spec, tmp_path)
    regions, told = read(tmp_path, learned.program, learned.signature, spec.fusion, Shape(2, 6))
    assert len(told) == len(regions.regions)
    assert {r.rule for r in regions.regions} == {"none", "qkv", "attention", "activation", "norm"}
    how = json.loads((tmp_path / "regions.json").read_text())
    left = [name for account in told for name in account.by_torch]
    (tmp_path / "regions.json").write_text(json.dumps({**how, "compiled": [left[:1], left[1:2]]}))
    fusion = f"{spec.fusion}+compiled"
    _, told = read(tmp_path, learned.program, learned.signature, fusion, Shape(2, 6))
    assert [name for account in told for name in account.compiled] == left[:2]
    assert [name for account in told for name in account.by_torch] == left[2:]
    pair = how["regions"].index(next(ops for ops in how["regions"] if len(ops) == 2))
    how["regions"][pair : pair + 1] = [[name] for name in how["regions"][pair]]
    qkv = next(i for i, ops in enumerate(how["regions"]) if len(ops) == 3)
    how["regions"][qkv : qkv + 1] = [how["regions"][qkv][:2], how["regions"][qkv][2:]]
    (tmp_path / "regions.json").write_text(json.dumps(how))
    regions, _ = read(tmp_path, learned.program, learned.signature, spec.fusion, Shape(2, 6))
    assert [len(r.ops) for r in regions.regions if r.rule == "unknown"] == [2]


# -- which layer --------------------------------------------------------------------------------


def test_the_layer_drawn_is_one_that_repeats(found: Regions) -> None:
    path, chosen = layer_to_draw(found)
    assert path == "layers.0"
    rules = [found.regions[i].rule for i in chosen]
    assert rules == ["qkv", "attention", "none", "norm", "activation", "none", "norm"]
    assert all(home(found.graph, found.regions[i].ops).startswith("layers.0") for i in chosen)


def test_a_small_model_is_drawn_whole() -> None:
    small = regions_of(capture(seeded(lambda: stack(1)), (noise(2, 6, 16),)))
    assert layer_to_draw(small) == ("", tuple(range(len(small.regions))))


def test_without_repeats_a_module_that_fits_is_drawn(found: Regions) -> None:
    named = relabelled(found, lambda layer: layer.replace("0", "zero").replace("1", "one"))
    path, chosen = layer_to_draw(named)
    assert path == "layers.zero"
    assert 0 < sum(len(named.regions[i].ops) for i in chosen) < 40


def test_of_a_flat_graph_the_beginning_is_drawn(found: Regions) -> None:
    path, chosen = layer_to_draw(relabelled(found, lambda layer: ""))
    assert path == ""
    assert list(chosen) == list(range(len(chosen)))
    assert 30 < sum(len(found.regions[i].ops) for i in chosen) < 40


def test_what_comes_from_outside_and_goes_there_is_in_the_flow(found: Regions) -> None:
    _, chosen = layer_to_draw(found)
    of = {name: str(i) for i in chosen for name in found.regions[i].ops}
    flow = flow_of(found, chosen, of.__getitem__)
    outside = sorted(name for name in flow if " " in name)
    assert [name.split(" ")[0] for name in outside] == ["from", "to"]
    assert nx.is_directed_acyclic_graph(flow)
    qkv, attention = (str(i) for i in chosen[:2])
    assert flow.edges[qkv, attention]["bytes"] == 3 * 2 * 6 * 16 * 4
    assert set(flow.succ[outside[0]]) == {qkv, str(chosen[3])}


# -- where things go ----------------------------------------------------------------------------


@st.composite
def flows(draw: st.DrawFn) -> nx.DiGraph:
    count = draw(st.integers(1, 12))
    pairs = list(combinations(range(count), 2)) or [(0, 0)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=3 * count))
    graph = nx.DiGraph()
    graph.add_nodes_from(f"n{i}" for i in range(count))
    graph.add_edges_from((f"n{a}", f"n{b}") for a, b in edges if a != b)
    return graph


@given(flows(), st.lists(st.floats(0.2, 3.0), min_size=12, max_size=12))
@settings(max_examples=60, deadline=None)
def test_boxes_never_overlap_and_lines_go_down_between_them(
    flow: nx.DiGraph, widths: list[float]
) -> None:
    sizes = {name: (width, 0.3) for name, width in zip(flow, widths, strict=False)}
    laid = layered(flow, sizes)
    half = {name: (w / 2, h / 2) for name, (w, h) in sizes.items()}
    for a, b in combinations(flow, 2):
        (ax, ay), (bx, by) = laid.places[a], laid.places[b]
        apart_x = abs(ax - bx) - half[a][0] - half[b][0]
        assert max(apart_x, abs(ay - by) - half[a][1] - half[b][1]) > 0.1
    for name, (x, y) in laid.places.items():
        assert -1e-6 <= x - half[name][0] <= x + half[name][0] <= laid.width + 1e-6
        assert -1e-6 <= y - half[name][1] <= y + half[name][1] <= laid.height + 1e-6
    assert all(laid.places[a][1] < laid.places[b][1] for a, b in flow.edges)
    for (x, top), (same, bottom) in laid.bends.values():
        assert x == same
        for name, (at, y) in laid.places.items():
            beside = abs(at - x) >= half[name][0] + 0.1
            assert beside or y < top or y > bottom
    assert laid.stretched(99.0).height == pytest.approx(99.0)


def test_a_shortcut_passes_beside_and_the_trunk_stays_straight() -> None:
    flow = nx.DiGraph([("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")])
    laid = layered(flow, dict.fromkeys(flow, (1.0, 0.3)))
    assert len({x for x, _ in laid.places.values()}) == 1
    assert list(laid.bends) == [("a", "d")]


def test_nothing_is_laid_out_of_nothing() -> None:
    assert layered(nx.DiGraph(), {}).stretched(3.0).height == 0.0


# -- the picture --------------------------------------------------------------------------------


def test_the_picture_is_a_png_of_some_size(found: Regions, tmp_path: Path) -> None:
    out = draw(found, {0: "oneDNN"}, tmp_path / "layer.png", title="a plan")
    data = out.read_bytes()
    assert data.startswith(PNG)
    assert len(data) > 30_000
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert width > 800
    assert height > 1200


def test_names_are_drawn_as_they_are(found: Regions, tmp_path: Path) -> None:
    odd = relabelled(found, lambda layer: layer.replace("layers", "$\\frac{\x1b[31m 層"))
    assert draw(odd, {}, tmp_path / "odd.png", title="$x").stat().st_size > 30_000


def test_a_picture_needs_a_place_it_can_write(found: Regions, tmp_path: Path) -> None:
    for name in ("missing/x.png", "x.unknown"):
        with pytest.raises(ValueError, match="plot file must be one that can be written, got"):
            draw(found, {}, tmp_path / name, title="x")


def test_without_matplotlib_the_remedy_is_named(
    found: Regions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'evolve-runtime\[plot\]'"):
        draw(found, {}, tmp_path / "x.png", title="x")
