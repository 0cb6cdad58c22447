"""What may be held: judged on rows held out, by the lower end; and what a generation remembers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evolve.evolution.anchors import Timing
from evolve.evolution.genomes import genomes_of
from evolve.evolution.inputs import Inputs, prepared
from evolve.evolution.judging import Bench, Verdict
from evolve.evolution.latency import Latency, Work, features, fitted
from evolve.evolution.memory import Held, Memory, recalled
from evolve.evolution.selection import selected
from evolve.evolution.settings import GenerationConfig
from profiler.shapes import Shape
from supernet.capture.subject import capture
from supernet.elastic.supernet import Supernet
from supernet.jobs import checkpoints
from supernet.jobs.errors import JobRefused
from tests.evolve.tiered import EXAMPLES, two_layers


@pytest.fixture(scope="module")
def net() -> Supernet:
    return Supernet.of(capture(two_layers(), EXAMPLES))


@pytest.fixture(scope="module")
def given(net: Supernet) -> Inputs:
    rows = torch.randn(100, 8, generator=torch.Generator().manual_seed(2)).clamp(-2, 2)
    return prepared(net.signature, [[row] for row in rows.split(4)])


@pytest.fixture(scope="module")
def bench(net: Supernet, given: Inputs) -> Bench:
    return Bench(given.judges, net.module(net.full), "cosine")


@pytest.fixture(scope="module")
def latency(net: Supernet) -> Latency:
    """Of a service in which layers alone cost."""
    work, law, shape = Work(net), np.array([0.0, 1.0, 0.0]), Shape(1)
    specs = list(net.space.specs())
    timings = [Timing(s, shape, float(np.array(features(work, s, shape)) @ law) + 0.01)
               for s in specs]  # fmt: skip
    return fitted(net, timings, {shape: 1.0})


def tier(net: Supernet, layer: str, name: str, change: float = 0.0) -> Held:
    """The model without a layer, its weights the model's but for noise."""
    spec = net.full.replace(layer, skipped=True).canonical()
    noise = torch.Generator().manual_seed(5)
    weights = {
        key: weight + change * torch.randn(weight.shape, generator=noise)
        for key, weight in net.original.items()
    }
    return Held(name, spec, weights)


def test_rows_are_taken_apart_and_none_that_judges_is_learnt_from(given: Inputs) -> None:
    parts = rows_of(given)
    assert [len(part) >= least for part, least in zip(parts, (8, 4, 50), strict=True)] == [True] * 3
    assert sum(map(len, parts)) == len(set.union(*parts)) == 100


def rows_of(given: Inputs) -> tuple[set[bytes], ...]:
    """Those that judge tiers, that judge weights, and to learn from."""
    corpus = given.corpus
    return tuple(
        {row.numpy().tobytes() for batch in batches for row in batch.inputs[0].split(1)}
        for batches in (given.judges, corpus.held_out, corpus.training)
    )


def test_what_came_in_an_earlier_generation_is_of_the_same_part_again(net: Supernet) -> None:
    rows = torch.randn(3000, 8, generator=torch.Generator().manual_seed(4))
    before, later = (rows_of(prepared(net.signature, [[part]])) for part in (rows, rows[1000:]))
    assert len(before[0]) == 256
    for part in (0, 1):
        assert not later[part] & before[2]


def test_the_lower_end_decides_and_not_the_mean(
    net: Supernet, bench: Bench, latency: Latency
) -> None:
    rough = tier(net, "blocks.1", "rough", 0.1)
    verdict = bench.judge(lambda *x: net.module(rough.spec, rough.weights)(*x)).quality
    assert verdict.lower < verdict.value < 1.0
    between = (verdict.lower + verdict.value) / 2
    refused = selected(net, bench, [], [rough], latency, config(between), None)
    assert refused.tiers == ()
    assert "no tier: none of 1 agrees" in refused.reason
    (held,) = selected(net, bench, [], [rough], latency, config(verdict.lower), None).tiers
    assert (held.quality, held.lower) == (verdict.value, verdict.lower)


def config(min_quality: float) -> GenerationConfig:
    return GenerationConfig(min_quality=min_quality, speedups=(1.2,))


def test_what_serves_stays_unless_another_is_better_beyond_doubt(
    net: Supernet, bench: Bench, latency: Latency
) -> None:
    old, same, worse = (tier(net, "blocks.1", name, by)
                        for name, by in (("old", 0.0), ("same", 0.0), ("worse", 0.2)))  # fmt: skip

    def chosen(held: Held, fresh: Held) -> str:
        return selected(net, bench, [held], [fresh], latency, config(0.1), None).tiers[0].name

    assert chosen(old, same) == "old"
    assert chosen(worse, same) == "same"
    assert chosen(old, worse) == "old"


def test_too_slow_a_tier_is_none(net: Supernet, bench: Bench, latency: Latency) -> None:
    quick = tier(net, "blocks.1", "quick")
    found = selected(net, bench, [], [quick], latency, GenerationConfig(speedups=(9.0,)), None)
    assert found.tiers == ()
    assert "no tier: none that passes is 9 times as fast" in found.reason


def test_nan_answers_agree_in_nothing(net: Supernet, bench: Bench) -> None:
    broken: Callable[..., Any] = lambda *x: [torch.full_like(o, torch.nan) for o in asked(x)]  # noqa: E731

    def asked(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        return list(net.module(net.full)(*inputs))

    assert bench.judge(broken).quality.value == 0.0
    assert not Verdict(np.ones(4), 0).is_better_than(Verdict(np.ones(4), 0))


def test_memory_is_that_of_the_last_whole_generation(
    net: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = tier(net, "blocks.1", "subnet-1")
    state = {"space": genomes_of(net.space).space.to_json()}
    first = recalled(tmp_path, net, "model")
    assert (first.generation, first.weights, first.held) == (0, None, ())
    Memory(1, dict(net.weights), 1, state, held=(held,), of="model").keep(tmp_path)

    def killed(folder: Path, key: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(checkpoints, "write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            Memory(2, None, 2, state, of="model").keep(tmp_path)
    again = recalled(tmp_path, net, "model")
    assert (again.generation, again.version, again.search) == (1, 1, state)
    assert again.weights is not None
    assert all(torch.equal(again.weights[name], w) for name, w in net.weights.items())
    assert [(one.name, one.spec) for one in again.held] == [(held.name, held.spec)]
    assert recalled(tmp_path, net, "another").generation == 0


def test_few_rows_are_enough_and_fewer_are_refused(net: Supernet) -> None:
    rows = torch.randn(20, 8)
    few = prepared(net.signature, [[row] for row in rows.split(1)])
    assert [len(part) for part in rows_of(few)] == [8, 4, 8]
    with pytest.raises(JobRefused, match=r"at least 20 different rows, .* got 19"):
        prepared(net.signature, [[rows[:19]]])
