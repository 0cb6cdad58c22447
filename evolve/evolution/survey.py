"""What can be made smaller of a model, and what that would cost, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from evolve.evolution.choice import Bounds, Choice
from evolve.evolution.front import Point, points
from evolve.evolution.ground import ground
from evolve.evolution.inputs import Inputs
from evolve.evolution.memory import Memory
from evolve.evolution.settings import GenerationConfig
from policies.strategic import StrategicSearch
from profiler.shapes import ShapeGrid
from supernet.distillation.judging.quality import measure_for
from supernet.distillation.learning.losses import kinds_of
from supernet.distillation.learning.teacher import Teacher
from supernet.distillation.pipeline import Scorer
from supernet.elastic.supernet import Supernet

__all__ = ["Survey", "survey"]

_PROBED = 8
_ORDERED = 8


@dataclass(frozen=True, slots=True)
class Survey:
    """`front`: points of the picture, those within each speed marked as tiers, though nothing is
    trained; `measured`: sub-networks; `measure`: of quality; `described`: how far latencies can be
    trusted."""

    front: tuple[Point, ...]
    measured: int
    measure: str
    described: str
    notes: tuple[str, ...]


def survey(
    net: Supernet,
    grid: ShapeGrid,
    inputs: Inputs,
    config: GenerationConfig,
    clock: Callable[[], float],
    say: Callable[[str, float], None] = lambda words, share: None,
) -> Survey:
    """By the strategic search, `config.measured` sub-networks or as many as there is time for.

    Units are put in order of importance first, as a training would. `JobRefused` where nothing can
    be left out.
    """
    say("times of a few sub-networks", 0.0)
    base = ground(net, grid, inputs, config.engine, Memory())
    say("units in order of importance", 0.0)
    net = net.reordered([batch.inputs for batch in inputs.corpus.training[:_ORDERED]])
    kinds = kinds_of(net)
    measure = measure_for(kinds, net.signature)
    probe = Teacher(net, inputs.corpus.held_out[:_PROBED])
    scorer = Scorer(net, probe, measure, kinds, config.budget_s, clock)
    aim = Bounds(config.speedups)
    search = StrategicSearch(base.genomes.space, seed=config.seed)
    choice = Choice(base.genomes, base.latency, aim, search, config.measured)
    choice.said = lambda: say("search", len(scorer.known) / config.measured)
    choice.candidates(scorer, {})
    known = {spec: score for spec, score in scorer.known.items() if spec != net.full}
    best = aim.of(known, base.latency, choice.whole_ms, 1)
    front = points(net, base.genomes, choice, base.latency, {spec: known[spec] for spec in best})
    notes = (*inputs.notes, *base.notes)
    return Survey(front, len(scorer.known), measure, base.latency.described, notes)
