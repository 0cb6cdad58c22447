"""Inner widths of a model: channels and heads that weights make, and other weights sum over."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx

from supernet.elastic.axes.axes import Axis, factors, leaves
from supernet.elastic.axes.tracing import Trace, operator, path_of

__all__ = ["Place", "common_path", "find_places"]

# What is said of the parts of a width that nobody would think of as a width of its own.
_PARTS = frozenset(
    {
        "it is the size of an attention head",
        "attention reads and writes it as a whole",
        "equal parts lie side by side in it",
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """An inner width that can be cut, unit by unit.

    `name`: of the module with the weights that make it; of an attention the module around
    them. `size`: in units: channels, or heads, of which `group` queries share one key and value.
    `makes` and `sums`: the nodes of the products that make it and that sum over it. `attends`: of
    heads, the nodes that compute the attention. `weights`: all with a dim along it. `least`: 0
    where the products that sum over it sum over nothing else, so that their bias may stand for
    them.
    """

    name: str
    kind: Literal["heads", "ffn", "channels"]
    axis: Axis
    size: int
    makes: tuple[str, ...]
    sums: tuple[str, ...]
    weights: tuple[tuple[str, int], ...]
    attends: tuple[str, ...] = ()
    group: int = 1
    least: int = 0


def find_places(walk: Trace, order: dict[str, int]) -> tuple[list[Place], list[tuple[Place, str]]]:
    """Those that can be cut, in program order (`order`: of node names), and the others with why."""
    places: list[Place] = []
    fixed: list[tuple[Place, str]] = []
    for axis, weights in _occurrences(walk).items():
        roles = {role for role, _ in axis.uses}
        if "made" not in roles or not (roles & {"contracted", "attended"} or _is_lost(axis)):
            continue
        place = _place(walk, axis, weights, order)
        why = _why_fixed(walk, axis, place)
        if why is None:
            places.append(place)
        elif why not in _PARTS:
            fixed.append((place, why))
    places = _whole_groups(places)
    places.sort(key=lambda place: min(order[name] for name in place.makes))
    return _with_own_names(places), fixed


def _with_own_names(places: Sequence[Place]) -> list[Place]:
    """Each with a name that no other has: the second of a name is ``name#2``."""
    seen: Counter[str] = Counter()
    named = []
    for place in places:
        seen[place.name] += 1
        count = seen[place.name]
        name = place.name if count == 1 else f"{place.name}#{count}"
        named.append(dataclasses.replace(place, name=name))
    return named


def _is_lost(axis: Axis) -> bool:
    return any(why.endswith("is not understood") for why in axis.fixed)


def _occurrences(walk: Trace) -> dict[Axis, list[tuple[str, int]]]:
    found: dict[Axis, list[tuple[str, int]]] = {}
    for name, node in walk.weights.items():
        for index, dim in enumerate(walk.of(node)):
            for axis in leaves(dim):
                places = found.setdefault(axis, [])
                if (name, index) not in places:
                    places.append((name, index))
    return found


def _place(
    walk: Trace, axis: Axis, weights: Sequence[tuple[str, int]], order: dict[str, int]
) -> Place:
    by_role: dict[str, list[str]] = {}
    for role, node in sorted(axis.uses, key=lambda use: order[use[1]]):
        by_role.setdefault(role, []).append(node)
    nodes = {node.name: node for node in walk.program.graph.nodes}
    makes, sums = by_role.get("made", []), by_role.get("contracted", [])
    attends = by_role.get("attended", [])
    own = {name for name, _ in weights}
    makers = [w for n in makes for w in walk.weights_of(nodes[n]) if w in own]
    if attends:
        users = [w for n in sums for w in walk.weights_of(nodes[n]) if w in own]
        name = common_path([*makers, *users])
    else:
        name = makers[0].rpartition(".")[0] if makers else path_of(nodes[makes[0]])
    conv = any(operator(nodes[n]).startswith("conv") for n in makes)
    return Place(
        name=name,
        kind="heads" if attends else "channels" if conv else "ffn",
        axis=axis,
        size=axis.size,
        makes=tuple(makes),
        sums=tuple(sums),
        weights=tuple(weights),
        attends=tuple(attends),
        least=_least(walk, axis, [nodes[n] for n in sums]),
    )


def _least(walk: Trace, axis: Axis, sums: Sequence[fx.Node]) -> int:
    """1 where one of these products also sums over what lies beside the axis."""
    for node in sums:
        for name in walk.weights_of(node):
            for dim in walk.of(walk.weights[name]):
                if axis in leaves(dim) and axis not in factors(dim):
                    return 1
    return 0


def common_path(names: Iterable[str]) -> str:
    """The module around all of these weights."""
    split = [name.split(".")[:-1] for name in names]
    shared: list[str] = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _why_fixed(walk: Trace, axis: Axis, place: Place) -> str | None:
    if axis.fixed:
        return next((why for why in axis.fixed if why in _PARTS), next(iter(axis.fixed)))
    if not isinstance(axis.size, int):
        return "its size follows the inputs"
    if not place.sums:
        return "no weight sums over it"
    for name, index in place.weights:
        if factors(walk.of(walk.weights[name])[index]).count(axis) > 1:
            return f"the weight {name!r} has it twice in one dim"
        weight = walk.tensors[name]
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            return f"the weight {name!r} holds NaN or infinity"
    return None


def _whole_groups(places: Sequence[Place]) -> list[Place]:
    """Of nested widths of one attention the one with keys and values: groups stay whole."""
    kept: list[Place] = []
    for place in places:
        rivals = [p for p in places if place.attends and p.attends == place.attends]
        best = max(rivals, key=lambda p: len(p.weights), default=place)
        if best is place:
            group = 1
            for other in rivals:
                group *= other.size if other is not place else 1
            kept.append(dataclasses.replace(place, group=group))
    return kept
