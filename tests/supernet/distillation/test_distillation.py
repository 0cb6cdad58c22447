"""Distillation of a two-layer encoder: better, or as it was."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from supernet.distillation.batches import Batch, Corpus, batched
from supernet.distillation.distiller import distill
from supernet.distillation.judging.quality import labelled
from supernet.distillation.learning import checkpoint
from supernet.distillation.settings import DistillConfig, Hooks, Progress
from supernet.elastic.space import SpaceConfig
from supernet.elastic.subnet import AttentionSpec, LayerSpec, SubnetSpec
from supernet.elastic.supernet import Supernet
from supernet.errors import CheckpointFailed
from tests.supernet.elastic.elastic_models import captured, flat, words

QUICK = DistillConfig(local_steps=6, global_steps=6, local_learning_rate=1e-3, learning_rate=1e-3)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on such small tensors mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def net() -> Supernet:
    return Supernet.of(captured("bert")[1])


def corpus_of(rows: int, *, different: int | None = None) -> Corpus:
    learned = captured("bert")[1]
    rng = np.random.default_rng(3)
    examples = []
    for _ in range(different or rows):
        call: Any = words(1, int(rng.integers(3, 13)))
        call["input_ids"] = torch.from_numpy(rng.integers(1, 50, call["input_ids"].shape))
        examples.append(flat(learned, call))
    examples = (examples * rows)[:rows]
    return Corpus.of(batched(learned.signature, examples, 16))


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return corpus_of(640)


def narrowed(net: Supernet, heads: int, width: int) -> SubnetSpec:
    return SubnetSpec(
        tuple(
            LayerSpec(layer.name, False, (AttentionSpec("softmax", heads),), (width,))
            for layer in net.full.layers
        )
    )


@pytest.fixture(scope="module")
def small(net: Supernet) -> SubnetSpec:
    return narrowed(net, 2, 16)


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(w, other[n]) for n, w in one.items())


def test_both_phases_improve_narrowed_sub_networks_by_a_margin(
    net: Supernet, corpus: Corpus, small: SubnetSpec
) -> None:
    original = {name: weight.clone() for name, weight in net.original.items()}
    inputs = corpus.held_out[0].inputs
    answers = net.module(net.full)(*inputs)
    config = DistillConfig(
        local_steps=200, global_steps=150, local_learning_rate=3e-3, learning_rate=2e-3
    )
    found = distill(net, corpus, [small, narrowed(net, 4, 32)], config)
    assert (found.kept, found.ended) == ("global", "done")
    assert found.means["before"] < found.means["local"] < found.means["global"]
    for one in found.comparisons:
        assert one.gain is not None
        assert one.gain.lower > 0.3 * (1 - one.before), one
        assert one.improved
    assert same(net.original, original)
    assert all(map(torch.equal, found.net.module(found.net.full)(*inputs), answers))
    for name in ("embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"):
        assert torch.equal(found.net.weights[name], net.weights[name])
    assert not torch.equal(
        found.net.weights["encoder.layer.0.output.dense.weight"],
        net.weights["encoder.layer.0.output.dense.weight"],
    )


def test_feature_maps_of_linear_attention_learn_in_their_layers(corpus: Corpus) -> None:
    """Attention transfer: locally, and nothing else is narrowed."""
    net = Supernet.of(captured("bert")[1], SpaceConfig(attention=("linear",)))
    linear = SubnetSpec(
        tuple(
            LayerSpec(layer.name, False, (AttentionSpec("linear", 4),), layer.widths)
            for layer in net.full.layers
        )
    )
    config = DistillConfig(local_steps=150, global_steps=0, local_learning_rate=3e-3)
    found = distill(net, corpus, [linear], config)
    assert (found.kept, found.steps["global"]) == ("local", 0)
    gain = found.comparisons[0].gain
    assert gain is not None
    assert gain.lower > 0.3 * (1 - found.comparisons[0].before)
    maps = [name for name in net.weights if "feature_map" in name]
    assert len(maps) == 4
    assert not any(torch.equal(found.net.weights[name], net.weights[name]) for name in maps)


def stop_after(steps: int) -> Hooks:
    seen: list[Progress] = []
    return Hooks(progress=seen.append, stop=lambda: len(seen) >= steps)


@pytest.mark.parametrize("steps", [1, 4, 6, 8, 11])
def test_it_goes_on_bit_for_bit(
    net: Supernet, corpus: Corpus, small: SubnetSpec, tmp_path: Path, steps: int
) -> None:
    whole = distill(net, corpus, [small], QUICK)
    first = distill(net, corpus, [small], QUICK, folder=tmp_path, hooks=stop_after(steps))
    assert first.ended == "stopped"
    assert sum(first.steps.values()) == steps
    rest: list[Progress] = []
    hooks = Hooks(progress=rest.append)
    second = distill(net, corpus, [small], QUICK, folder=tmp_path, hooks=hooks)
    assert len(rest) == 12 - steps
    assert second.steps == whole.steps == {"local": 6, "global": 6}
    assert whole.kept == "global"
    assert second.means == whole.means
    assert same(second.net.weights, whole.net.weights)


def test_from_the_space_it_goes_on_bit_for_bit_too(
    net: Supernet, corpus: Corpus, tmp_path: Path
) -> None:
    whole = distill(net, corpus, None, QUICK)
    distill(net, corpus, None, QUICK, folder=tmp_path, hooks=stop_after(9))
    again = distill(net, corpus, None, QUICK, folder=tmp_path)
    assert len(again.comparisons) == QUICK.judged
    assert whole.kept == "global"
    assert same(again.net.weights, whole.net.weights)


def test_a_checkpoint_of_something_else_is_refused(
    net: Supernet, corpus: Corpus, small: SubnetSpec, tmp_path: Path
) -> None:
    distill(net, corpus, [small], QUICK, folder=tmp_path, hooks=stop_after(2))
    with pytest.raises(ValueError, match="folder must hold a checkpoint of the same model"):
        distill(net, corpus, [narrowed(net, 1, 16)], QUICK, folder=tmp_path)


def test_a_full_disk_is_named_and_what_is_reached_is_kept(
    net: Supernet, corpus: Corpus, small: SubnetSpec, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config = DistillConfig(local_steps=60, global_steps=6, local_learning_rate=3e-3)
    distill(net, corpus, [small], config, folder=tmp_path, hooks=stop_after(40))
    before = _files(tmp_path)

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.raises(CheckpointFailed, match="no room left on the disk") as caught:
        distill(net, corpus, [small], config, folder=tmp_path)
    result = caught.value.result
    assert result.ended == "not written"
    assert result.improved
    assert result.steps["local"] == 60
    assert _files(tmp_path) == before
    monkeypatch.undo()
    assert distill(net, corpus, [small], config, folder=tmp_path).ended == "done"


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("0*/*")}


def test_what_training_made_worse_is_thrown_away_and_said(net: Supernet, corpus: Corpus) -> None:
    small = narrowed(net, 4, 60)
    config = DistillConfig(
        local_steps=4, global_steps=30, local_learning_rate=1.0, learning_rate=1.0, warmup=0.0
    )
    found = distill(net, corpus, [small], config)
    assert found.kept == "before"
    assert not found.improved
    assert found.net.weights.keys() == net.weights.keys()
    assert same(found.net.weights, net.weights)
    assert any(note.startswith("thrown away: after the global phase") for note in found.notes)
    assert found.comparisons[0].after < found.comparisons[0].before


def test_a_budget_ends_each_phase_and_pauses_do_not_count(
    net: Supernet, corpus: Corpus, small: SubnetSpec
) -> None:
    """A clock on which each step takes a second and each pause a hundred."""
    now = [0.0]
    seen: list[Progress] = []

    def clock() -> float:
        now[0] += 0.5
        return now[0]

    def pause() -> None:
        now[0] += 100.0

    config = DistillConfig(local_steps=1000, global_steps=1000, budget_s=10, local_share=0.4)
    hooks = Hooks(progress=seen.append, pause=pause, clock=clock)
    found = distill(net, corpus, [small], config, hooks=hooks)
    assert found.ended == "budget"
    assert found.steps == {"local": 8, "global": 12}
    assert found.elapsed_s == pytest.approx(10.0)
    left = [p.left_s for p in seen if p.phase == "local"]
    assert left == pytest.approx([3.5 - 0.5 * i for i in range(8)])


def test_the_rate_rises_and_falls() -> None:
    config = DistillConfig(warmup=0.1, learning_rate=1.0)
    rates = [config.rate("global", share / 100) for share in range(101)]
    assert rates[10] == 1.0
    assert all(a < b for a, b in pairwise(rates[:11]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[100] == pytest.approx(0.0)


def test_a_loss_that_is_not_finite_ends_it(
    net: Supernet, corpus: Corpus, small: SubnetSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "supernet.distillation.learning.training.embedding_loss",
        lambda got, *rest, **more: (got * math.nan).sum(),
    )
    found = distill(net, corpus, [small], DistillConfig(local_steps=0, global_steps=50))
    assert (found.ended, found.kept) == ("diverged", "before")
    assert found.steps["global"] == 5
    assert same(found.net.weights, net.weights)


def test_weights_that_are_not_finite_are_refused(corpus: Corpus, small: SubnetSpec) -> None:
    net = Supernet.of(captured("bert")[1])
    name = "encoder.layer.1.output.dense.bias"
    spoilt = {**net.weights, name: torch.full_like(net.weights[name], math.nan)}
    with pytest.raises(ValueError, match=f"weights must be finite, got NaN in '{name}'"):
        distill(net.with_weights(spoilt), corpus, [small], QUICK)


def test_too_few_inputs_are_refused_and_few_or_narrow_ones_teach_less(
    net: Supernet, small: SubnetSpec
) -> None:
    with pytest.raises(ValueError, match="inputs must hold at least 8 different rows"):
        distill(net, corpus_of(64, different=5), [small], QUICK)
    config = DistillConfig(local_steps=10_000, global_steps=10_000, budget_s=1e-9)
    few = distill(net, corpus_of(64), [small], config)
    assert few.notes[0].startswith("few inputs, 48 different rows")
    narrow = distill(net, corpus_of(640, different=64), [small], config)
    assert "narrow inputs, 64 different among" in narrow.notes[1]
    assert "20 times through them at most" in narrow.notes


def test_nothing_but_the_original_is_nothing_to_train(net: Supernet, corpus: Corpus) -> None:
    with pytest.raises(ValueError, match="specs must hold a sub-network other than the original"):
        distill(net, corpus, [net.full], QUICK)


def test_a_quality_of_the_user_decides(net: Supernet, corpus: Corpus, small: SubnetSpec) -> None:
    """One that likes the weights from before best."""
    name = "encoder.layer.0.output.dense.weight"

    def likes_before(model: nn.Module) -> float:
        own = model.get_parameter(name)
        return -float((own - net.weights[name][:, : own.shape[1]]).abs().sum())

    found = distill(net, corpus, [small], QUICK, quality=likes_before)
    assert found.kept == "before"
    assert found.comparisons[0].before == 0.0
    assert found.comparisons[0].after < 0.0


def test_a_quality_that_fails_on_the_original_is_not_used(
    net: Supernet, corpus: Corpus, small: SubnetSpec
) -> None:
    def broken(model: nn.Module) -> float:
        raise KeyError("labels")

    found = distill(net, corpus, [small], QUICK, quality=broken)
    assert "the quality of the original: raised (KeyError: 'labels')" in found.notes[-1]
    assert found.comparisons[0].gain is not None


def test_a_quality_that_fails_on_trained_weights_only_keeps_those_from_before(
    net: Supernet, corpus: Corpus, small: SubnetSpec
) -> None:
    asked = []

    def fails_later(model: nn.Module) -> float:
        asked.append(model)
        return 1.0 if len(asked) <= 2 else math.nan

    found = distill(net, corpus, [small], QUICK, quality=fails_later)
    assert found.kept == "before"
    assert found.comparisons[0].why == "not a number: it gave nan"


def test_labels_that_contradict_the_original_do_not_judge(
    corpus: Corpus, net: Supernet, small: SubnetSpec
) -> None:
    batch: Batch = corpus.held_out[0]
    right = net.module(net.full)(*batch.inputs)[1].argmax(-1)
    wrong = (right + 1) % 32
    found = distill(
        net, corpus, [small], QUICK, quality=labelled([batch.inputs], [wrong], output=1)
    )
    assert any(note.startswith("the labels contradict the original") for note in found.notes)
    agreed = distill(
        net, corpus, [small], QUICK, quality=labelled([batch.inputs], [right], output=1)
    )
    assert agreed.comparisons[0].gain is None


def test_event_files_are_written_where_asked_for(
    net: Supernet, corpus: Corpus, small: SubnetSpec, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    distill(net, corpus, [small], QUICK, hooks=Hooks(tensorboard=tmp_path))
    assert list(tmp_path.glob("events*"))
