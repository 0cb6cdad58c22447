"""A space of sub-networks: genes with ordered choices, and rules that leave one spelling for each.

    {"0.attention": "none", "0.heads": "1"}  ── encode ─►  (0, 1)  ── canonical ─►  (0, 0)

A genome is a tuple of small integers, one for each gene: the index of its choice, from the smallest
to the largest. What a choice does to a model is no business of the space.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

__all__ = ["Gene", "Genome", "Label", "Rule", "Space"]

Genome = tuple[int, ...]
Label = str | int | float

MOST_TIED = 65_536
"""Combinations of genes that rules tie together: they are listed once, when a space is made."""


@dataclass(frozen=True, slots=True)
class Gene:
    """One place of a genome: its choices from the smallest to the largest.

    Genes of one `kind` (the FFN share of every layer) take the same choice in a uniform slice.
    """

    name: str
    choices: tuple[Label, ...]
    kind: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", tuple(self.choices))
        if not self.choices or len(set(self.choices)) < len(self.choices):
            raise ValueError(
                f"choices of gene {self.name!r} must be different and at least one, "
                f"got {list(self.choices)}"
            )


@dataclass(frozen=True, slots=True)
class Rule:
    """Where `gene` has `choice`, the genes named in `smallest` mean nothing: they take their
    smallest choice. Every rule only makes a genome smaller, so that applying them all ends."""

    gene: str
    choice: Label
    smallest: tuple[str, ...]


@dataclass(frozen=True)
class Space:
    """All genomes over some genes; two that rules make equal are one.

    >>> genes = [Gene("0.heads", (0, 6, 12), "heads"), Gene("0.precision", ("mixed", "fp32"), "p")]
    >>> space = Space(genes, [Rule("0.heads", 0, ("0.precision",))])
    >>> space.size, space.original, space.encode({"0.heads": 0, "0.precision": "fp32"})
    (5, (2, 1), (0, 0))
    """

    genes: Sequence[Gene]
    rules: Sequence[Rule] = ()
    _at: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "genes", tuple(self.genes))
        object.__setattr__(self, "rules", tuple(self.rules))
        names = [gene.name for gene in self.genes]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"genes must be at least one, of different names, got {names}")
        object.__setattr__(self, "_at", {name: i for i, name in enumerate(names)})
        for rule in self.rules:
            if unknown := {rule.gene, *rule.smallest} - set(names):
                raise ValueError(f"rules must name genes of the space, got {sorted(unknown)}")
            self._index(rule.gene, rule.choice)
        if self.canonical(self.original) != self.original:
            raise ValueError(
                "rules must leave the original, every gene at its largest choice, as it is, "
                f"got {self.decode(self.canonical(self.original))}"
            )
        for group in self.groups:
            if (tied := math.prod(len(self.genes[i].choices) for i in group)) > MOST_TIED:
                raise ValueError(
                    f"genes that rules tie together must have at most {MOST_TIED} combinations, "
                    f"got {tied} of {[names[i] for i in group]}"
                )

    @property
    def original(self) -> Genome:
        """The model as it was given: every gene at its largest choice."""
        return tuple(len(gene.choices) - 1 for gene in self.genes)

    @property
    def smallest(self) -> Genome:
        """Every gene at its smallest choice."""
        return (0,) * len(self.genes)

    @cached_property
    def size(self) -> int:
        """Number of canonical genomes."""
        return math.prod(len(members) for members in self.group_members)

    @cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Positions that rules tie together, directly or through others; most stand alone."""
        group = list(range(len(self.genes)))
        for rule in self.rules:
            tied = {group[self._at[name]] for name in (rule.gene, *rule.smallest)}
            group = [min(tied) if g in tied else g for g in group]
        return tuple(
            tuple(i for i, g in enumerate(group) if g == first) for first in sorted(set(group))
        )

    @cached_property
    def group_members(self) -> tuple[tuple[Genome, ...], ...]:
        """For each group the combinations of its genes that are canonical."""
        return tuple(tuple(self._canonical_within(group)) for group in self.groups)

    def canonical(self, genome: Iterable[int]) -> Genome:
        """The one spelling of a genome. ValueError if it is none of this space."""
        genes = self.checked(genome)
        while True:
            before = list(genes)
            for rule in self.rules:
                if genes[self._at[rule.gene]] == self._index(rule.gene, rule.choice):
                    for name in rule.smallest:
                        genes[self._at[name]] = 0
            if genes == before:
                return tuple(genes)

    def checked(self, genome: Iterable[int]) -> list[int]:
        """The genes of a genome as integers; ValueError where they are not those of this space."""
        given = list(genome)
        genes = [int(g) for g in given]
        if len(genes) != len(self.genes) or genes != given or not all(
            0 <= g < len(gene.choices) for g, gene in zip(genes, self.genes, strict=True)
        ):  # fmt: skip
            raise ValueError(
                f"genome must be {len(self.genes)} indices, each below the number of its gene's "
                f"choices {[len(gene.choices) for gene in self.genes]}, got {given}"
            )
        return genes

    def encode(self, choices: Mapping[str, Label]) -> Genome:
        """The canonical genome of named choices; genes that are not named keep the largest."""
        genes = list(self.original)
        for name, choice in choices.items():
            if name not in self._at:
                raise ValueError(f"choices must name genes {list(self._at)}, got {name!r}")
            genes[self._at[name]] = self._index(name, choice)
        return self.canonical(genes)

    def decode(self, genome: Iterable[int]) -> dict[str, Label]:
        """The choice of every gene by name."""
        genes = self.checked(genome)
        return {g.name: g.choices[i] for g, i in zip(self.genes, genes, strict=True)}

    def describe(self, genome: Iterable[int]) -> str:
        """In words, what a genome changes of the original."""
        genes, largest = self.checked(genome), self.original
        changed = [
            f"{gene.name}={gene.choices[i]}"
            for gene, i, most in zip(self.genes, genes, largest, strict=True)
            if i != most
        ]
        return ", ".join(changed) or "the original"

    def members(self) -> Iterator[Genome]:
        """All canonical genomes, in order. Ask for `size` first."""
        for parts in product(*self.group_members):
            yield self.joined(parts)

    def sample(self, rng: np.random.Generator) -> Genome:
        """A genome at random, each canonical one as likely as any other."""
        return self.joined([some[rng.integers(len(some))] for some in self.group_members])

    def joined(self, parts: Sequence[Genome]) -> Genome:
        """The genome whose groups have these parts, in the order of `groups`."""
        genome = [0] * len(self.genes)
        for group, part in zip(self.groups, parts, strict=True):
            for i, gene in zip(group, part, strict=True):
                genome[i] = gene
        return tuple(genome)

    def to_json(self) -> dict[str, Any]:
        """The space as plain JSON."""
        return {
            "genes": [[gene.name, list(gene.choices), gene.kind] for gene in self.genes],
            "rules": [[rule.gene, rule.choice, list(rule.smallest)] for rule in self.rules],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Space:
        """The space that `to_json` gave."""
        genes = [Gene(name, tuple(choices), kind) for name, choices, kind in stored["genes"]]
        rules = [Rule(name, choice, tuple(small)) for name, choice, small in stored["rules"]]
        return cls(genes, rules)

    def _index(self, name: str, choice: Label) -> int:
        choices = self.genes[self._at[name]].choices
        if choice not in choices:
            raise ValueError(
                f"choice of gene {name!r} must be one of {list(choices)}, got {choice!r}"
            )
        return choices.index(choice)

    def _canonical_within(self, group: tuple[int, ...]) -> Iterator[Genome]:
        for part in product(*(range(len(self.genes[i].choices)) for i in group)):
            genome = list(self.original)
            for i, gene in zip(group, part, strict=True):
                genome[i] = gene
            if self.canonical(genome) == tuple(genome):
                yield part
