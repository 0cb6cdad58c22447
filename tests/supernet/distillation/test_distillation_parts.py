"""The parts of distillation: batches, losses, the teacher's values, measures of quality."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from supernet.distillation.batches import Batch, Corpus, batched, distinct_rows, real
from supernet.distillation.judging.quality import agreement, ask, labelled, paired_bootstrap
from supernet.distillation.learning.graphs import layer_graph
from supernet.distillation.learning.losses import (
    LossWeights,
    Spread,
    block_loss,
    embedding_loss,
    kinds_of,
    logits_loss,
    looked_up,
)
from supernet.distillation.learning.teacher import Teacher
from supernet.elastic.subnet import AttentionSpec
from supernet.elastic.supernet import Supernet
from tests.supernet.elastic.elastic_models import captured, flat, words

WEIGHTS = LossWeights()
ONE = Spread(1.0, 1.0)


def net_of(name: str) -> Supernet:
    return Supernet.of(captured(name)[1])


def texts(name: str, count: int, rows: int = 4) -> tuple[Batch, ...]:
    """Rows of 3 to 12 words, batched."""
    learned = captured(name)[1]
    rng = np.random.default_rng(3)
    examples = []
    for _ in range(count):
        call: Any = words(1, int(rng.integers(3, 13)))
        call["input_ids"] = torch.from_numpy(rng.integers(1, 50, call["input_ids"].shape))
        examples.append(flat(learned, call))
    return batched(learned.signature, examples, rows)


def test_rows_of_like_length_share_a_batch_and_are_padded_with_zeros() -> None:
    made = texts("bert", 23)
    signature = captured("bert")[1].signature
    assert sum(batch.rows(signature) for batch in made) == 23
    assert any(batch.lengths is not None for batch in made)
    for batch in made:
        mask = real(batch.lengths, ("rows", "length"), batch.inputs[0].shape)
        if mask is not None:
            assert not batch.inputs[0][~mask].any()
            assert bool((batch.inputs[0] != 0)[mask].all())
    assert distinct_rows(signature, made) == (23, 23)
    assert distinct_rows(signature, [*made, *made]) == (46, 23)


def test_a_corpus_holds_some_out_and_always_the_same() -> None:
    made = texts("bert", 40)
    corpus, again = Corpus.of(made, 0.2, seed=5), Corpus.of(made, 0.2, seed=5)
    assert len(corpus.held_out) == 2
    assert len(corpus.training) == 8
    assert not set(map(id, corpus.held_out)) & set(map(id, corpus.training))
    assert list(map(id, corpus.held_out)) == list(map(id, again.held_out))
    with pytest.raises(ValueError, match="batches must be at least 2, one of them held out, got 1"):
        Corpus.of(made[:1])


def test_padding_counts_in_no_loss() -> None:
    want = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    got = want + 0.1
    lengths = torch.tensor([5, 3])
    mask = real(lengths, ("rows", "length", 8), want.shape)
    assert mask is not None
    spoilt = torch.where(mask, got, torch.full_like(got, 100.0))

    def losses(answer: Tensor) -> list[float]:
        return [
            float(embedding_loss(answer, want, ONE, WEIGHTS, mask=mask, length=1)),
            float(logits_loss(answer * torch.arange(8), want, WEIGHTS, mask=mask, length=1)),
            float(block_loss(answer, want, mask)),
        ]

    assert losses(got) == losses(spoilt)
    assert min(losses(got)) > 0
    exact = embedding_loss(want, want, ONE, WEIGHTS, mask=mask, length=1)
    assert float(exact) == pytest.approx(0, abs=1e-6)


def test_distributions_over_a_padded_length_leave_the_padding_out() -> None:
    want = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([5, 3])
    mask = real(lengths, ("rows", "length"), want.shape)
    got = want * 0.5
    spoilt = got.clone()
    spoilt[1, 3:] = 50.0
    losses = [logits_loss(g, want, WEIGHTS, mask=mask, length=1) for g in (got, spoilt)]
    assert torch.equal(*losses)
    assert 0 < float(losses[0]) < 1


def test_the_variance_part_sees_what_a_common_mean_hides() -> None:
    """Answers that share a large constant part have a cosine near 1 whatever they say."""
    want = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) + 100.0
    got = want.mean(0, keepdim=True).expand_as(want)
    cosine = embedding_loss(got, want, Spread(8.0, 0.0), LossWeights(variance=0.0))
    both = embedding_loss(got, want, Spread(8.0, 0.0), LossWeights(variance=1.0))
    assert float(cosine) < 1e-3
    assert float(both) == pytest.approx(1.0, rel=0.3)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("bert", ("embedding", "embedding")), ("llama", ("logits",)), ("gpt2", ("logits",)),
        ("fused vit", ("logits",)), ("resnet", ("logits",)),
    ],
)  # fmt: skip
def test_outputs_are_taken_for_what_they_are(name: str, kinds: tuple[str, ...]) -> None:
    assert kinds_of(net_of(name)) == kinds


def test_embeddings_are_found() -> None:
    assert {name.removeprefix("embeddings.") for name in looked_up(net_of("bert"))} == {
        "word_embeddings.weight", "token_type_embeddings.weight", "position_embeddings.weight",
    }  # fmt: skip


@pytest.mark.parametrize("memory_mib", [0.0, 64.0])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_layer_alone_gives_what_it_gives_in_the_model(name: str, memory_mib: float) -> None:
    net = net_of(name)
    batches = texts(name, 12)
    teacher = Teacher(net, batches, memory_mib=memory_mib)
    whole = net.module(net.full)
    for index, batch in enumerate(batches):
        want = whole(*batch.inputs)
        assert all(map(torch.equal, teacher.answers(index), want))
        for layer in net.full.layers:
            values = teacher.layer(index, layer.name)
            got = layer_graph(net, layer)(net.original, values.entering, batch.inputs)
            torch.testing.assert_close(got, values.leaving)


def test_a_layer_alone_is_narrowed_and_trains_its_own_weights() -> None:
    net = net_of("bert")
    batch = texts("bert", 4)[0]
    values = Teacher(net, [batch]).layer(0, net.full.layers[1].name)
    weights = {n: w.clone().requires_grad_(w.is_floating_point()) for n, w in net.original.items()}
    spec = net.full.layers[1]
    own = type(spec)(spec.name, False, (AttentionSpec("softmax", 2),), (16,))
    out = layer_graph(net, own)(weights, values.entering, batch.inputs)
    block_loss(out, values.leaving, values.mask).backward()
    trained = {name for name, w in weights.items() if w.grad is not None}
    assert trained
    assert all(name.startswith(spec.name) for name in trained)
    up = weights[f"{spec.name}.intermediate.dense.weight"].grad
    assert up is not None
    assert bool(up[:16].any())
    assert not bool(up[16:].any())


def test_each_value_of_the_teacher_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net = net_of("bert")
    teacher = Teacher(net, texts("bert", 8))
    first = [teacher.answers(i) for i in range(2)]
    assert teacher.answers(0) is first[0]
    one = teacher.layer(0, net.full.layers[0].name)
    assert teacher.layer(0, net.full.layers[1].name).entering is one.leaving
    teacher.forget_layers()
    assert teacher.layer(0, net.full.layers[0].name).leaving is not one.leaving


@pytest.mark.parametrize(
    ("name", "measure"),
    [("bert", "cosine"), ("llama", "top1"), ("llama", "next_token"), ("fused vit", "top1")],
)
def test_agreement_with_itself_is_one_and_a_cut_model_is_below(name: str, measure: Any) -> None:
    net = net_of(name)
    if name == "fused vit":
        images = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        batches: tuple[Batch, ...] = (Batch((images,)),)
    else:
        batches = texts(name, 16)
    teacher, kinds = Teacher(net, batches), kinds_of(net)
    same = agreement(measure, teacher, net.module(net.full), kinds, net.signature)
    assert same == pytest.approx(np.ones(16))
    cut = net.full.replace(net.full.layers[0].name, skipped=True)
    less = agreement(measure, teacher, net.module(cut), kinds, net.signature)
    assert less.shape == (16,)
    assert less.mean() < 0.99


def test_a_user_s_quality_is_asked_whatever_it_does() -> None:
    module, release = nn.Identity(), threading.Event()

    def broken(model: nn.Module) -> float:
        raise RuntimeError("no labels here")

    def hangs(model: nn.Module) -> float:
        release.wait()
        return 1.0

    assert ask(lambda model: 0.5, module, 5.0).value == 0.5
    raised = ask(broken, module, 5.0)
    assert (raised.said, raised.why) == ("raised", "RuntimeError: no labels here")
    assert ask(lambda model: math.nan, module, 5.0).said == "not a number"
    assert ask(lambda model: None, module, 5.0).said == "raised"  # type: ignore[arg-type, return-value]
    slow = ask(hangs, module, 0.01)
    release.set()
    assert (slow.said, math.isnan(slow.value)) == ("too slow", True)


def test_labels_know_their_chance() -> None:
    quality = labelled([(torch.eye(3),)], [torch.tensor([0, 1, 1])])
    assert quality.chance == pytest.approx(2 / 3)  # type: ignore[attr-defined]

    class Itself(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (x,)

    assert quality(Itself()) == pytest.approx(2 / 3)


def test_the_bootstrap_is_paired() -> None:
    """A gain of 0.1 in each of 200 rows is certain, however much rows differ."""
    hard = np.random.default_rng(0).normal(0, 5, 200)
    better = hard + 0.1
    found = paired_bootstrap(lambda rows: float((better[rows] - hard[rows]).mean()), 200)
    assert found.lower == pytest.approx(0.1)
    noise = np.random.default_rng(1).normal(0, 1, 200)
    unsure = paired_bootstrap(lambda rows: float(noise[rows].mean()), 200)
    assert unsure.lower < unsure.value < unsure.upper
    assert unsure.upper - unsure.lower == pytest.approx(2 * 1.96 / 200**0.5, rel=0.2)
