"""One generation of a model's evolution: searched, trained, judged, chosen.

    memory, inputs ─► ground  ─► improve: search, training ─► trial ─► selection ─► outcome, memory
                     (latency)  (supernet.distillation)     (held out)  (bounds, or the twin)

The original is the teacher and the judge in every generation, so that losses do not add up. A tier
that served before stays, under its name, unless another is better beyond doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from evolve.evolution.anchors import Kernels
from evolve.evolution.choice import Aim, Bounds, Choice, Useful
from evolve.evolution.front import Point, points
from evolve.evolution.genomes import Genomes
from evolve.evolution.ground import Ground, ground
from evolve.evolution.inputs import Inputs
from evolve.evolution.judging import Bench
from evolve.evolution.memory import Held, Memory
from evolve.evolution.selection import Proposal, Selection, selected, trained
from evolve.evolution.settings import GenerationConfig
from evolve.evolution.worth import Worth
from policies.strategic import StrategicSearch
from profiler.shapes import ShapeGrid
from supernet.distillation.judging.quality import Measure
from supernet.distillation.learning.losses import kinds_of
from supernet.distillation.pipeline import Improved, PipelineConfig, improve
from supernet.distillation.settings import DistillConfig, Hooks
from supernet.elastic.supernet import Supernet
from supernet.jobs.errors import JobRefused

__all__ = ["Outcome", "next_generation"]

_TIMED = 0.2
"""Of the budget, after which no further anchor is built."""
_TRAINED = 0.85
"""Of what is left of the budget once anchors are timed; the rest is for trial and selection."""
_UNBOUNDED = 1_000_000
"""Steps: what ends a training is its budget, or how few the inputs are."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What came of a generation, in words and figures. `measured`: of all generations."""

    tiers: tuple[Proposal, ...]
    reason: str
    generation: int
    measured: int
    front: tuple[Point, ...]
    utility: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def next_generation(
    net: Supernet,
    grid: ShapeGrid,
    inputs: Inputs,
    memory: Memory,
    config: GenerationConfig,
    *,
    worth: Worth | None = None,
    hooks: Hooks | None = None,
    kernels: Kernels | None = None,
    keep: Path | None = None,
    say: Callable[[str], None] = lambda words: None,
) -> tuple[Outcome, Memory]:
    """One generation, and what the next is to know. `JobRefused` says why there can be none.

    ``worth``: of sets of tiers, where there was traffic; ``keep``: a folder from which a second
    start with the same goes on.
    """
    hooks = hooks or Hooks()
    began_s = hooks.clock()
    say("times of a few sub-networks")
    base = ground(
        net, grid, inputs, config.engine, memory, kernels=kernels, keep=keep,
        build_s=_TIMED * config.budget_s,
    )  # fmt: skip
    ready = net if memory.weights is None else net.with_weights(memory.weights)
    choice = Choice(
        base.genomes, base.latency, _aim(config, worth),
        _search(base.genomes, memory, config.seed), config.measured,
        None if keep is None else keep / "search.json",
    )  # fmt: skip
    left_s = max(1e-3, config.budget_s - (hooks.clock() - began_s))
    pipeline = _pipeline(net, config, left_s if keep is None else config.budget_s, memory)
    improved = _improved(ready, inputs, choice, pipeline, hooks, say, keep, memory)
    say("trial on inputs held out")
    bench = Bench(inputs.judges, net.module(net.full), config.agreement, config.seed)
    fresh = trained(improved, inputs.corpus.training)
    say("selection")
    selection = selected(net, bench, memory.held, fresh, base.latency, config, worth)
    tiers = {tier.spec: tier.quality for tier in selection.tiers}
    outcome = Outcome(
        selection.tiers, f"{selection.reason}; {base.latency.described} ({base.engine})",
        memory.generation + 1, len(choice.search.evaluations()),
        points(net, base.genomes, choice, base.latency, tiers), selection.utility,
        (*inputs.notes, *base.notes, *improved.notes),
    )  # fmt: skip
    return outcome, _remembered(memory, improved, choice, base, selection)


def _aim(config: GenerationConfig, worth: Worth | None) -> Aim:
    if worth is None:
        return Bounds(config.speedups)
    return Useful(worth, config.most_tiers, config.min_quality, config.speedups)


def _search(genomes: Genomes, memory: Memory, seed: int) -> StrategicSearch:
    """As it was left, for the weights of now; a new one where the genes are others."""
    version = f"w{memory.version}"
    if memory.search is not None and memory.search["space"] == genomes.space.to_json():
        search = StrategicSearch.from_state(memory.search)
        search.move_weights(version)
        return search
    return StrategicSearch(genomes.space, seed=seed, weights=version)


def _pipeline(
    net: Supernet, config: GenerationConfig, left_s: float, memory: Memory
) -> PipelineConfig:
    measure: Measure = "cosine"
    if config.agreement == "top1" and "logits" in kinds_of(net):
        measure = "top1"
    learning = DistillConfig(
        local_steps=_UNBOUNDED, global_steps=_UNBOUNDED, measure=measure,
        seed=config.seed + memory.generation,
    )  # fmt: skip
    first = PipelineConfig(budget_s=left_s * _TRAINED, distill=learning)
    if memory.weights is None:
        return first
    return replace(first, scores=0.0, local=0.0, choice=0.15, together=0.35, alone=0.5)


def _improved(
    net: Supernet, inputs: Inputs, choice: Choice, config: PipelineConfig, hooks: Hooks,
    say: Callable[[str], None], keep: Path | None, memory: Memory,
) -> Improved:  # fmt: skip
    try:
        return improve(
            net, inputs.corpus, choice, config, hooks, say, keep=keep,
            is_ready=memory.weights is not None,
        )  # fmt: skip
    except (ArithmeticError, ValueError) as error:
        raise JobRefused(str(error)) from error


def _remembered(
    memory: Memory, improved: Improved, choice: Choice, base: Ground, selection: Selection
) -> Memory:
    moved = improved.together is None or improved.together.improved or memory.weights is None
    return replace(
        memory, generation=memory.generation + 1, weights=improved.net.weights,
        version=memory.version + moved, search=choice.search.state(), engine=base.engine,
        timings=base.timings,
        held=tuple(Held(one.name, one.spec, one.weights) for one in selection.tiers),
    )  # fmt: skip
