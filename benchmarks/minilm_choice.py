"""The chooser of the MiniLM pipeline: the strategic search, under bounds of latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from policies.strategic import Evaluation, Gene, Objectives, Rule, Space, StrategicSearch
from supernet.distillation.pipeline import Scorer
from supernet.distillation.sampling import parameters
from supernet.elastic.space import Space as SubnetSpace
from supernet.elastic.subnet import AttentionSpec, LayerSpec, SubnetSpec

__all__ = ["Choice", "genomes_of", "uniform_slices"]

_ASKED = 16
_PER_BOUND = 3
_OUT, _IN = "out", "in"


def genomes_of(space: SubnetSpace) -> Space:
    """The same space as the search spells it: genes ascending, one spelling of each sub-network."""
    genes, rules = [], []
    for gene in space.genes:
        if gene.name.endswith(".skipped"):
            genes.append(Gene(gene.name, (_OUT, _IN), "skipped"))
            layer = gene.name.removesuffix("skipped")
            others = [g.name for g in space.genes if g.name.startswith(layer) and g is not gene]
            rules.append(Rule(gene.name, _OUT, tuple(others)))
        else:
            choices = tuple(c if isinstance(c, str) else int(c) for c in gene.choices)
            genes.append(Gene(gene.name, choices, gene.name.rpartition(".")[2]))
            if gene.name.endswith(".kind"):
                heads = gene.name.removesuffix("kind") + "heads"
                rules.append(Rule(gene.name, "none", (heads,)))
    return Space(genes, rules)


def uniform_slices(space: SubnetSpace) -> tuple[SubnetSpec, ...]:
    """Sub-networks whose layers all keep the same of themselves."""
    names = [layer.name for layer in space.full.layers]
    first = {g.name.rpartition(".")[2]: g.choices for g in space.genes
             if g.name.startswith(f"{names[0]}.")}  # fmt: skip
    return tuple(
        SubnetSpec(
            tuple(
                LayerSpec(name, attention=(AttentionSpec("softmax", int(heads)),), widths=(int(w),))
                for name in names
            )
        )
        for heads in first["heads"]
        for w in first["width"]
        if w
    )


@dataclass
class Choice:
    """Keeps, for each bound, the best by agreement whose latency lies within it.

    `latency_ms` of a sub-network; `bounds_ms`, one for each tier; `found`: the records of the
    search's generations; `slices`: the uniform slice just within each bound, trained with the
    others.
    """

    latency_ms: Callable[[SubnetSpec], float]
    bounds_ms: Sequence[float]
    seed: int
    found: list[str] = field(default_factory=list)
    slices: tuple[SubnetSpec, ...] = ()
    evaluated: int = 0

    def candidates(self, scorer: Scorer, first: Mapping[SubnetSpec, float]) -> Sequence[SubnetSpec]:
        """The best few under each bound, found by the search and among depth subsets."""
        own = scorer.net.space
        space = genomes_of(own)
        search = StrategicSearch(space, seed=self.seed, weights="local")
        depths = [s for s in first if s != own.full and any(layer.skipped for layer in s.layers)]
        for bound_ms in self.bounds_ms:  # half the time at most is for what is known to be good
            within = sorted((s for s in depths if self.latency_ms(s) <= bound_ms),
                            key=lambda s: -first[s])  # fmt: skip
            scorer.of(within[:_PER_BOUND])
        while scorer.has_time and (asked := search.ask(_ASKED)):
            told = []
            for genome in asked:
                if told and not scorer.has_time:
                    break
                spec = own.spec({k: _back(v) for k, v in space.decode(genome).items()})
                told.append(Evaluation(genome, self._objectives(scorer, spec), "local"))
            record = search.tell(told)
            self.found.append(f"{record.evaluations} measured, {len(search.front())} on the front")
        self.slices = tuple(self._slice(own, bound_ms) for bound_ms in self.bounds_ms)
        for one in self.slices:  # whatever time is left: there is always something to train
            scorer(one)
        self.evaluated = len(scorer.known)
        best = [s for b in self.bounds_ms for s in self._within(scorer.known, b)[:_PER_BOUND]]
        return tuple(dict.fromkeys([*best, *self.slices]))

    def tiers(self, scorer: Scorer, candidates: Sequence[SubnetSpec]) -> Sequence[SubnetSpec]:
        """The best of the candidates under each bound."""
        known = {spec: scorer(spec) for spec in candidates}
        return tuple(self._within(known, bound_ms)[0] for bound_ms in self.bounds_ms)

    def _slice(self, space: SubnetSpace, bound_ms: float) -> SubnetSpec:
        """The uniform slice that takes most of what the bound allows; the fastest if none fits."""
        slices = sorted(uniform_slices(space), key=self.latency_ms)
        fitting = [spec for spec in slices if self.latency_ms(spec) <= bound_ms]
        return fitting[-1] if fitting else slices[0]

    def _within(self, known: Mapping[SubnetSpec, float], bound_ms: float) -> list[SubnetSpec]:
        found = [spec for spec in known if self.latency_ms(spec) <= bound_ms]
        return sorted(found, key=lambda spec: -known[spec])

    def _objectives(self, scorer: Scorer, spec: SubnetSpec) -> Objectives:
        weights_mib = parameters(scorer.net, spec) * 4 / 2**20
        return Objectives(1.0 - scorer(spec), self.latency_ms(spec), weights_mib)


def _back(choice: object) -> int | str | bool:
    if choice in (_OUT, _IN):
        return choice == _OUT
    return choice if isinstance(choice, str) else int(choice)  # type: ignore[call-overload]
