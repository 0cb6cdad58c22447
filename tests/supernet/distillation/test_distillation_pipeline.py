"""The pipeline of distillation, top to bottom, on a two-layer encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from supernet.capture.probe import agree
from supernet.capture.subject import capture
from supernet.distillation.batches import Batch
from supernet.distillation.judging.quality import agreement
from supernet.distillation.learning.sampling import parameters
from supernet.distillation.learning.teacher import Teacher
from supernet.distillation.pipeline import (
    PipelineConfig,
    Scorer,
    depth_subsets,
    improve,
    replaced_once,
)
from supernet.distillation.settings import DistillConfig
from supernet.elastic.extracted import Subnet
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.supernet import Supernet
from tests.supernet.distillation.test_distillation import corpus_of, narrowed, same
from tests.supernet.elastic.elastic_models import captured

KINDS = ("embedding", "embedding")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def net() -> Supernet:
    return Supernet.of(captured("bert")[1])


@dataclass
class BySize:
    """Two candidates; of these the better one that has at most half the parameters."""

    first: Mapping[SubnetSpec, float] = field(default_factory=dict)

    def candidates(self, scorer: Scorer, first: Mapping[SubnetSpec, float]) -> Sequence[SubnetSpec]:
        self.first = first
        return [narrowed(scorer.net, 2, 16), narrowed(scorer.net, 1, 32)]

    def tiers(self, scorer: Scorer, candidates: Sequence[SubnetSpec]) -> Sequence[SubnetSpec]:
        return [max(candidates, key=scorer)]


def test_every_depth_and_every_gene_are_listed_once(net: Supernet) -> None:
    depths = depth_subsets(net)
    assert [[layer.skipped for layer in spec.layers] for spec in depths] == [
        [True, False], [False, True],
    ]  # fmt: skip
    once = replaced_once(net)
    assert len(once) == len(set(once)) == 2 * (1 + 1 + 2 + 4)
    assert net.full not in once


def test_from_a_model_to_a_tier_on_disk(net: Supernet, tmp_path: Path) -> None:
    corpus, chooser, said = corpus_of(640), BySize(), []
    learning = DistillConfig(
        local_steps=60, global_steps=60, local_learning_rate=3e-3, learning_rate=2e-3
    )
    config = PipelineConfig(distill=learning)
    found = improve(net, corpus, chooser, config, say=said.append)
    assert len(chooser.first) == 1 + 2 + 14  # one layer left out is a subset and a gene's choice
    assert max(chooser.first, key=lambda spec: chooser.first[spec]) == net.full
    (tier,) = found.tiers
    assert tier.spec in found.candidates
    assert parameters(net, tier.spec) < parameters(net, net.full)
    held_out = Teacher(net, corpus.held_out)

    def quality(of: Supernet) -> float:
        rows = agreement("cosine", held_out, of.module(tier.spec), KINDS, net.signature)
        return float(rows.mean())

    assert quality(tier.net) > quality(found.net) > quality(net)
    assert said[-1] == "tier 1 of 1 by itself"
    made = tier.net.extract(tier.spec)
    made.save(tmp_path)
    again = Subnet.load(tmp_path)
    inputs = corpus.held_out[0].inputs
    assert agree(list(again.module(*inputs)), list(made.module(*inputs)))


def test_scores_stop_with_their_time_but_one_is_always_there(net: Supernet) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    probe = Teacher(net, corpus_of(64).held_out)
    scorer = Scorer(net, probe, "cosine", KINDS, 3.0, clock)
    assert len(scorer.of(replaced_once(net))) == 3
    assert scorer.of([net.full]) == {net.full: pytest.approx(1.0)}


def test_a_budget_is_shared_out_and_the_original_stays(net: Supernet) -> None:
    """With next to none each part has a single step."""
    found = improve(net, corpus_of(640), BySize(), PipelineConfig(budget_s=1e-6))
    assert found.local.steps == {"local": 1, "global": 0}
    assert found.together.steps == found.tiers[0].distilled.steps == {"local": 0, "global": 1}
    assert list(found.first) == [net.full]
    whole = net.module(net.full), found.net.module(net.full)
    inputs = corpus_of(64).held_out[0].inputs
    assert agree(list(whole[1](*inputs)), list(whole[0](*inputs)))
    assert same(found.net.original, net.original)


def test_a_sub_network_of_a_bias_alone_has_a_score() -> None:
    layers = torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)
    learned = capture(torch.nn.Sequential(*layers).eval(), (torch.zeros(1, 8),))
    bare = Supernet.of(learned)
    probe = Teacher(bare, [Batch((torch.randn(6, 8),))])
    scorer = Scorer(bare, probe, "cosine", ("embedding",), 1.0, lambda: 0.0)
    assert -1.0 <= scorer(bare.space.spec({"0.width": 0})) < 1.0
