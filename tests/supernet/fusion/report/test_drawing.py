"""A layer in a picture: which one, what is told of its regions, and the graph that is written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import networkx as nx
import pytest
import torch
from torch import Tensor, nn

from profiler.shapes import Shape
from supernet.backends.base import backend
from supernet.capture.subject import Capture, capture
from supernet.fusion.graph.matching import is_size
from supernet.fusion.graph.op_graph import OpGraph
from supernet.fusion.graph.regions import Regions
from supernet.fusion.kernels import onednn
from supernet.fusion.kernels.quantization import Rounding
from supernet.fusion.lowering.lowering import functional, lower
from supernet.fusion.report.drawing import draw
from supernet.fusion.report.region_report import (
    Account,
    accounts,
    amount,
    flow_of,
    home,
    layer_to_draw,
    op_counts,
    read,
)
from supernet.fusion.rules.rules import FusionChoice, apply_fusion_rules
from tests.supernet.contract import MemorySource, make_spec
from tests.supernet.models import Wrapped, noise, seeded

RULES = FusionChoice(("qkv", "attention", "activation", "conv", "norm"))
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
    assert op_counts(found.graph, attention.ops) == (
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


# -- the picture --------------------------------------------------------------------------------

DRAWINGS = ("x.mmd", "x.dot", "x.gv")


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_shows_every_op_and_every_region(
    found: Regions, tmp_path: Path, name: str
) -> None:
    out = draw(found, {0: "nothing of this layer", 2: "oneDNN"}, tmp_path / name, title="a plan")
    told = out.read_text(encoding="utf-8")
    _, chosen = layer_to_draw(found)
    ops = [n for i in chosen for n in found.regions[i].ops if not is_size(found.graph.op(n))]
    boxes = re.findall(r"^ +n(\d)_\d+ ?\[", told, re.MULTILINE)
    outside = 2  # the value it takes, and whoever takes its own
    assert (boxes.count("0"), boxes.count("1")) == (len(ops) + outside, len(chosen) + outside)
    arrows = re.findall(r"(n\d_\d+) --?>(?:\|.*\|)? (n\d_\d+)", told)
    assert len(arrows) == sum(
        flow_of(found, chosen, place).number_of_edges()
        for place in (str, {n: str(i) for i in chosen for n in found.regions[i].ops}.__getitem__)
    )
    assert "Layer layers.0 (a plan, at 2 × 6)" in told
    assert "oneDNN" in told
    assert "nothing of this layer" not in told
    assert told.count("scaled_dot_product_attention") == 2
    assert told.count("qkv") == 1


@pytest.mark.parametrize("name", DRAWINGS)
def test_what_a_model_calls_its_modules_stays_text(
    found: Regions, tmp_path: Path, name: str
) -> None:
    odd = relabelled(found, lambda layer: layer.replace("layers", '"];\x1b[31m\\n<b>#`$层'))
    told = draw(odd, {}, tmp_path / name, title="x").read_text(encoding="utf-8")
    kept = {
        ".mmd": "#34;#93;#59;#63;#91;31m#92;n#60;b#62;#35;#96;#36;层.0",
        ".dot": '\\"];?[31m\\\\n<b>#`$层.0',
    }
    assert kept.get(Path(name).suffix, kept[".dot"]) in told
    assert "\x1b" not in told


def graphviz(folder: Path, script: str) -> str:
    """A search path with a `dot` of this shell script alone."""
    dot = folder / "bin" / "dot"
    dot.parent.mkdir()
    dot.write_text(f"#!/bin/sh\n{script}\n")
    dot.chmod(0o700)
    return str(dot.parent)


def test_graphviz_draws_what_is_no_text(
    found: Regions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", graphviz(tmp_path, 'echo "$@"; while read l; do echo "$l"; done'))
    kind, *lines = draw(found, {}, tmp_path / "x.svg", title="x").read_text().splitlines()
    assert (kind, lines[0], lines[-1]) == ("-Tsvg", "digraph {", "}")


def test_without_graphviz_the_remedy_is_named(
    found: Regions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("x.png", "x"):
        with pytest.raises(ValueError, match=r"install graphviz, or write a \.mmd, which GitHub"):
            draw(found, {}, tmp_path / name, title="x")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_needs_a_place_it_can_write(
    found: Regions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = 'read l; echo "no format\nof that name" >&2; exit 1'
    monkeypatch.setenv("PATH", graphviz(tmp_path, script))
    for name, why in (("missing/x.dot", "No such file"), ("x.unknown", "no format of that name")):
        told = f"plot file must be one that can be written, got .*{name} .*{why}"
        with pytest.raises(ValueError, match=told):
            draw(found, {}, tmp_path / name, title="x")
