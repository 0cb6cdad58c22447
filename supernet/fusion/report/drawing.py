"""One layer's operators before and after fusion as a picture: the ops, and the regions they form.

Sizes are left out, and all that is outside the layer but what it takes and who takes from it.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import networkx as nx

from supernet.fusion.graph.matching import base
from supernet.fusion.graph.op_graph import OpGraph
from supernet.fusion.graph.regions import Regions
from supernet.fusion.report.layout import Layout, layered
from supernet.fusion.report.region_report import amount, flow_of, home, layer_to_draw, tally

__all__ = ["draw"]

FILLS = ("#a9cdea", "#f5d08c", "#b4dcae", "#dac2ea", "#f4b8ab", "#a3dcd6", "#e0c8ad", "#f5c4da")
LINES = ("#2f6f9f", "#b07d12", "#3f8a3a", "#7b4aa0", "#b8472f", "#23857b", "#8a6337", "#b0497c")
ALONE, ALONE_LINE, INK, PALE = "#eceef1", "#8a8f98", "#222222", "#767c85"
_HEADING_POINTS, _POINTS, _BODY_POINTS = 10.0, 8.0, 7.0
_MARGIN = 0.4  # inches
_DPI, _MOST_PIXELS = 140, 30_000


def draw(regions: Regions, notes: Mapping[int, str], out: Path, *, title: str) -> Path:
    """Draw ``layer_to_draw`` into a PNG (or what ``out``'s suffix says) and return its path.

    ``notes``: a line for a region's box, by the region's index. Raises ``ImportError`` where
    matplotlib is not installed, ``ValueError`` where ``out`` cannot be written.
    """
    figure_of = _matplotlib()
    path, chosen = layer_to_draw(regions)
    panels = [_before(regions, chosen), _after(regions, chosen, notes)]
    high = max(panel.layout.height for panel in panels)
    width, height = sum(panel.width for panel in panels) + 3 * _MARGIN, high + 1.75
    figure = figure_of(figsize=(width, height))

    def write(x: float, y: float, text: str, points: float, tone: str, weight: str) -> None:
        figure.text(x / width, y / height, text, size=points, color=tone, weight=weight,
                    parse_math=False)  # fmt: skip

    shape = regions.graph.shape
    what = f"Layer {_plain(path)}" if path else "The whole model"
    write(_MARGIN, height - 0.42, what, 13, INK, "bold")
    told = f"{title}, at {shape.rows} × {shape.length}"
    write(_MARGIN, height - 0.66, told, 8.5, PALE, "normal")
    write(_MARGIN, 0.16, _LEGEND, 7.5, PALE, "normal")
    left = _MARGIN
    for panel in panels:
        write(left, height - 1.05, panel.heading, _HEADING_POINTS, INK, "bold")
        place = (left / width, 0.45 / height, panel.layout.width / width, high / height)
        _paint(figure.add_axes(place), panel, high)
        left += panel.width + _MARGIN
    try:
        figure.savefig(out, dpi=min(_DPI, _MOST_PIXELS / max(width, height)))
    except (OSError, ValueError) as error:
        told = f"plot file must be one that can be written, got {out} ({error})"
        raise ValueError(told) from None
    return out


_LEGEND = (
    "Filled: writes a result. White: a view, which moves nothing. Grey: alone in its region.\n"
    "Coloured line: a value that stays inside its region. Numbers: of regions, as in the table."
)


def _matplotlib() -> Callable[..., Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        what = "plot must have matplotlib to draw with, which is not installed"
        raise ImportError(f"{what}; pip install 'evolve-runtime[plot]'") from error

    def figure_of(**options: Any) -> Any:
        figure = Figure(**options)
        FigureCanvasAgg(figure)  # no display, no global state
        return figure

    return figure_of


@dataclass(frozen=True, slots=True)
class _Box:
    """A node as it is written: a bold line, smaller ones below, and its two colours."""

    title: str
    body: tuple[str, ...] = ()
    fill: str = "none"
    line: str = "none"
    number: str = ""  # beside the box

    @property
    def size(self) -> tuple[float, float]:
        """Inches; DejaVu Sans is 0.6 wide by 1.3 high of its points, a little more in bold."""
        widths = [
            len(self.title) * _POINTS * 0.68,
            *(len(b) * _BODY_POINTS * 0.6 for b in self.body),
        ]
        high = _POINTS * 1.3 + len(self.body) * _BODY_POINTS * 1.35
        return max(widths) / 72 + 0.16, high / 72 + 0.12


@dataclass(frozen=True, slots=True)
class _Panel:
    heading: str
    boxes: Mapping[str, _Box]
    edges: Mapping[tuple[str, str], tuple[str, str]]  # colour and label
    layout: Layout

    @property
    def width(self) -> float:
        return max(self.layout.width, len(self.heading) * _HEADING_POINTS * 0.65 / 72)


def _before(regions: Regions, chosen: Sequence[int]) -> _Panel:
    graph = regions.graph
    tones = _tones(regions, chosen)
    of = {name: index for index in chosen for name in regions.regions[index].ops}
    flow = flow_of(regions, chosen, lambda name: name)
    boxes = _outside(graph, flow, of)
    for name in (n for n in flow if n in of):
        op, (fill, line) = graph.op(name), tones[of[name]]
        shape = "×".join(map(str, op.shape)) or "scalar"
        fill = fill if op.writes else "white"
        boxes[name] = _Box(_plain(base(op)), (shape,), fill, line, str(of[name] + 1))
    edges = {
        (a, b): (tones[of[a]][1] if of.get(a, -1) == of.get(b, -2) else ALONE_LINE, "")
        for a, b in flow.edges
    }
    written = sum(graph.op(name).writes for name in of)
    heading = f"Before: {sum(n in of for n in flow)} ops, {amount(written)} written"
    return _Panel(heading, boxes, edges, layered(flow, {n: b.size for n, b in boxes.items()}))


def _after(regions: Regions, chosen: Sequence[int], notes: Mapping[int, str]) -> _Panel:
    tones = _tones(regions, chosen)
    of = {name: str(index) for index in chosen for name in regions.regions[index].ops}
    flow = flow_of(regions, chosen, of.__getitem__)
    boxes = _outside(regions.graph, flow, of)
    for index in (i for i in chosen if str(i) in flow):
        region = regions.regions[index]
        rule = "alone" if region.rule == "none" else region.rule
        ops = _plain(tally(regions.graph, region.ops).replace(" × ", "\u00a0×\u00a0"))
        body = textwrap.wrap(ops, 36) + ([notes[index]] if index in notes else [])
        boxes[str(index)] = _Box(f"{index + 1}  {rule}", tuple(body), *tones[index])
    edges = {(a, b): (ALONE_LINE, amount(size)) for a, b, size in flow.edges(data="bytes")}
    saved = sum(regions.bytes_saved(regions.regions[index]) for index in chosen)
    count = sum(str(index) in flow for index in chosen)
    heading = f"After: {count} regions, {amount(saved)} of it inside them"
    return _Panel(heading, boxes, edges, layered(flow, {n: b.size for n, b in boxes.items()}))


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
        boxes[name] = _Box("", (f"{way} {_plain(where)}",))
    return boxes


def _plain(name: str) -> str:
    """A name that the font has every letter of."""
    return re.sub(r"[^ -~×\u00a0]", "?", name)


def _paint(ax: Any, panel: _Panel, high: float) -> None:
    layout = panel.layout.stretched(high)
    ax.set_xlim(0, layout.width)
    ax.set_ylim(high, 0)
    ax.axis("off")
    for edge, (tone, label) in panel.edges.items():
        _paint_edge(ax, panel, layout, edge, tone, label)
    for name, box in panel.boxes.items():
        _paint_box(ax, box, layout.places[name])


def _paint_box(ax: Any, box: _Box, place: tuple[float, float]) -> None:
    from matplotlib.patches import FancyBboxPatch

    (x, y), (wide, high) = place, box.size
    style = "round,pad=0,rounding_size=0.06"
    ax.add_patch(
        FancyBboxPatch((x - wide / 2, y - high / 2), wide, high, boxstyle=style, fc=box.fill,
                       ec=box.line, lw=1.0, zorder=3, clip_on=False)
    )  # fmt: skip
    top = y - high / 2 + 0.06
    ax.text(x, top, box.title, size=_POINTS, weight="bold", ha="center", va="top", color=INK,
            zorder=4, parse_math=False)  # fmt: skip
    ax.text(x + wide / 2 + 0.03, y, box.number, size=6, va="center", color=box.line, zorder=4)
    top += _POINTS * 1.3 / 72 if box.title else 0.08
    ax.text(x, top, "\n".join(box.body), size=_BODY_POINTS, ha="center", va="top", zorder=4,
            color=INK if box.title else PALE, linespacing=1.25, parse_math=False)  # fmt: skip


def _paint_edge(
    ax: Any, panel: _Panel, layout: Layout, edge: tuple[str, str], tone: str, label: str
) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    (x0, y0), (x1, y1) = layout.places[edge[0]], layout.places[edge[1]]
    y0 += panel.boxes[edge[0]].size[1] / 2
    y1 -= panel.boxes[edge[1]].size[1] / 2
    points = [(x0, y0), *layout.bends.get(edge, ()), (x1, y1)]
    vertices, codes = [points[0]], [Curve.MOVETO]
    for (start, ay), (end, by) in pairwise(points):
        middle = (ay + by) / 2
        vertices += [(start, middle), (end, middle), (end, by)]
        codes += [Curve.CURVE4] * 3
    ax.add_patch(
        FancyArrowPatch(path=Curve(vertices, codes), arrowstyle="-|>,head_width=2.2,head_length=4",
                        fc=tone, ec=tone, lw=1.1, zorder=2, clip_on=False)
    )  # fmt: skip
    if label:
        upright = len(points) > 2
        (ax_, ay), (bx, by) = points[1:3] if upright else points
        ax.text((ax_ + bx) / 2, (ay + by) / 2, label, size=6.5, ha="center", va="center",
                color=PALE, zorder=5, rotation=90 if upright else 0,
                bbox={"fc": "white", "ec": "none", "pad": 0.6})  # fmt: skip
