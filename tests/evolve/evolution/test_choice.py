"""What is worth training and holding: by speed, and by what a twin says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evolve.evolution.choice import Aim, Bounds, Choice, Useful
from evolve.evolution.genomes import genomes_of, uniform_slices
from evolve.evolution.settings import WORTHWHILE
from evolve.evolution.worth import Offer, Worth
from policies.strategic import StrategicSearch
from sims.traces import poisson
from sims.twin import Measured, Twin
from supernet.distillation.learning.sampling import parameters
from supernet.distillation.learning.teacher import Teacher
from supernet.distillation.pipeline import Scorer, depth_subsets
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.supernet import Supernet
from supernet.tiers import SUBNET_TIER
from tests.supernet.distillation.test_distillation import corpus_of
from tests.supernet.elastic.elastic_models import captured


@pytest.fixture(scope="module")
def net() -> Supernet:
    return Supernet.of(captured("bert")[1])


@pytest.fixture(scope="module")
def probe(net: Supernet) -> Teacher:
    return Teacher(net, corpus_of(64).held_out)


def scorer_of(net: Supernet, probe: Teacher, seconds: float) -> Scorer:
    steps = iter(range(10_000))
    kinds = ("embedding", "embedding")
    return Scorer(net, probe, "cosine", kinds, seconds, lambda: float(next(steps)))


def chooser(net: Supernet, aim: Aim, keep: Path | None = None) -> Choice:
    def size(spec: SubnetSpec) -> float:
        return parameters(net, spec) / 1000

    genomes = genomes_of(net.space)
    search = StrategicSearch(genomes.space, seed=1, weights="local")
    return Choice(genomes, size, aim, search, 32, keep)


def twin(rate_per_s: float) -> Twin:
    """One worker for which a request takes 5 ms, whatever the batch."""
    cost_ms = np.full((2, 4, 1), 5.0) * np.arange(1, 5)[None, :, None]
    cost_ms[1] /= 4.0  # a tier that serves in it
    tier, accuracy = np.array([0, SUBNET_TIER]), np.array([1.0, 0.9])
    measured = Measured(cost_ms, np.ones(1), 40.0, 1, tier, accuracy)
    return Twin.of(measured, poisson(rate_per_s, 10.0, seed=0), ratios=np.ones(1))


def test_what_is_chosen_lies_within_the_bounds(net: Supernet, probe: Teacher) -> None:
    choice = chooser(net, Bounds((1.25, 1.7)))
    scorer, whole = scorer_of(net, probe, 60.0), choice.whole_ms
    found = choice.candidates(scorer, dict.fromkeys([net.full, *depth_subsets(net)], 0.5))
    assert net.full not in found
    assert len(choice.slices) == 2
    assert set(choice.slices) <= set(uniform_slices(choice.genomes)) & set(found)
    assert 16 <= len(choice.search.evaluations()) <= 32 + 2 + 2
    large, small = choice.tiers(scorer, found)
    assert choice.latency_ms(large) <= whole / 1.25
    assert choice.latency_ms(small) <= whole / 1.7
    fast = [spec for spec in found if choice.latency_ms(spec) <= whole / 1.25]
    assert scorer.known[large] == max(scorer.known[spec] for spec in fast)


def test_a_second_start_finds_what_was_searched(
    net: Supernet, probe: Teacher, tmp_path: Path
) -> None:
    kept = tmp_path / "unfinished" / "search.json"
    before = chooser(net, Bounds(), kept)
    before.candidates(scorer_of(net, probe, 2.0), {})
    again = chooser(net, Bounds(), kept)
    assert again.search.state() == before.search.state()


def test_tiers_are_worth_what_the_load_makes_of_them() -> None:
    quick, exact = Offer("quick", 0.9, 4.0), Offer("exact", 0.99, 1.02)
    busy, idle = Worth(twin(400.0)), Worth(twin(20.0))
    assert busy([quick]) > busy([exact]) >= busy([])
    assert idle([quick]) == idle([]) == 1.0
    assert busy([quick, exact]) == busy([exact, quick])


def test_without_a_plan_of_the_original_nothing_is_worth_anything() -> None:
    known = twin(20.0)
    tier = np.array([SUBNET_TIER, SUBNET_TIER + 1])
    with pytest.raises(ValueError, match="the twin must hold a plan of the original, got none"):
        Worth(replace(known, service=replace(known.service, tier=tier)))


def test_the_twins_set_is_of_those_that_can_pass(net: Supernet) -> None:
    sizes = {spec: parameters(net, spec) / 1000 for spec in depth_subsets(net)}
    slices = {spec: parameters(net, spec) / 1000 for spec in uniform_slices(genomes_of(net.space))}
    known = dict.fromkeys(sizes, 0.5) | dict.fromkeys(slices, 0.95)
    whole = parameters(net, net.full) / 1000
    latency = sizes | slices
    aim = Useful(Worth(twin(400.0)), 2, 0.96)
    chosen = aim.of(known, lambda spec: latency[spec], whole, 1)
    assert 1 <= len(chosen) <= 2
    assert set(chosen) <= set(slices)
    poor = dict.fromkeys(sizes, 0.5) | dict.fromkeys(slices, 0.6)
    hopeful = aim.of(poor, lambda spec: latency[spec], whole, 1)
    assert hopeful, "without any that may pass, those nearest to it"
    assert poor[hopeful[0]] == 0.6
    assert all(latency[spec] * WORTHWHILE <= whole for spec in hopeful)


def test_speedups_are_above_one() -> None:
    with pytest.raises(ValueError, match="speedups must be at least one, each above 1"):
        Bounds((0.5,))
