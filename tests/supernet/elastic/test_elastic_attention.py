"""Other kinds of attention in the places of a model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from profiler.shapes import Shape
from supernet.backends.eager import EagerPlan
from supernet.capture.probe import agree
from supernet.capture.subject import capture
from supernet.elastic.attention.linear import (
    causal_linear_attention,
    feature_map,
    linear_attention,
    window_attention,
)
from supernet.elastic.extracted import Subnet
from supernet.elastic.space import SpaceConfig
from supernet.elastic.subnet import AttentionSpec, SubnetSpec
from supernet.elastic.supernet import Supernet
from tests.supernet.elastic.elastic_models import captured, flat, padded, words
from tests.supernet.models import Wrapped, noise, seeded

OFFER = SpaceConfig(attention=("linear", "window"), window=4, sinks=2)


def net_of(name: str, config: SpaceConfig = OFFER) -> Supernet:
    return Supernet.of(captured(name)[1], config)


def with_kind(net: Supernet, kind: Any, *layers: int, heads: int | None = None) -> SubnetSpec:
    spec = net.full
    for index in layers:
        full = spec.layers[index]
        attention = AttentionSpec(kind, heads or full.attention[0].heads)
        spec = spec.replace(full.name, attention=(attention,))
    return spec


@pytest.mark.parametrize(
    ("name", "causal"), [("bert", False), ("llama", True), ("gpt2", True), ("vit", False),
                         ("fused vit", False)],
)  # fmt: skip
def test_what_a_mask_says_is_found(name: str, causal: bool) -> None:
    net = net_of(name)
    assert not net.attentions.refused
    assert [core.causal for core in net.attentions.cores.values()] == [causal] * 2
    kinds = [gene.choices for gene in net.space.genes if gene.name.endswith("kind")]
    assert kinds == [("none", "linear", "window", "softmax")] * 2


def bert_by_hand(net: Supernet, kind: str, heads: int, call: dict[str, Tensor]) -> Tensor:
    """The whole of the small BERT, attention as it should be."""
    model: Any = captured("bert")[0]
    maps = {name: weight for name, weight in net.weights.items() if "feature_map" in name}
    x = model.embeddings(input_ids=call["input_ids"])
    valid = call["attention_mask"].bool().unsqueeze(1)
    for index, layer in enumerate(model.encoder.layer):
        own = layer.attention.self
        q, k, v = (
            linear(x).unflatten(-1, (4, 8)).transpose(1, 2)[:, :heads]
            for linear in (own.query, own.key, own.value)
        )
        if kind == "linear":
            stem = f"encoder.layer.{index}.attention.feature_map"
            q = feature_map(q, maps[f"{stem}_query"][:heads])
            k = feature_map(k, maps[f"{stem}_key"][:heads])
            mixed = linear_attention(q, k, v, valid)
        else:
            mixed = window_attention(q, k, v, valid, window=4, sinks=2, scale=8**-0.5, causal=False)
        out = layer.attention.output
        mixed = mixed.transpose(1, 2).flatten(2)
        x = out.LayerNorm(x + mixed @ out.dense.weight[:, : 8 * heads].T + out.dense.bias)
        x = layer.output(layer.intermediate(x), x)
    return x


@pytest.mark.parametrize("kind", ["linear", "window"])
@pytest.mark.parametrize("heads", [4, 3])
def test_an_encoder_with_other_attention_is_the_one_by_hand(kind: str, heads: int) -> None:
    net = net_of("bert")
    shaken = {
        name: weight + 0.3 * noise(*weight.shape) if "feature_map" in name else weight
        for name, weight in net.weights.items()
    }
    net = net.with_weights(shaken)
    spec = with_kind(net, kind, 0, 1, heads=heads)
    module, elastic, plan = net.module(spec), net.elastic(), EagerPlan(net.program(spec))
    for call in (padded(3, 11), padded(2, 30), words(1, 1)):
        want = bert_by_hand(net, kind, heads, call)
        leaves = flat(captured("bert")[1], call)
        assert agree([module(*leaves)[0]], [want])
        assert agree([elastic(spec, *leaves)[0]], [want])
        assert agree([plan.run(leaves)[0]], [want])


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", ["linear", "window"])
def test_a_decoder_never_sees_what_comes_later(name: str, kind: str) -> None:
    net = net_of(name)
    module = net.module(with_kind(net, kind, 0, 1))
    learned = captured(name)[1]
    call = words(2, 20)
    before = module(*flat(learned, call))[0]
    call["input_ids"][:, 12:] = 7
    after = module(*flat(learned, call))[0]
    assert torch.allclose(before[:, :12], after[:, :12], atol=1e-5)
    assert not torch.allclose(before[:, 12:], after[:, 12:], atol=1e-2)


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("kind", ["linear", "window"])
def test_padding_changes_nothing(name: str, kind: str) -> None:
    net = net_of(name)
    module = net.module(with_kind(net, kind, 0, 1))
    learned = captured(name)[1]
    short = words(1, 9)
    long = {key: nn.functional.pad(value, (0, 6), value=0) for key, value in short.items()}
    alone, filled = module(*flat(learned, short))[0], module(*flat(learned, long))[0]
    assert torch.allclose(alone, filled[:, :9], atol=1e-5)


def test_a_wide_window_is_the_original() -> None:
    for name in ("bert", "llama", "fused vit"):
        net = net_of(name, SpaceConfig(attention=("window",), window=64))
        learned = captured(name)[1]
        leaves = flat(learned, (noise(3, 3, 16, 16),) if name == "fused vit" else padded(3, 20))
        got = net.module(with_kind(net, "window", 0, 1))(*leaves)[0]
        want = net.module(net.full)(*leaves)[0]
        keys = leaves[1].bool() if name != "fused vit" else slice(None)
        assert agree([got[keys]], [want[keys]])


def test_grouped_queries_share_their_keys() -> None:
    """Against the naive form, with the model's own rotated queries and keys."""
    net = net_of("llama")
    model: Any = captured("llama")[0]
    attention = model.model.layers[0].self_attn
    seen: dict[str, Tensor] = {}
    handle = attention.o_proj.register_forward_hook(lambda m, i, o: seen.update(mixed=i[0]))
    spelled: dict[str, Tensor] = {}
    sdpa = nn.functional.scaled_dot_product_attention

    def watched(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Tensor:
        if not spelled:
            spelled.update(q=q, k=k, v=v)
        return sdpa(q, k, v, **more)

    nn.functional.scaled_dot_product_attention = watched
    try:
        call = words(2, 9)
        with torch.no_grad():
            model(**call)
    finally:
        nn.functional.scaled_dot_product_attention = sdpa
        handle.remove()
    spec = with_kind(net, "linear", 0)
    eye = torch.eye(8).repeat(4, 1, 1)
    q, k, v = spelled["q"], spelled["k"], spelled["v"]
    k, v = (x.repeat_interleave(4 // x.shape[1], dim=1) for x in (k, v))
    mixed = causal_linear_attention(feature_map(q, eye), feature_map(k, eye), v, None)
    module = net.module(spec)
    product = next(n for n in module.graph.nodes if "o_proj" in str(n.meta.get("nn_module_stack")))
    found: dict[str, Tensor] = {}

    class Watch(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            if n is product:
                found["mixed"] = self.env[n.all_input_nodes[0]]
            return super().run_node(n)

    Watch(module).run(*flat(captured("llama")[1], call))
    assert agree([found["mixed"]], [mixed.transpose(1, 2).flatten(2)])


def test_dims_stay_free_and_lengths_beyond_the_example_work() -> None:
    net = net_of("llama")
    spec = with_kind(net, "linear", 0, 1)
    plan = EagerPlan(net.program(spec))
    module = net.module(spec)
    for rows, length in ((1, 2), (2, 63), (3, 64), (1, 150)):
        leaves = flat(captured("llama")[1], words(rows, min(length, 40)))
        leaves = [leaf.repeat(1, 4)[:, :length] for leaf in leaves]
        assert agree(plan.run(leaves), list(module(*leaves)))


def test_a_subnet_with_linear_attention_is_saved_and_exported_again(tmp_path: Path) -> None:
    net = net_of("bert")
    spec = with_kind(net, "linear", 1)
    subnet = net.extract(spec)
    subnet.save(tmp_path / "subnet")
    again = Subnet.load(tmp_path / "subnet")
    leaves = flat(captured("bert")[1], padded(3, 13))
    assert torch.equal(again.module(*leaves)[0], subnet.module(*leaves)[0])
    assert any("feature_map" in name for name, _ in again.module.named_parameters())
    assert agree(EagerPlan(again.export()).run(leaves), list(subnet.module(*leaves)))
    net.save(tmp_path / "net")
    loaded = Supernet.load(tmp_path / "net")
    assert loaded.attentions.cores == net.attentions.cores
    assert torch.equal(loaded.module(spec)(*leaves)[0], subnet.module(*leaves)[0])


def test_feature_maps_train_and_move_with_their_heads() -> None:
    net = net_of("bert")
    spec = with_kind(net, "linear", 0, 1)
    leaves = flat(captured("bert")[1], padded(3, 13))
    elastic = net.elastic()
    elastic(spec, *leaves)[0].square().sum().backward()
    maps = [p for n, p in elastic.named_parameters() if "feature_map" in n]
    assert len(maps) == 4
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in maps)
    torch.optim.SGD(elastic.parameters(), lr=0.1).step()
    trained = net.with_weights(elastic.weights())
    moved = trained.reordered([leaves])
    assert agree(moved.elastic()(spec, *leaves), trained.elastic()(spec, *leaves))
    assert not torch.equal(
        moved.weights["encoder.layer.0.attention.feature_map_query"],
        trained.weights["encoder.layer.0.attention.feature_map_query"],
    )


def test_linear_attention_costs_less_where_texts_are_long() -> None:
    net = net_of("llama")
    spec = with_kind(net, "linear", 0, 1)
    short, long = (
        [net.cost(one, Shape(1, length)).flops for one in (net.full, spec)] for length in (16, 2048)
    )
    assert long[1] < long[0] / 2
    assert short[1] > short[0]


class Biased(nn.Module):
    """Attention whose mask adds a number for every distance, or hides the keys before."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.qkv, self.proj, self.kind = nn.Linear(16, 48), nn.Linear(16, 16), kind

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        place = torch.arange(x.shape[1])
        far = (place - place.unsqueeze(-1)).float()
        if self.kind == "bias":
            mask = -far.abs()
        elif self.kind == "anticausal":
            mask = torch.where(far >= 0, 0.0, float("-inf"))
        else:
            mask = torch.where(far <= 0, 0.0, float("-inf"))
        scores = q @ k.transpose(-2, -1) / 3.0
        if self.kind == "hidden":
            scores = scores.masked_fill(far > 0, -1e9)
        elif self.kind == "twice":
            scores = (scores + mask).exp().softmax(-1)
        else:
            scores = scores + mask
        mixed = scores.softmax(-1) @ v
        return x + self.proj(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("bias", "its mask adds numbers to the scores"),
        ("anticausal", "neither causal nor the same for every query"),
        ("twice", "comes between its products"),
    ],
)
def test_masks_that_say_more_keep_softmax(kind: str, told: str) -> None:
    learned = capture(seeded(lambda: Biased(kind)), [(noise(2, 5, 16),), (noise(2, 9, 16),)])
    net = Supernet.of(learned, OFFER)
    assert any(told in refusal.why for refusal in net.refused), net.refused
    with pytest.raises(ValueError, match="must be softmax or none, got 'linear'"):
        net.module(with_kind(net, "linear", 0))


@pytest.mark.parametrize("kind", ["causal", "hidden"])
def test_masks_of_both_kinds_are_read(kind: str) -> None:
    model = seeded(lambda: Biased(kind))
    learned = capture(model, [(noise(2, 5, 16),), (noise(2, 9, 16),)])
    net = Supernet.of(learned, dataclasses.replace(OFFER, window=64))
    assert [core.causal for core in net.attentions.cores.values()] == [True]
    x = noise(2, 12, 16)
    assert agree(net.module(with_kind(net, "window", 0))(x), [model(x)])


def test_attention_to_another_sequence_keeps_softmax() -> None:
    def forward(self: Any, x: Tensor, memory: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (2, 8)).transpose(1, 2)
        k, v = (f(memory).unflatten(-1, (2, 8)).transpose(1, 2) for f in (self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.o(mixed.transpose(1, 2).flatten(2))

    parts = {name: nn.Linear(16, 16) for name in "qkvo"}
    model = seeded(lambda: Wrapped(forward, **parts))
    net = Supernet.of(capture(model, (noise(2, 5, 16), noise(2, 7, 16))), OFFER)
    assert "of another sequence" in net.refused[-1].why


def test_a_space_without_other_kinds_offers_none() -> None:
    net = Supernet.of(captured("bert")[1])
    assert not any("feature_map" in name for name in net.weights)
    with pytest.raises(ValueError, match="the space does not offer it"):
        net.module(with_kind(net, "linear", 0))
    with pytest.raises(ValueError, match="attention must be of linear and window, got"):
        SpaceConfig(attention=("none",))
    with pytest.raises(ValueError, match="sinks must be from 0 to window, got 9 and a window of 8"):
        SpaceConfig(window=8, sinks=9)
