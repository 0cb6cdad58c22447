"""Finished parts of a long way on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from supernet.distillation.pipeline import PipelineConfig, Stopped, improve
from supernet.distillation.settings import DistillConfig, Hooks
from supernet.distillation.stages import Stages
from supernet.elastic.axes.tracing import identity
from supernet.elastic.supernet import Supernet
from tests.supernet.distillation.test_distillation import corpus_of, same
from tests.supernet.distillation.test_distillation_pipeline import BySize
from tests.supernet.elastic.elastic_models import captured


@pytest.fixture(scope="module")
def net() -> Supernet:
    return Supernet.of(captured("bert")[1])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pairs(weights: Mapping[str, Tensor]) -> set[tuple[str, str]]:
    """The names that share a tensor."""
    return {(a, b) for a, b in combinations(sorted(weights), 2)
            if identity(weights[a]) == identity(weights[b])}  # fmt: skip


def test_a_part_is_made_once_and_its_weights_are_tied_as_before(tmp_path: Path) -> None:
    llama = Supernet.of(captured("llama")[1])
    moved = llama.with_weights({name: w.clone() for name, w in llama.weights.items()})

    def never() -> tuple[Supernet, object]:
        raise AssertionError("it is there")

    Stages(tmp_path, "of this").net("local", llama, lambda: (moved, [1]))
    again, record = Stages(tmp_path, "of this").net("local", llama, never)
    assert record == [1]
    assert same(again.weights, moved.weights)
    assert pairs(again.weights) == pairs(llama.original) != set()
    with pytest.raises(AssertionError, match="it is there"):
        Stages(tmp_path, "of another").net("local", llama, never)
    assert Stages(None, "").record("tiers", lambda: 3) == 3
    assert Stages(None, "").steps("local") is None


def test_an_improvement_that_was_stopped_goes_on_to_the_same_end(
    net: Supernet, tmp_path: Path
) -> None:
    learning = DistillConfig(local_steps=4, global_steps=4, learning_rate=1e-3)
    config, corpus = PipelineConfig(distill=learning), corpus_of(640)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 7  # between two steps of those together

    with pytest.raises(Stopped, match="stopped in the part 'together'"):
        improve(net, corpus, BySize(), config, Hooks(stop=stop), keep=tmp_path)
    said: list[str] = []
    found = improve(net, corpus, BySize(), config, say=said.append, keep=tmp_path)
    assert "units in order of importance" not in said
    assert found.local is None
    assert found.together is not None
    whole = improve(net, corpus, BySize(), config)
    assert found.candidates == whole.candidates
    assert [tier.spec for tier in found.tiers] == [tier.spec for tier in whole.tiers]
    assert same(found.net.weights, whole.net.weights)
    assert same(found.tiers[0].net.weights, whole.tiers[0].net.weights)
