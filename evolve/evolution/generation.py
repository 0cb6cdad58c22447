"""One generation of a model's evolution: searched, trained, judged, chosen.

    memory, inputs ─► latency ─► improve: search, training ─► trial ─► selection ─► outcome, memory
                     (anchors)  (supernet.distillation)     (held out)  (bounds, or the twin)

The original is the teacher and the judge in every generation, so that losses do not add up. A tier
that served before stays, under its name, unless another is better beyond doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from evolve.evolution.anchors import EAGER, Engine, Kernels, Timing, anchors, timed
from evolve.evolution.choice import Aim, Bounds, Choice, Useful
from evolve.evolution.front import Point, points
from evolve.evolution.genomes import Genomes, genomes_of
from evolve.evolution.inputs import Inputs
from evolve.evolution.judging import Bench
from evolve.evolution.latency import Latency, fitted, mix_of, shapes_of
from evolve.evolution.memory import Held, Memory
from evolve.evolution.selection import Proposal, Selection, selected, trained
from evolve.evolution.settings import GenerationConfig
from evolve.evolution.worth import Worth
from policies.strategic import StrategicSearch
from profiler.shapes import Shape, ShapeGrid
from supernet.distillation.losses import kinds_of
from supernet.distillation.pipeline import Improved, PipelineConfig, improve
from supernet.distillation.quality import Measure
from supernet.distillation.settings import DistillConfig, Hooks
from supernet.elastic.supernet import Supernet
from supernet.errors import BuildFailed
from supernet.jobs.errors import JobRefused

__all__ = ["Outcome", "evolve"]

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


def evolve(
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
    genomes = _genomes(net)
    say("times of a few sub-networks")
    latency, timings, engine, notes = _latency(net, genomes, grid, inputs, memory, config, kernels)
    ready = net if memory.weights is None else net.with_weights(memory.weights)
    choice = Choice(
        genomes, latency, _aim(config, worth), _search(genomes, memory, config.seed),
        config.measured, None if keep is None else keep / "search.json",
    )  # fmt: skip
    left_s = max(1e-3, config.budget_s - (hooks.clock() - began_s))
    pipeline = _pipeline(net, config, left_s if keep is None else config.budget_s, memory)
    improved = _improved(ready, inputs, choice, pipeline, hooks, say, keep, memory)
    say("trial on inputs held out")
    bench = Bench(inputs.judges, net.module(net.full), config.agreement, config.seed)
    fresh = trained(improved, inputs.corpus.training)
    say("selection")
    selection = selected(net, bench, memory.held, fresh, latency, config, worth)
    outcome = Outcome(
        selection.tiers, f"{selection.reason}; {latency.described} ({engine})",
        memory.generation + 1, len(choice.search.evaluations()),
        points(net, genomes, choice, latency, selection.tiers), selection.utility,
        (*inputs.notes, *notes, *improved.notes),
    )  # fmt: skip
    return outcome, _remembered(memory, improved, choice, engine, timings, selection)


def _genomes(net: Supernet) -> Genomes:
    try:
        return genomes_of(net.space)
    except ValueError as error:
        why = "; ".join(f"{one.where or 'it'}: {one.why}" for one in net.refused[:3])
        raise JobRefused(f"{error}{f' ({why})' if why else ''}") from error


def _latency(
    net: Supernet, genomes: Genomes, grid: ShapeGrid, inputs: Inputs, memory: Memory,
    config: GenerationConfig, kernels: Kernels | None,
) -> tuple[Latency, tuple[Timing, ...], Engine, tuple[str, ...]]:  # fmt: skip
    """Fitted to times that are known, or taken now where none are for this engine."""
    engine = config.engine
    notes: tuple[str, ...] = ()
    timings = memory.timings if memory.engine == engine else ()
    if not timings:
        shapes = shapes_of(grid, inputs.lengths, batchable=net.signature.batchable)
        timings, engine, notes = _timed(net, genomes, shapes, inputs, engine, kernels)
    shapes = tuple(dict.fromkeys(timing.shape for timing in timings))
    return fitted(net, timings, mix_of(shapes, inputs.lengths)), timings, engine, notes


def _timed(
    net: Supernet, genomes: Genomes, shapes: tuple[Shape, ...], inputs: Inputs, engine: Engine,
    kernels: Kernels | None,
) -> tuple[tuple[Timing, ...], Engine, tuple[str, ...]]:  # fmt: skip
    specs, example = anchors(net, genomes), inputs.corpus.training[0].inputs
    threads = torch.get_num_threads()
    try:
        return timed(net, specs, shapes, example, engine, kernels), engine, ()
    except (BuildFailed, ImportError, OSError, RuntimeError, ValueError) as error:
        if engine == EAGER:
            raise JobRefused(f"sub-networks cannot be timed: {error}") from error
        note = f"timed by eager, for {engine} could not be: {type(error).__name__}: {error}"[:300]
        return timed(net, specs, shapes, example, EAGER), EAGER, (note,)
    finally:
        torch.set_num_threads(threads)


def _aim(config: GenerationConfig, worth: Worth | None) -> Aim:
    if worth is None:
        return Bounds(config.speedups)
    return Useful(worth, config.most_tiers, config.min_quality)


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
    memory: Memory, improved: Improved, choice: Choice, engine: Engine,
    timings: tuple[Timing, ...], selection: Selection,
) -> Memory:  # fmt: skip
    moved = improved.together is None or improved.together.improved or memory.weights is None
    return replace(
        memory, generation=memory.generation + 1, weights=improved.net.weights,
        version=memory.version + moved, search=choice.search.state(), engine=engine,
        timings=timings,
        held=tuple(Held(one.name, one.spec, one.weights) for one in selection.tiers),
    )  # fmt: skip
