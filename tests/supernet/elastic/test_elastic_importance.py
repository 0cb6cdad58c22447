"""What is worth keeping, and the order that puts it first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from supernet.capture.probe import agree
from supernet.capture.subject import capture
from supernet.elastic.cutting.reordering import reorder
from supernet.elastic.statistics import recalibrate
from supernet.elastic.supernet import Supernet
from tests.supernet.elastic.elastic_models import MODELS, captured, flat, padded, smaller, words
from tests.supernet.models import noise, seeded


def batches(name: str) -> list[list[Tensor]]:
    calls: Any = [words(2, 9), padded(2, 14)]
    if name not in ("bert", "llama", "gpt2"):
        calls = [(noise(3, 3, 16, 16),), (noise(2, 3, 16, 16) * 2,)]
    return [flat(captured(name)[1], call) for call in calls]


@pytest.mark.parametrize("name", list(MODELS))
def test_the_best_come_first_and_the_answers_stay(name: str) -> None:
    net = Supernet.of(captured(name)[1])
    given = batches(name)
    better = net.reordered(given)
    for scores in better.importance(given).units:
        assert np.all(np.diff(scores) <= 1e-9 * scores[:-1])
    elastic, whole = better.elastic(), net.module(net.full)
    for batch in given:
        assert agree(elastic(better.full, *batch), whole(*batch))
        assert torch.equal(better.module(better.full)(*batch)[0], whole(*batch)[0])


@pytest.mark.parametrize("name", ["bert", "llama", "fused vit", "mobilenet"])
def test_any_order_gives_the_same_answers(name: str) -> None:
    net = Supernet.of(captured(name)[1])
    rng = np.random.default_rng(0)
    orders = [rng.permutation(place.size) for place in net.anatomy.places]
    moved = net.with_weights(reorder(net.anatomy, net.weights, orders))
    batch = batches(name)[0]
    assert agree(moved.elastic()(net.full, *batch), net.module(net.full)(*batch))
    with pytest.raises(ValueError, match="must name each of its units once"):
        reorder(net.anatomy, net.weights, [np.zeros_like(order) for order in orders])


def test_scores_are_what_each_unit_adds() -> None:
    """Against the outputs with one unit's columns put to zero."""
    model, learned = captured("bert")
    net = Supernet.of(learned)
    batch = batches("bert")[0]
    seen: dict[str, Tensor] = {}
    layer = model.encoder.layer[0]  # type: ignore[union-attr, index]
    handles = [
        layer.output.dense.register_forward_hook(lambda m, i, o: seen.update(ffn=i[0])),
        layer.attention.output.dense.register_forward_hook(lambda m, i, o: seen.update(mix=i[0])),
    ]
    with torch.no_grad():
        model(*batch)
    for handle in handles:
        handle.remove()
    found = net.importance([batch]).units
    weight = layer.attention.output.dense.weight.detach()
    mixed = seen["mix"].flatten(0, 1)
    for head in range(4):
        own = slice(8 * head, 8 * head + 8)
        want = (mixed[:, own] @ weight[:, own].T).norm(dim=1).mean()
        assert found[0][head] == pytest.approx(float(want), rel=1e-4)
    hidden = seen["ffn"].flatten(0, 1)
    down = layer.output.dense.weight.detach()
    for channel in (0, 31, 63):
        want = (hidden[:, channel, None] * down[:, channel]).norm(dim=1).mean()
        assert found[1][channel] == pytest.approx(float(want), rel=1e-4)


def test_a_layer_that_does_nothing_is_worth_nothing() -> None:
    learned = captured("vit")[1]
    net = Supernet.of(learned)
    silent = {
        name: torch.zeros_like(weight) if name.startswith("layers.1.") else weight
        for name, weight in net.weights.items()
    }
    layers = net.with_weights(silent).importance(batches("vit")).layers
    assert abs(layers["layers.1"]) < 1e-9
    assert layers["layers.0"] > 1e-3


def test_no_batches_and_no_numbers_are_refused() -> None:
    net = Supernet.of(captured("vit")[1])
    with pytest.raises(ValueError, match="batches must hold at least one batch"):
        net.importance([])
    with pytest.raises(ValueError, match=r"must give finite values at 'layers\.0\.attention'"):
        net.reordered([[torch.full((1, 3, 16, 16), float("nan"))]])


def test_batch_norms_are_set_to_what_comes_in() -> None:
    """As PyTorch's own layers find them in training, with a momentum that averages."""
    net = Supernet.of(captured("resnet")[1])
    spec = net.full.replace("layer1.0", widths=(16, 8))
    module, hand = net.module(spec), smaller("resnet", spec)
    given = [[noise(3, 3, 16, 16) + index] for index in range(3)]
    for norm in (m for m in hand.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None
    hand.train()
    with torch.no_grad():
        for batch in given:
            hand(*batch)
    hand.eval()
    stale = module(*given[0])
    assert recalibrate(module, given) == 7
    assert agree(module(*given[0]), [hand(*given[0])])
    assert not agree(module(*given[0]), stale)
    whole = net.module(net.full)
    assert not agree([whole.get_buffer("stem.1.running_mean")],
                     [module.get_buffer("stem.1.running_mean")])  # fmt: skip
    with pytest.raises(ValueError, match="batches must hold at least one batch"):
        recalibrate(module, [])


def test_one_value_per_channel_has_no_spread() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Linear(16, 2)))
    net = Supernet.of(capture(model, (noise(2, 4),)))
    assert recalibrate(net.module(net.full), [[noise(5, 4)]]) == 1
    with pytest.raises(ValueError, match="more than one value per channel"):
        recalibrate(net.module(net.full), [[noise(1, 4)]])
