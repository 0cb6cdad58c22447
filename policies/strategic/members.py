"""Members of a space that a search begins with: corners, uniform slices, balanced random ones."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from policies.strategic.genome import Genome, Space

__all__ = ["balanced", "corners", "neighbours", "uniform_slices"]

DEPTHS = (0.75, 0.5, 0.25)
"""How large every gene is at once in the slices that cut through all kinds."""


def corners(space: Space) -> list[Genome]:
    """The original, the smallest, and for each kind of gene: it alone smallest, all others so."""
    found = [space.original, space.smallest]
    for kind in _kinds(space):
        alone = _with_kind(space, space.original, kind, 0)
        found += [alone, _with_kind(space, space.smallest, kind, -1)]
    return _once(space, found)


def uniform_slices(space: Space) -> list[Genome]:
    """All genes of one kind at one choice, the others at their largest; then all genes at ¾, ½
    and ¼ of theirs."""
    found = [
        _with_kind(space, space.original, kind, choice)
        for kind in _kinds(space)
        for choice in range(max(len(g.choices) for g in space.genes if g.kind == kind) - 1)
    ]
    found += [tuple(int(depth * most) for most in space.original) for depth in DEPTHS]
    return _once(space, found)


def balanced(space: Space, count: int, rng: np.random.Generator) -> list[Genome]:
    """At most `count` random genomes in which every gene has each choice about as often.

    A Latin hypercube over the choices (McKay et al. 1979); fewer where the rules make some equal.
    """
    columns = [rng.permutation(np.arange(count) % len(gene.choices)) for gene in space.genes]
    return _once(space, (tuple(map(int, row)) for row in zip(*columns, strict=True)))


def neighbours(space: Space, genome: Genome) -> list[Genome]:
    """Every genome that differs by another choice of one gene, as the rules spell it."""
    start = space.canonical(genome)
    found = [
        (*start[:i], choice, *start[i + 1 :])
        for i, gene in enumerate(space.genes)
        for choice in range(len(gene.choices))
    ]
    return [other for other in _once(space, found) if other != start]


def _kinds(space: Space) -> list[str]:
    return list(dict.fromkeys(gene.kind for gene in space.genes))


def _with_kind(space: Space, genome: Genome, kind: str, choice: int) -> Genome:
    """Every gene of a kind at one choice, -1 for its largest; shorter genes at their largest."""
    return tuple(
        i if gene.kind != kind else (len(gene.choices) - 1 if choice < 0 else min(choice, most))
        for i, gene, most in zip(genome, space.genes, space.original, strict=True)
    )


def _once(space: Space, genomes: Iterable[Genome]) -> list[Genome]:
    return list(dict.fromkeys(space.canonical(genome) for genome in genomes))
