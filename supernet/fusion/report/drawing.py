"""One layer's operators before and after fusion as a graph that Graphviz or Mermaid draws.

Sizes are left out, and all that is outside the layer but what it takes and who takes from it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import networkx as nx

from supernet.fusion.graph.matching import base
from supernet.fusion.graph.op_graph import OpGraph
from supernet.fusion.graph.regions import Regions
from supernet.fusion.report.region_report import amount, flow_of, home, layer_to_draw, op_counts

__all__ = ["draw"]

FILLS = ("#a9cdea", "#f5d08c", "#b4dcae", "#dac2ea", "#f4b8ab", "#a3dcd6", "#e0c8ad", "#f5c4da")
LINES = ("#2f6f9f", "#b07d12", "#3f8a3a", "#7b4aa0", "#b8472f", "#23857b", "#8a6337", "#b0497c")
ALONE, ALONE_LINE, WHITE, INK = "#eceef1", "#8a8f98", "#ffffff", "#222222"
_LEGEND = (
    "Filled: writes a result. White: a view, which moves nothing. Grey: alone in its region.\n"
    "Coloured line: a value that stays inside its region. Numbers: of regions, as in the table."
)
_LIMIT_S = 60.0  # for Graphviz; a layer takes it less than one second


def draw(regions: Regions, notes: Mapping[int, str], out: Path, *, title: str) -> Path:
    """Write ``layer_to_draw`` as ``out``'s suffix says and return its path.

    ``.mmd``: Mermaid; ``.dot``, ``.gv``: Graphviz's language; another (``.svg``, ``.png``,
    ``.pdf``): what Graphviz's ``dot`` draws of that. ``notes``: a line for a region's box, by the
    region's index. Raises ``ValueError`` where ``out`` cannot be written, or only with Graphviz,
    which is not installed.
    """
    path, chosen = layer_to_draw(regions)
    shape = regions.graph.shape
    what = f"Layer {path}" if path else "The whole model"
    heading = f"{what} ({title}, at {shape.rows} × {shape.length})\n{_LEGEND}"
    panels = (_before(regions, chosen), _after(regions, chosen, notes))
    lines = (_mermaid if out.suffix == ".mmd" else _dot)(heading, panels)
    content = ("\n".join(lines) + "\n").encode("utf-8")
    if out.suffix not in (".mmd", ".dot", ".gv"):
        content = _drawn(content, out)
    try:
        out.write_bytes(content)
    except OSError as error:
        raise _unwritable(out, error) from None
    return out


def _drawn(graph: bytes, out: Path) -> bytes:
    """The picture that Graphviz makes of ``graph``, in the format of ``out``'s suffix."""
    dot = shutil.which("dot")
    if dot is None:
        raise ValueError(
            f"plot file must end in .mmd or .dot where Graphviz is not installed, got {out}; "
            "install graphviz, or write a .mmd, which GitHub, GitLab and mermaid.live draw"
        )
    argv = [dot, f"-T{out.suffix[1:]}"]
    try:
        done = subprocess.run(argv, input=graph, capture_output=True, timeout=_LIMIT_S, check=True)
    except subprocess.CalledProcessError as error:
        raise _unwritable(out, error.stderr.decode("utf-8", "replace")) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unwritable(out, error) from None
    return done.stdout


def _unwritable(out: Path, why: object) -> ValueError:
    told = " ".join(str(why).split())[:300]
    return ValueError(f"plot file must be one that can be written, got {out} ({told})")


@dataclass(frozen=True, slots=True)
class _Box:
    text: str
    fill: str = WHITE
    line: str = WHITE


@dataclass(frozen=True, slots=True)
class _Panel:
    """A drawing beside another; its edges with their colour and label."""

    heading: str
    boxes: Mapping[str, _Box]
    edges: Mapping[tuple[str, str], tuple[str, str]]


def _before(regions: Regions, chosen: Sequence[int]) -> _Panel:
    graph = regions.graph
    tones = _tones(regions, chosen)
    of = {name: index for index in chosen for name in regions.regions[index].ops}
    flow = flow_of(regions, chosen, lambda name: name)
    boxes = _outside(graph, flow, of)
    for name in (n for n in flow if n in of):
        op, (fill, line) = graph.op(name), tones[of[name]]
        shape = "×".join(map(str, op.shape)) or "scalar"
        text = f"{of[name] + 1}  {base(op)}\n{shape}"
        boxes[name] = _Box(text, fill if op.writes else WHITE, line)
    edges = {
        (a, b): (tones[of[a]][1] if of.get(a, -1) == of.get(b, -2) else ALONE_LINE, "")
        for a, b in flow.edges
    }
    written = sum(graph.op(name).writes for name in of)
    heading = f"Before: {sum(n in of for n in flow)} ops, {amount(written)} written"
    return _Panel(heading, boxes, edges)


def _after(regions: Regions, chosen: Sequence[int], notes: Mapping[int, str]) -> _Panel:
    tones = _tones(regions, chosen)
    of = {name: str(index) for index in chosen for name in regions.regions[index].ops}
    flow = flow_of(regions, chosen, of.__getitem__)
    boxes = _outside(regions.graph, flow, of)
    for index in (i for i in chosen if str(i) in flow):
        region = regions.regions[index]
        rule = "alone" if region.rule == "none" else region.rule
        ops = op_counts(regions.graph, region.ops).replace(" × ", "\u00a0×\u00a0")
        lines = [f"{index + 1}  {rule}", *textwrap.wrap(ops, 36)]
        lines += [notes[index]] if index in notes else []
        boxes[str(index)] = _Box("\n".join(lines), *tones[index])
    edges = {(a, b): (ALONE_LINE, amount(size)) for a, b, size in flow.edges(data="bytes")}
    saved = sum(regions.bytes_saved(regions.regions[index]) for index in chosen)
    count = sum(str(index) in flow for index in chosen)
    heading = f"After: {count} regions, {amount(saved)} of it inside them"
    return _Panel(heading, boxes, edges)


def _tones(regions: Regions, chosen: Sequence[int]) -> dict[int, tuple[str, str]]:
    """Fill and line of each region: grey where an op is alone, else one tone after the other."""
    count, tones = 0, {}
    for index in chosen:
        fused = regions.regions[index].rule != "none"
        tones[index] = (FILLS[count % 8], LINES[count % 8]) if fused else (ALONE, ALONE_LINE)
        count += fused
    return tones


def _outside(graph: OpGraph, flow: nx.DiGraph, inside: Collection[str]) -> dict[str, _Box]:
    """What is not the layer's own: where a value comes from, and where one goes."""
    boxes = {}
    for name in flow:
        way, _, op = name.partition(" ")
        if way == "from" and op:
            where = graph.op(op).layer or base(graph.op(op))
        elif way == "to" and op:
            users = [n for n in graph.graph.succ[op] if n not in inside]
            where = home(graph, users) or "the rest" if users else "the answer"
        else:
            continue
        boxes[name] = _Box(f"{way} {where}")
    return boxes


def _numbered(panels: Sequence[_Panel]) -> Iterator[tuple[int, _Panel, dict[str, str]]]:
    """Each panel with short names of its boxes, which nothing in a model's own can break."""
    for at, panel in enumerate(panels):
        yield at, panel, {name: f"n{at}_{k}" for k, name in enumerate(panel.boxes)}


def _dot(title: str, panels: Sequence[_Panel]) -> Iterator[str]:
    """In the language of https://graphviz.org/doc/info/lang.html."""

    def quoted(text: str) -> str:  # "\n" is a line break there too
        escaped = _plain(text).replace("\\", "\\\\").replace('"', '\\"')
        return '"' + escaped.replace("\n", "\\n") + '"'

    yield "digraph {"
    yield f"  graph [label={quoted(title)} labelloc=t fontname=Helvetica fontsize=11]"
    yield f'  node [shape=box style="rounded,filled" fontname=Helvetica fontcolor="{INK}"]'
    yield f'  node [fontsize=10 height=0.3] edge [fontname=Helvetica fontsize=9 fontcolor="{INK}"]'
    for at, panel, names in _numbered(panels):
        yield f"  subgraph cluster_{at} {{"
        yield f"    label={quoted(panel.heading)} fontsize=12 color=white"
        for name, box in panel.boxes.items():
            look = f'fillcolor="{box.fill}" color="{box.line}"'
            yield f"    {names[name]} [label={quoted(box.text)} {look}]"
        for (a, b), (tone, label) in panel.edges.items():
            yield f'    {names[a]} -> {names[b]} [color="{tone}" label={quoted(label)}]'
        yield "  }"
    yield "}"


def _mermaid(title: str, panels: Sequence[_Panel]) -> Iterator[str]:
    """In the language of https://mermaid.js.org/syntax/flowchart.html."""

    def quoted(text: str) -> str:
        escaped = re.sub(r"[^\w ×,.:()-]", lambda one: f"#{ord(one[0])};", _plain(text))
        return '"' + escaped.replace("#10;", "<br/>") + '"'

    yield "flowchart TB"
    yield f"  title[{quoted(title)}]"
    yield f"  style title fill:{WHITE},stroke:{WHITE},color:{INK}"
    count = 0
    for at, panel, names in _numbered(panels):
        yield f"  subgraph panel{at}[{quoted(panel.heading)}]"
        for name, box in panel.boxes.items():
            yield f"    {names[name]}[{quoted(box.text)}]"
            yield f"    style {names[name]} fill:{box.fill},stroke:{box.line},color:{INK}"
        for (a, b), (tone, label) in panel.edges.items():
            yield f"    {names[a]} -->{f'|{quoted(label)}|' if label else ''} {names[b]}"
            yield f"    linkStyle {count} stroke:{tone}"
            count += 1
        yield "  end"


def _plain(text: str) -> str:
    """Without what a terminal would take for an order, were the text shown in one."""
    return "".join(c if c.isprintable() or c in "\n\u00a0" else "?" for c in text)
