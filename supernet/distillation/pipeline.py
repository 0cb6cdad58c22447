"""From a supernet and a corpus to a few sub-networks that agree with the original, top to bottom.

::

    importance ─► scores of depth subsets and of every gene alone ─► local distillation
      ─► candidates (chooser) ─► their weights together ─► tiers (chooser) ─► each tier by itself

Which sub-networks are worth it is the chooser's to say: it knows what they cost where they run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from supernet.distillation.batches import Corpus
from supernet.distillation.distiller import distill
from supernet.distillation.losses import Kind, kinds_of
from supernet.distillation.quality import Measure, agreement, measure_for
from supernet.distillation.result import Distilled
from supernet.distillation.settings import DistillConfig, Hooks
from supernet.distillation.teacher import Teacher, Teachers
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.supernet import Supernet

__all__ = ["Chooser", "Improved", "PipelineConfig", "Scorer", "Tier", "depth_subsets", "improve",
           "replaced_once"]  # fmt: skip

_MOST_SUBSETS = 64


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """How the seconds of ``budget_s`` are shared out, and how distillations learn.

    What a part leaves over is nobody's; shares need not add up to 1. ``probe_batches`` of those
    held out tell sub-networks apart, ``importance_batches`` of those to train on put units in
    order.
    """

    budget_s: float = 3600.0
    scores: float = 0.05
    local: float = 0.12
    choice: float = 0.08
    together: float = 0.25
    alone: float = 0.35
    probe_batches: int = 8
    importance_batches: int = 8
    distill: DistillConfig = field(default_factory=DistillConfig)

    def __post_init__(self) -> None:
        if not self.budget_s > 0:
            raise ValueError(f"budget_s must be positive, got {self.budget_s}")
        for name in ("scores", "local", "choice", "together", "alone"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share from 0 to 1, got {getattr(self, name)}")

    def learning(self, share: float, *, local: bool) -> DistillConfig:
        """The settings of a distillation in one phase alone."""
        steps = (self.distill.local_steps, 0) if local else (0, self.distill.global_steps)
        return replace(
            self.distill, local_steps=steps[0], global_steps=steps[1],
            budget_s=max(1e-9, self.budget_s * share), local_share=1.0 if local else 0.0,
        )  # fmt: skip


class Scorer:
    """The mean agreement of sub-networks with the original on a few batches, each worked out once
    for the weights of `net`. After so many ``seconds`` by the clock no more should be asked."""

    def __init__(
        self, net: Supernet, probe: Teacher, measure: Measure, kinds: Sequence[Kind],
        seconds: float, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.net, self._probe, self._measure, self._kinds = net, probe, measure, kinds
        self._clock = clock
        self._ends_s = clock() + seconds
        self.known: dict[SubnetSpec, float] = {}

    @property
    def has_time(self) -> bool:
        return self._clock() < self._ends_s

    def __call__(self, spec: SubnetSpec) -> float:
        """From -1 to 1 for cosine, else 0 to 1; NaN for answers that are not finite."""
        spec = self.net.space.check(spec)
        if spec not in self.known:
            module = self.net.module(spec)
            rows = agreement(self._measure, self._probe, module, self._kinds, self.net.signature)
            self.known[spec] = float(rows.mean())
        return self.known[spec]

    def of(self, specs: Sequence[SubnetSpec]) -> dict[SubnetSpec, float]:
        """Of as many of these, in their order, as there is time for: of one at least."""
        found: dict[SubnetSpec, float] = {}
        for spec in specs:
            if found and not self.has_time:
                break
            found[spec] = self(spec)
        return found


class Chooser(Protocol):
    """Who says which sub-networks are worth training, and which of them to hold."""

    def candidates(self, scorer: Scorer, first: Mapping[SubnetSpec, float]) -> Sequence[SubnetSpec]:
        """Some that may be worth it; ``first``: scores before any training, of depth subsets and of
        single genes, under other weights than the scorer's."""

    def tiers(self, scorer: Scorer, candidates: Sequence[SubnetSpec]) -> Sequence[SubnetSpec]:
        """Those to hold, of the candidates or others, now that they are trained together."""


@dataclass(frozen=True, slots=True, eq=False)
class Tier:
    """One sub-network with weights of its own: those of `distilled.net`."""

    spec: SubnetSpec
    distilled: Distilled

    @property
    def net(self) -> Supernet:
        return self.distilled.net


@dataclass(frozen=True, slots=True, eq=False)
class Improved:
    """What came of it, step by step. `first` are the scores before training."""

    net: Supernet
    first: Mapping[SubnetSpec, float]
    local: Distilled
    candidates: tuple[SubnetSpec, ...]
    together: Distilled
    tiers: tuple[Tier, ...]


def improve(
    net: Supernet,
    corpus: Corpus,
    chooser: Chooser,
    config: PipelineConfig | None = None,
    hooks: Hooks | None = None,
    say: Callable[[str], None] = lambda words: None,
) -> Improved:
    """All of it, within the budget but for what judging takes. ``say`` hears of each part."""
    config, hooks = config or PipelineConfig(), hooks or Hooks()
    teachers = Teachers.of(net, corpus, config.distill.memory_mib)
    kinds = config.distill.kinds or kinds_of(net)
    measure = config.distill.measure or measure_for(kinds, net.signature)
    probe = Teacher(net, corpus.held_out[: config.probe_batches])

    def scorer(of: Supernet, share: float) -> Scorer:
        return Scorer(of, probe, measure, kinds, config.budget_s * share, hooks.clock)

    say("units in order of importance")
    inputs = [batch.inputs for batch in corpus.training[: config.importance_batches]]
    net = net.reordered(inputs)
    say("scores of depth subsets and of every gene alone")
    first = scorer(net, config.scores).of([net.full, *depth_subsets(net), *replaced_once(net)])
    say("every layer by itself")
    local = distill(
        net, corpus, None, config.learning(config.local, local=True), hooks=hooks,
        teachers=teachers,
    )  # fmt: skip
    say("candidates")
    candidates = tuple(chooser.candidates(scorer(local.net, config.choice), first))
    say(f"{len(candidates)} candidates together")
    together = distill(
        local.net, corpus, candidates, config.learning(config.together, local=False),
        hooks=hooks, teachers=teachers,
    )  # fmt: skip
    tiers: list[Tier] = []
    chosen = chooser.tiers(scorer(together.net, config.choice), candidates)
    for spec in chosen:
        say(f"tier {len(tiers) + 1} of {len(chosen)} by itself")
        learning = config.learning(config.alone / len(chosen), local=False)
        found = distill(together.net, corpus, [spec], learning, hooks=hooks, teachers=teachers)
        tiers.append(Tier(spec, found))
    return Improved(together.net, first, local, candidates, together, tuple(tiers))


def depth_subsets(net: Supernet) -> tuple[SubnetSpec, ...]:
    """Every choice of layers to leave out, the fewest first, as long as one stays; of a deep model,
    with more than 64 of them, those that leave out one layer or neighbours."""
    names = [layer.name for layer in net.anatomy.layers if layer.stream is not None]
    others = len(net.anatomy.layers) > len(names)
    most = len(names) if others else len(names) - 1
    if 2 ** len(names) <= _MOST_SUBSETS:
        gone = [g for count in range(1, most + 1) for g in itertools.combinations(names, count)]
    else:
        gone = [tuple(names[i : i + n]) for n in range(1, most + 1)
                for i in range(len(names) - n + 1)][: 4 * _MOST_SUBSETS]  # fmt: skip
    return tuple(_without(net, some) for some in gone)


def _without(net: Supernet, names: Sequence[str]) -> SubnetSpec:
    spec = net.full
    for name in names:
        spec = spec.replace(name, skipped=True)
    return spec.canonical()


def replaced_once(net: Supernet) -> tuple[SubnetSpec, ...]:
    """The original with one gene at each other choice that it has."""
    found = dict.fromkeys(
        net.space.spec({gene.name: choice})
        for gene in net.space.genes
        for choice in gene.choices[:-1]
    )
    return tuple(found)
