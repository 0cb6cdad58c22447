"""The measured sub-networks that matter, as points of a picture: quality lost against latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from evolve.evolution.choice import Choice
from evolve.evolution.genomes import Genomes
from evolve.evolution.latency import Latency
from evolve.evolution.selection import Proposal
from policies.strategic import Evaluation
from supernet.distillation.sampling import parameters
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
    tiers: Sequence[Proposal] = (),
) -> tuple[Point, ...]:
    """The original, the front under the present weights, the uniform slices, the tiers."""
    space, search = genomes.space, choice.search
    slices = {genomes.genome(spec) for spec in choice.slices}
    front = {one.genome for one in search.front()}
    found = [_original(net, latency)]
    for one in search.evaluations():
        if one.weights != search.weights or one.genome == space.original:
            continue
        if one.genome in slices or one.genome in front:
            role: Role = "uniform" if one.genome in slices else "front"
            found.append(_measured(genomes.describe(genomes.spec(one.genome)), one, role))
    found += [
        Point(genomes.describe(tier.spec), 1.0 - tier.quality, latency(tier.spec),
              _mib(sum(w.nbytes for w in tier.weights.values())), "tier")
        for tier in tiers
    ]  # fmt: skip
    return tuple(found)


def _original(net: Supernet, latency: Latency) -> Point:
    size = _mib(4 * parameters(net, net.full))
    return Point("the original", 0.0, latency(net.full), size, "original")


def _measured(words: str, one: Evaluation, role: Role) -> Point:
    return Point(words, *one.objectives.values, role)


def _mib(size: int) -> float:
    return size / 2**20
