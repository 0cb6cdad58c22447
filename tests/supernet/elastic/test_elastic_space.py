"""Specs and the space that a search chooses from."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from torch import nn

from supernet.capture.subject import capture
from supernet.elastic.space import Space, SpaceConfig
from supernet.elastic.subnet import AttentionSpec, LayerSpec, SubnetSpec
from supernet.elastic.supernet import Supernet
from tests.supernet.elastic.elastic_models import captured
from tests.supernet.models import noise


def space(name: str = "bert", config: SpaceConfig | None = None) -> Space:
    return Space.of(Supernet.of(captured(name)[1]).anatomy, config)


def test_a_spec_is_the_same_after_json_and_as_a_key() -> None:
    full = space().full
    again = SubnetSpec.from_json(json.loads(json.dumps(full.to_json())))
    assert again == full
    assert {full: 1}[again] == 1
    assert again.key == full.key
    with pytest.raises(ValueError, match="schema of a subnet must be 1, got 2"):
        SubnetSpec.from_json({"v": 2, "layers": []})


@pytest.mark.parametrize(
    "layer",
    [
        LayerSpec("a", True, (AttentionSpec("softmax", 4),), (64,)),
        LayerSpec("a", True, (AttentionSpec("none", 0),), (0,)),
        LayerSpec("a", True, (AttentionSpec("linear", 0),), (3,)),
    ],
)
def test_what_is_left_out_keeps_nothing(layer: LayerSpec) -> None:
    assert layer.canonical() == LayerSpec("a", True, (AttentionSpec("none", 0),), (0,))


def test_no_heads_is_no_attention() -> None:
    none = (AttentionSpec("none", 0),)
    for attention in (AttentionSpec("none", 4), AttentionSpec("softmax", 0)):
        assert LayerSpec("a", False, (attention,)).canonical().attention == none


def test_bad_specs_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="kind must be one of softmax, linear, window, none, got"):
        AttentionSpec("sparse", 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="heads must be whole numbers of at least 0, got -1"):
        AttentionSpec("softmax", -1)
    with pytest.raises(ValueError, match=r"widths must be whole numbers .* got 1.5"):
        LayerSpec("a", widths=(1.5,))  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="must be one of a layer"):
        space().full.layer("encoder.layer.9")


def test_the_last_choice_of_each_gene_is_the_original() -> None:
    for name in ("bert", "llama", "resnet"):
        own = space(name)
        assert own.spec({gene.name: gene.choices[-1] for gene in own.genes}) == own.full
        assert own.spec({}) == own.full


def test_choices_are_whole_groups_and_round_widths() -> None:
    found = {gene.name: gene.choices for gene in space("llama").genes}
    assert found["model.layers.0.self_attn.heads"] == (2, 4)
    assert found["model.layers.0.mlp.gate_proj.width"] == (0, 16, 32, 48, 64)
    thirds = SpaceConfig(ffn=(Fraction(1, 3), Fraction(1)), multiple=4, fine_multiple=4)
    narrow = {gene.name: gene.choices for gene in space("llama", thirds).genes}
    assert narrow["model.layers.0.mlp.gate_proj.width"] == (20, 64)
    resnet = {gene.name: gene.choices for gene in space("resnet").genes}
    assert resnet["layer1.0.conv1.width"] == (8, 16, 24)


def test_the_space_lists_every_subnet_once() -> None:
    coarse = SpaceConfig(heads=(Fraction(1),), ffn=(Fraction(0), Fraction(1)))
    own = space("bert", coarse)
    specs = list(own.specs())
    # A layer is left out, or has attention or not, and a feed-forward block or not.
    assert len(specs) == len(set(specs)) == 5 * 5
    assert own.size == 8 * 8
    assert all(own.check(spec) == spec for spec in specs)


def test_wrong_choices_and_specs_of_other_models_are_refused() -> None:
    own = space()
    with pytest.raises(ValueError, match="of genes of this space, got 'depth'"):
        own.spec({"depth": 3})
    with pytest.raises(ValueError, match=r"must be one of \(1, 3, 4\), got 2"):
        own.spec({"encoder.layer.0.attention.heads": 2})
    with pytest.raises(ValueError, match="must be one of"):
        own.spec({"encoder.layer.0.skipped": 1})
    with pytest.raises(ValueError, match="the layers of a spec must be"):
        own.check(space("vit").full)
    name = "encoder.layer.0"
    with pytest.raises(ValueError, match="must be from 0 to 64, got 65"):
        own.check(own.full.replace(name, widths=(65,)))
    with pytest.raises(ValueError, match="must have 1 attentions and 1 widths, got 1 and 2"):
        own.check(own.full.replace(name, widths=(1, 2)))
    llama = space("llama")
    odd = llama.full.replace("model.layers.0", attention=(AttentionSpec("softmax", 3),))
    with pytest.raises(ValueError, match="from 0 to 4 and whole groups of 2, got 3"):
        llama.check(odd)


def test_layers_that_cannot_be_left_out_are_not() -> None:
    net = Supernet.of(capture(nn.Sequential(*(nn.Linear(8, 8) for _ in range(3))), (noise(2, 8),)))
    name = net.full.layers[0].name
    with pytest.raises(ValueError, match=f"layer {name!r} must not be skipped: "):
        net.module(net.full.replace(name, skipped=True))


def test_settings_that_make_no_space_are_refused() -> None:
    config = SpaceConfig(heads=(Fraction(1),))
    with pytest.raises(ValueError, match="heads must be shares from 0 to 1, 1 among them"):
        SpaceConfig(heads=(Fraction(1, 2),))
    assert SpaceConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
