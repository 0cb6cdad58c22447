"""Sub-networks of any supernet as genomes of the strategic search, and back.

    elastic.Space ── genomes_of ──► Genomes ── .space ──► StrategicSearch
         ▲                             │                        │
         └───────── spec(genome) ◄─────┴──── genome(spec) ──────┘

One genome stands for one sub-network: what means nothing (heads of an attention that is gone, all
of a layer that is left out) takes its smallest choice, as the canonical form of a spec has it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from policies.strategic.genome import MOST_TIED, Gene, Genome, Label, Rule, Space
from supernet.elastic.space import Choice, Target
from supernet.elastic.space import Gene as SubnetGene
from supernet.elastic.space import Space as SubnetSpace
from supernet.elastic.subnet import AttentionSpec, LayerSpec, SubnetSpec

__all__ = ["Genomes", "genomes_of", "uniform_slices"]

_OUT, _IN = "out", "in"


@dataclass(frozen=True, slots=True, eq=False)
class Genomes:
    """`space`: of the search; `together`: for each of its genes those of `subnets` that it sets."""

    subnets: SubnetSpace
    space: Space
    together: tuple[tuple[int, ...], ...]

    def spec(self, genome: Genome) -> SubnetSpec:
        """The sub-network of a genome, in its canonical form."""
        choices: dict[str, Choice] = {}
        labels = self.space.decode(genome).values()
        for label, numbers in zip(labels, self.together, strict=True):
            for number in numbers:
                choices[self.subnets.genes[number].name] = _choice(label)
        return self.subnets.spec(choices)

    def genome(self, spec: SubnetSpec) -> Genome:
        """The genome of a sub-network; a `ValueError` where it keeps what no gene offers."""
        spec = self.subnets.check(spec)
        labels: dict[str, Label] = {}
        for gene, numbers in zip(self.space.genes, self.together, strict=True):
            kept = [_kept(spec, self.subnets.targets[number]) for number in numbers]
            known = {label for label in kept if label is not None}
            if not known <= set(gene.choices):
                raise ValueError(
                    f"{gene.name} must be one of {list(gene.choices)}, got {known.pop()!r}"
                )
            labels[gene.name] = known.pop() if known else gene.choices[0]
        genome = self.space.encode(labels)
        if self.spec(genome) != spec:
            raise ValueError(f"spec must keep the same of what goes together, got {spec.key}")
        return genome

    def describe(self, spec: SubnetSpec) -> str:
        """In words, what a sub-network leaves out: ``"encoder.layer.3, 4 left out"``."""
        pairs = zip(self.subnets.check(spec).layers, self.subnets.full.layers, strict=True)
        alike: dict[str, list[str]] = {}
        for own, whole in pairs:
            if words := _words(own, whole):
                alike.setdefault(words, []).append(own.name)
        told = (f"{_listed(names)}{words}" for words, names in alike.items())
        return "; ".join(told) or "the original"


def _words(layer: LayerSpec, full: LayerSpec) -> str:
    if layer.skipped:
        return " left out"
    parts = []
    for own, whole in zip(layer.attention, full.attention, strict=True):
        if own.kind == "none":
            parts.append("no attention")
        elif own != whole:
            kind = "" if own.kind == whole.kind else f" {own.kind}"
            parts.append(f"{own.heads} of {whole.heads}{kind} heads")
    for width, most in zip(layer.widths, full.widths, strict=True):
        if width != most:
            parts.append(f"width {width} of {most}")
    return f": {', '.join(parts)}" if parts else ""


def _listed(names: Sequence[str]) -> str:
    """Names, what they begin with in common but once: ``"encoder.layer.0, 1"``."""
    first, *others = names
    stem = first.rpartition(".")[0] + "."
    short = [n.removeprefix(stem) if len(stem) > 1 else n for n in others]
    return ", ".join([first or "the model", *short])


def genomes_of(subnets: SubnetSpace) -> Genomes:
    """The space as the search spells it. A `ValueError` where there is nothing to choose.

    Widths of one layer that are too many to be listed in all their combinations (the experts of a
    mixture, say) are one gene.
    """
    if not subnets.genes:
        raise ValueError("the model must have something that can be left out, got nothing")
    genes: list[Gene] = []
    together: list[tuple[int, ...]] = []
    rules: list[Rule] = []
    for layer in dict.fromkeys(target.layer for target in subnets.targets):
        groups = _groups(subnets, layer)
        made = {numbers: _gene(subnets.genes[numbers[0]], subnets.targets[numbers[0]])
                for numbers in groups}  # fmt: skip
        genes.extend(made.values())
        together.extend(groups)
        rules.extend(_rules(subnets, made))
    return Genomes(subnets, Space(genes, rules), tuple(together))


def uniform_slices(genomes: Genomes) -> tuple[SubnetSpec, ...]:
    """Sub-networks whose layers all stay and keep the same share of themselves; not the original.

    Every share of the heads with every share of the widths, in their order.
    """
    space = genomes.space
    steps = {
        kind: max((len(_staying(g)) for g in space.genes if g.kind == kind), default=1)
        for kind in ("heads", "width")
    }
    found = []
    for at in itertools.product(*(range(count) for count in steps.values())):
        step = dict(zip(steps, at, strict=True))
        genome = tuple(
            _uniform(gene, step[gene.kind], steps[gene.kind]) if gene.kind in steps
            else len(gene.choices) - 1
            for gene in space.genes
        )  # fmt: skip
        found.append(genomes.spec(space.canonical(genome)))
    return tuple(spec for spec in dict.fromkeys(found) if spec != genomes.subnets.full)


def _uniform(gene: Gene, step: int, steps: int) -> int:
    """The choice of a gene at one of so many steps from the least that stays to the whole."""
    staying = _staying(gene)
    share = step / (steps - 1) if steps > 1 else 1.0
    return staying[round(share * (len(staying) - 1))]


def _staying(gene: Gene) -> list[int]:
    """The choices by which a part stays."""
    return [i for i, choice in enumerate(gene.choices) if choice != 0]


def _groups(subnets: SubnetSpace, layer: int) -> list[tuple[int, ...]]:
    """The genes of a layer that go together: each by itself, as long as all can be listed."""
    own = [i for i, target in enumerate(subnets.targets) if target.layer == layer]
    if math.prod(len(subnets.genes[i].choices) for i in own) <= MOST_TIED:
        return [(i,) for i in own]
    alike: dict[tuple[str, tuple[Choice, ...]], list[int]] = {}
    for i in own:
        alike.setdefault((subnets.targets[i].field, subnets.genes[i].choices), []).append(i)
    return [tuple(numbers) for numbers in alike.values()]


def _gene(gene: SubnetGene, target: Target) -> Gene:
    choices: tuple[Label, ...] = gene.choices
    if target.field == "skipped":
        choices = (_OUT, _IN)
    return Gene(gene.name, choices, target.field)


def _rules(subnets: SubnetSpace, made: Mapping[tuple[int, ...], Gene]) -> list[Rule]:
    """Of one layer: left out, nothing of it counts; without its attention, nor do the heads."""
    rules = []
    at = {subnets.targets[numbers[0]]: gene for numbers, gene in made.items()}
    for target, gene in at.items():
        if target.field == "skipped":
            others = tuple(other.name for other in at.values() if other is not gene)
            rules.append(Rule(gene.name, _OUT, others))
        heads = at.get(Target(target.layer, "heads", target.index))
        if target.field == "kind" and heads is not None and gene.choices[0] == "none":
            rules.append(Rule(gene.name, "none", (heads.name,)))
            if heads.choices[0] == 0:  # no heads is no attention
                rules.append(Rule(heads.name, 0, (gene.name,)))
    return rules


def _kept(spec: SubnetSpec, target: Target) -> Label | None:
    """What a spec has where a gene's choice goes; None where that means nothing."""
    layer = spec.layers[target.layer]
    if target.field == "skipped":
        return _OUT if layer.skipped else _IN
    if layer.skipped:
        return None
    if target.field == "width":
        return layer.widths[target.index]
    attention: AttentionSpec = layer.attention[target.index]
    if target.field == "kind":
        return attention.kind
    return attention.heads or None


def _choice(label: Label) -> Choice:
    if label in (_OUT, _IN):
        return label == _OUT
    return label if isinstance(label, str) else int(label)
