"""The measured sub-networks that matter, as points of a picture: quality lost against latency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from evolve.evolution.choice import Choice
from evolve.evolution.genomes import Genomes
from evolve.evolution.latency import Latency
from policies.strategic import Evaluation
from supernet.distillation.learning.sampling import parameters
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.supernet import Supernet

__all__ = ["Point", "Role", "points"]

Role: TypeAlias = Literal["front", "original", "uniform", "tier"]


@dataclass(frozen=True, slots=True)
class Point:
    """A sub-network in words, what it loses of the original's quality (a share), what it takes."""

    describe: str
    quality_loss: float
    latency_ms: float
    memory_mib: float
    role: Role

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def points(
    net: Supernet,
    genomes: Genomes,
    choice: Choice,
    latency: Latency,
    tiers: Mapping[SubnetSpec, float],
) -> tuple[Point, ...]:
    """The original, the front under the present weights, the uniform slices, the tiers with their
    quality."""
    space, search = genomes.space, choice.search
    slices = {genomes.genome(spec) for spec in choice.slices}
    front = {one.genome for one in search.front()}
    whole = Point("the original", 0.0, latency(net.full), _mib(net, net.full), "original")
    found = [whole]
    for one in search.evaluations():
        if one.weights != search.weights or one.genome == space.original:
            continue
        if one.genome in slices or one.genome in front:
            role: Role = "uniform" if one.genome in slices else "front"
            found.append(_measured(genomes.describe(genomes.spec(one.genome)), one, role))
    found += [
        Point(genomes.describe(spec), 1.0 - quality, latency(spec), _mib(net, spec), "tier")
        for spec, quality in tiers.items()
    ]
    return tuple(found)


def _measured(words: str, one: Evaluation, role: Role) -> Point:
    return Point(words, *one.objectives.values, role)


def _mib(net: Supernet, spec: SubnetSpec) -> float:
    return 4 * parameters(net, spec) / 2**20
