"""From a supernet and a corpus to a few sub-networks that agree with the original, top to bottom.

::

    importance ─► scores of depth subsets and of every gene alone ─► local distillation
      ─► candidates (chooser) ─► their weights together ─► tiers (chooser) ─► each tier by itself

Which sub-networks are worth it is the chooser's to say: it knows what they cost where they run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from supernet.distillation.batches import Corpus
from supernet.distillation.distiller import distill
from supernet.distillation.judging.quality import measure_for
from supernet.distillation.judging.scoring import Chooser, Scorer, depth_subsets, replaced_once
from supernet.distillation.learning.checkpoint import identity
from supernet.distillation.learning.losses import kinds_of
from supernet.distillation.learning.teacher import Teacher, Teachers
from supernet.distillation.result import Distilled
from supernet.distillation.settings import DistillConfig, Hooks
from supernet.distillation.stages import Stages
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.supernet import Supernet
from supernet.errors import SupernetError

__all__ = ["Chooser", "Improved", "PipelineConfig", "Scorer", "Stopped",
           "Tier", "depth_subsets", "improve",
           "replaced_once"]  # fmt: skip

_SHARES = ("scores", "local", "choice", "together", "alone")


class Stopped(SupernetError):
    """It was asked to stop between two steps; called again with its folder it goes on."""


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
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share from 0 to 1, got {getattr(self, name)}")

    def learning(self, share: float, *, local: bool) -> DistillConfig:
        """The settings of a distillation in one phase alone."""
        steps = (self.distill.local_steps, 0) if local else (0, self.distill.global_steps)
        return replace(
            self.distill, local_steps=steps[0], global_steps=steps[1],
            budget_s=max(1e-9, self.budget_s * share), local_share=1.0 if local else 0.0,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Tier:
    """One sub-network and a supernet with weights of its own. `distilled`: its training, None where
    an earlier start did that."""

    spec: SubnetSpec
    net: Supernet
    distilled: Distilled | None


@dataclass(frozen=True, slots=True, eq=False)
class Improved:
    """What came of it, step by step. `first` are the scores before training; `notes`: what the
    distillations said. `local` and `together` are None where an earlier start did them."""

    net: Supernet
    first: Mapping[SubnetSpec, float]
    local: Distilled | None
    candidates: tuple[SubnetSpec, ...]
    together: Distilled | None
    tiers: tuple[Tier, ...]
    notes: tuple[str, ...] = ()


def improve(
    net: Supernet,
    corpus: Corpus,
    chooser: Chooser,
    config: PipelineConfig | None = None,
    hooks: Hooks | None = None,
    say: Callable[[str], None] = lambda words: None,
    *,
    keep: Path | None = None,
    is_ready: bool = False,
) -> Improved:
    """All of it, within the budget but for what judging takes. ``say`` hears of each part.

    ``keep``: a folder for what is finished; called with the same again, it goes on from there.
    ``is_ready``: units are in order and layers have learnt alone: it begins with candidates.
    """
    return _Way(net, corpus, chooser, config or PipelineConfig(), hooks or Hooks(), say, keep).run(
        is_ready=is_ready
    )


class _Way:
    """One improvement under way."""

    def __init__(
        self, net: Supernet, corpus: Corpus, chooser: Chooser, config: PipelineConfig, hooks: Hooks,
        say: Callable[[str], None], keep: Path | None,
    ) -> None:  # fmt: skip
        self._start, self._corpus, self._chooser = net, corpus, chooser
        self._config, self._hooks, self._say = config, hooks, say
        self._stages = Stages(keep, "" if keep is None else _identity(net, corpus, config))
        self._teachers = Teachers.of(net, corpus, config.distill.memory_mib)
        self._kinds = config.distill.kinds or kinds_of(net)
        self._measure = config.distill.measure or measure_for(self._kinds, net.signature)
        self._probe = Teacher(net, corpus.held_out[: config.probe_batches])
        self._trained: dict[str, Distilled] = {}
        self._notes: list[str] = []

    def run(self, *, is_ready: bool) -> Improved:
        net = self._start
        first: dict[SubnetSpec, float] = {}
        if not is_ready:
            net, first = self._ordered()
            self._say("every layer by itself")
            net = self._distilled("local", net, None, self._config.local)
        candidates = self._candidates(net, first)
        self._say(f"{len(candidates)} candidates together")
        net = self._distilled("together", net, candidates, self._config.together)
        tiers: list[Tier] = []
        chosen = self._specs("tiers", lambda: self._chooser.tiers(
            self._scorer(net, self._config.choice), candidates))  # fmt: skip
        for spec in chosen:
            part = f"tier {len(tiers) + 1}"
            self._say(f"{part} of {len(chosen)} by itself")
            share = self._config.alone / len(chosen)
            own = self._distilled(part, net, [spec], share)
            tiers.append(Tier(spec, own, self._trained.get(part)))
        return Improved(
            net, first, self._trained.get("local"), candidates, self._trained.get("together"),
            tuple(tiers), tuple(dict.fromkeys(self._notes)),
        )  # fmt: skip

    def _ordered(self) -> tuple[Supernet, dict[SubnetSpec, float]]:
        """Units in order of importance, and scores before any training."""

        def make() -> tuple[Supernet, Any]:
            self._say("units in order of importance")
            batches = self._corpus.training[: self._config.importance_batches]
            net = self._start.reordered([batch.inputs for batch in batches])
            self._say("scores of depth subsets and of every gene alone")
            asked = [net.full, *depth_subsets(net), *replaced_once(net)]
            found = self._scorer(net, self._config.scores).of(asked)
            return net, [[spec.to_json(), score] for spec, score in found.items()]

        net, told = self._stages.net("ordered", self._start, make)
        return net, {SubnetSpec.from_json(spec): float(score) for spec, score in told}

    def _candidates(
        self, net: Supernet, first: Mapping[SubnetSpec, float]
    ) -> tuple[SubnetSpec, ...]:
        self._say("candidates")
        scorer = self._scorer(net, self._config.choice)
        return self._specs("candidates", lambda: self._chooser.candidates(scorer, first))

    def _specs(
        self, part: str, choose: Callable[[], Sequence[SubnetSpec]]
    ) -> tuple[SubnetSpec, ...]:
        told = self._stages.record(part, lambda: [spec.to_json() for spec in choose()])
        return tuple(SubnetSpec.from_json(spec) for spec in told)

    def _distilled(
        self, part: str, net: Supernet, specs: Sequence[SubnetSpec] | None, share: float
    ) -> Supernet:
        def make() -> tuple[Supernet, Any]:
            learning = self._config.learning(share, local=part == "local")
            found = distill(
                net, self._corpus, specs, learning, hooks=self._hooks, teachers=self._teachers,
                folder=self._stages.steps(part),
            )  # fmt: skip
            if found.ended == "stopped" and self._stages.steps(part) is not None:
                raise Stopped(f"it was stopped in the part {part!r}")
            self._trained[part] = found
            return found.net, list(found.notes)

        made, notes = self._stages.net(part, net, make)
        self._notes.extend(notes)
        return made

    def _scorer(self, of: Supernet, share: float) -> Scorer:
        seconds = self._config.budget_s * share
        return Scorer(of, self._probe, self._measure, self._kinds, seconds, self._hooks.clock)


def _identity(net: Supernet, corpus: Corpus, config: PipelineConfig) -> str:
    inputs = {f"{part}.{i}.{j}": tensor for part in ("training", "held_out")
              for i, batch in enumerate(getattr(corpus, part))
              for j, tensor in enumerate(batch.inputs)}  # fmt: skip
    shares = {name: getattr(config, name) for name in (*_SHARES, "budget_s", "probe_batches")}
    return identity({**net.weights, **inputs}, shares, config.distill.to_json())
