"""An account of each region of a plan: what it is, what it runs on and what it saves."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
from torch.export import ExportedProgram

from profiler.shapes import Shape
from supernet.backends.fused_build import REGIONS
from supernet.fusion.graph.matching import base, is_size
from supernet.fusion.graph.op_graph import OpGraph
from supernet.fusion.graph.regions import Region, Regions
from supernet.fusion.kernels.quantization import Rounding
from supernet.fusion.lowering.lowering import Lowered, functional, lower
from supernet.fusion.rules.layers import isomorphic
from supernet.fusion.rules.rules import apply_fusion_rules, rules_of
from supernet.signature import Signature

__all__ = ["Account", "accounts", "amount", "flow_of", "home", "layer_to_draw", "op_counts", "read"]

_OURS = {"product": "evolve", "winograd": "evolve Winograd"}
"""Of the kinds of packed weights; oneDNN's are the others."""
WHOLE = 40  # a graph of fewer ops is drawn whole


@dataclass(frozen=True, slots=True)
class Account:
    """One region: ``number`` counts from 1, ``alike`` is equal where two compute the same.

    ``kernels``: of each of its fused kernels, the ops it stands for; ``engines``: whose each is,
    and in which precision if not in float, e.g. ``"oneDNN int8"`` or ``"evolve"``. ``by_torch``:
    the ops that torch still runs one by one, views aside; ``compiled``: those that are compiled
    instead. ``bytes_saved``: of values that are made and used up inside the region;
    ``bytes_kept``: those of them that a kernel keeps to itself. The others are allowed to be, and
    are stored today.
    """

    number: int
    region: Region
    layer: str
    alike: str
    kernels: tuple[tuple[str, ...], ...]
    engines: tuple[str, ...]
    by_torch: tuple[str, ...]
    bytes_saved: int
    bytes_kept: int
    compiled: tuple[str, ...] = ()

    @property
    def runs_on(self) -> str:
        """Its kernels in words: ``"oneDNN int8"``, ``"oneDNN, torch × 2"``, ``"torch × 2"``.

        ``"–"`` for views, which run nothing.
        """
        counts = Counter(self.engines)
        counts["compiled"] = len(self.compiled)
        counts["torch"] = len(self.by_torch)
        told = [name if n == 1 else f"{name} × {n}" for name, n in counts.items() if n]
        return ", ".join(told) or "–"


def read(
    folder: Path, captured: ExportedProgram, signature: Signature, fusion: str, shape: Shape
) -> tuple[Regions, tuple[Account, ...]]:
    """The regions of a fused plan's stored files at ``shape``, and the account of each.

    ``captured``: the program it was built from. ``fusion``: the plan's rules. The files do not say
    which rule made which region, so they are applied once more; a region that they do not make
    today is under ``"unknown"``.
    """
    how = json.loads((folder / REGIONS).read_text(encoding="utf-8"))
    program = functional(captured)
    graph = OpGraph.of(program, signature, shape)
    today = apply_fusion_rules(graph, rules_of(fusion))
    rules = {frozenset(region.ops): region.rule for region in today.regions}
    stored = (
        Region(rules.get(frozenset(ops), "unknown" if len(ops) > 1 else "none"), tuple(ops))
        for ops in how["regions"]
    )
    regions = Regions(graph, tuple(stored))
    rounded = {name: Rounding.from_json(data) for name, data in how["rounded"].items()}
    compiled = frozenset(name for stretch in how["compiled"] for name in stretch)
    lowered = lower(program, how["regions"], rounded)
    return regions, accounts(regions, lowered, rounded, compiled, has_own=how["own_kernels"])


def accounts(
    regions: Regions,
    lowered: Lowered,
    rounded: Mapping[str, Rounding],
    compiled: Collection[str] = frozenset(),
    *,
    has_own: bool = True,
) -> tuple[Account, ...]:
    """Every region's account, in order; ``lowered`` is what became of these regions, ``compiled``
    the ops of it that were compiled. ``has_own``: whether our kernels could be had."""
    alike = {index: key for key, found in isomorphic(regions).items() for index in found}
    left = {node.name for node in lowered.module.graph.nodes}
    ours = _OURS if has_own else {}
    kinds = {name.removeprefix("packed_"): pack.kind for name, pack in lowered.packs.items()}

    def engine(kernel: Sequence[str]) -> str:
        kind = next((kinds[name] for name in kernel if name in kinds), "")
        precision = f" {rounded[kernel[0]].kind}" if kernel[0] in rounded else ""
        return ours.get(kind, "oneDNN") + precision

    made = []
    for index, region in enumerate(regions.regions):
        kernels = tuple(k for k in lowered.kernels if k[0] in region.ops)
        fused = {name for kernel in kernels for name in kernel}
        others = [n for n in region.ops if n in left - fused and regions.graph.op(n).writes]
        made.append(
            Account(
                number=index + 1,
                region=region,
                layer=home(regions.graph, region.ops),
                alike=alike[index],
                kernels=kernels,
                engines=tuple(engine(kernel) for kernel in kernels),
                by_torch=tuple(n for n in others if n not in compiled),
                bytes_saved=regions.bytes_saved(region),
                bytes_kept=sum(regions.bytes_saved(Region("", kernel)) for kernel in kernels),
                compiled=tuple(n for n in others if n in compiled),
            )
        )
    return tuple(made)


def home(graph: OpGraph, names: Collection[str]) -> str:
    """The innermost module that all these ops come from; "" for the model itself or unknown."""
    paths = [graph.op(n).layer.split(".") for n in names if not is_size(graph.op(n))]
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def op_counts(graph: OpGraph, names: Collection[str]) -> str:
    """What these ops are, those that write something first: ``"linear × 3, view"``."""
    ops = sorted((graph.op(n) for n in names), key=lambda op: not op.writes)
    counts = Counter(base(op) for op in ops)
    return ", ".join(name if count == 1 else f"{name} × {count}" for name, count in counts.items())


def layer_to_draw(regions: Regions) -> tuple[str, tuple[int, ...]]:
    """The layer worth a picture: its module path, and which of the regions are its own.

    The first with the most ops among the layers that the model repeats with the same regions;
    ``""`` and all regions where the model is small.
    """

    def size(found: Sequence[int]) -> int:
        return sum(len(regions.regions[index].ops) for index in found)

    everything = range(len(regions.regions))
    if size(everything) < WHOLE:
        return "", tuple(everything)
    homes = [home(regions.graph, region.ops) for region in regions.regions]
    layers = dict(_repeated(regions, homes))
    if not layers:
        modules: dict[str, list[int]] = {}
        for index, path in enumerate(homes):
            for end in re.finditer(r"(?<=.)(?=\.|$)", path):
                modules.setdefault(path[: end.start()], []).append(index)
        layers = {path: found for path, found in modules.items() if size(found) < WHOLE}
    if not layers:  # a flat graph: its beginning
        return "", tuple(i for i in everything if i == 0 or size(range(i + 1)) < WHOLE)
    path = max(layers, key=lambda path: size(layers[path]))
    return path, tuple(layers[path])


def _repeated(regions: Regions, homes: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """Modules that differ in one number of their names only and have equal regions."""
    keys = {index: key for key, found in isomorphic(regions).items() for index in found}
    families: dict[str, dict[str, list[int]]] = {}
    for index, path in enumerate(homes):
        for number in re.finditer(r"(?:^|(?<=\.))\d+(?=\.|$)", path):
            family = families.setdefault(path[: number.start()], {})
            family.setdefault(path[: number.end()], []).append(index)
    for family in families.values():
        kinds = {path: tuple(sorted(keys[i] for i in found)) for path, found in family.items()}
        often = Counter(kinds.values())
        yield from ((path, found) for path, found in family.items() if often[kinds[path]] > 1)


def flow_of(regions: Regions, chosen: Sequence[int], place: Callable[[str], str]) -> nx.DiGraph:
    """What flows between the places of the chosen regions' ops, sizes aside.

    Edge attribute ``"bytes"``: of the distinct values. Outside are nodes ``"from OP"``, where a
    value comes from, and ``"to OP"`` for whoever takes this op's value.
    """
    graph = regions.graph
    inside = {n for i in chosen for n in regions.regions[i].ops if not is_size(graph.op(n))}
    values: dict[tuple[str, str], dict[str, int]] = {}
    flow = nx.DiGraph()
    flow.add_nodes_from(dict.fromkeys(place(n) for n in graph.graph if n in inside))
    for a, b, size in graph.graph.edges(data="bytes"):
        if not {a, b} & inside or is_size(graph.op(a)) or is_size(graph.op(b)):
            continue
        edge = place(a) if a in inside else f"from {a}", place(b) if b in inside else f"to {a}"
        if edge[0] != edge[1]:
            values.setdefault(edge, {})[a] = size
    for name in graph.outputs & inside:
        values.setdefault((place(name), f"to {name}"), {})[name] = graph.op(name).writes
    flow.add_edges_from((*edge, {"bytes": sum(v.values())}) for edge, v in values.items())
    return flow


def amount(size: int) -> str:
    """Bytes in words: ``"1.5 MiB"``."""
    for unit, one in (("MiB", 2**20), ("KiB", 2**10)):
        if size >= one:
            return f"{size / one:.3g} {unit}"
    return f"{size} bytes"
