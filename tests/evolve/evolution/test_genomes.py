"""Sub-networks of all kinds of models as genomes, and back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from evolve.evolution.genomes import Genomes, genomes_of, uniform_slices
from supernet.capture.subject import capture
from supernet.elastic.space import SpaceConfig
from supernet.elastic.supernet import Supernet
from tests.supernet.elastic.elastic_models import captured


class Experts(nn.Module):
    """Nine hidden layers side by side in one module: too many combinations to be listed."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(8, 64) for _ in range(9))
        self.down = nn.ModuleList(nn.Linear(64, 8) for _ in range(9))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(torch.relu(up(x)))
        return x


def linear() -> Supernet:
    layers = nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)
    return Supernet.of(capture(nn.Sequential(*layers).eval(), (torch.zeros(1, 8),)))


@pytest.fixture(scope="module", params=["bert", "llama", "gpt2", "vit", "resnet", "linear"])
def genomes(request: pytest.FixtureRequest) -> Genomes:
    net = linear() if request.param == "linear" else Supernet.of(captured(request.param)[1])
    return genomes_of(net.space)


def test_a_genome_is_one_sub_network_and_the_other_way_round(genomes: Genomes) -> None:
    space, rng = genomes.space, np.random.default_rng(0)
    assert genomes.spec(space.original) == genomes.subnets.full
    drawn = {space.sample(rng) for _ in range(200)} | {space.original, space.smallest}
    specs = {genome: genomes.spec(genome) for genome in map(space.canonical, drawn)}
    assert len(set(specs.values())) == len(specs)
    for genome, spec in specs.items():
        assert spec == spec.canonical()
        assert genomes.genome(spec) == genome == space.canonical(genome)


def test_every_sub_network_of_a_small_space_has_a_genome_of_its_own() -> None:
    subnets = Supernet.of(captured("bert")[1]).space
    genomes = genomes_of(subnets)
    specs = list(subnets.specs())
    found = {genomes.genome(spec) for spec in specs}
    assert len(found) == len(specs) == genomes.space.size
    assert {genomes.spec(genome) for genome in found} == set(specs)


def test_no_heads_is_no_attention() -> None:
    config = SpaceConfig(heads=(0, 1))
    subnets = Supernet.of(captured("bert")[1], config).space
    genomes = genomes_of(subnets)
    assert genomes.space.size == len(list(subnets.specs()))


def test_uniform_slices_leave_no_layer_out(genomes: Genomes) -> None:
    slices = uniform_slices(genomes)
    assert slices
    assert genomes.subnets.full not in slices
    for spec in slices:
        assert not any(layer.skipped for layer in spec.layers)
        assert all(a.heads for layer in spec.layers for a in layer.attention)
        assert all(w for layer in spec.layers for w in layer.widths)
        assert genomes.spec(genomes.genome(spec)) == spec


def test_widths_too_many_to_be_listed_move_together() -> None:
    net = Supernet.of(capture(Experts().eval(), (torch.zeros(2, 8),)))
    genomes = genomes_of(net.space)
    assert len(genomes.space.genes) < len(net.space.genes)
    spec = uniform_slices(genomes)[0]
    assert genomes.spec(genomes.genome(spec)) == spec
    widths = spec.layers[0].widths
    uneven = spec.replace(spec.layers[0].name, widths=(64, *widths[1:]))
    with pytest.raises(ValueError, match="must keep the same of what goes together"):
        genomes.genome(uneven)


def test_what_no_gene_offers_is_refused_in_words(genomes: Genomes) -> None:
    layer = next(one for one in genomes.subnets.full.layers if one.widths and one.widths[0] > 8)
    odd = dataclasses.replace(layer, widths=(7, *layer.widths[1:]))
    spec = genomes.subnets.full.replace(layer.name, widths=odd.widths)
    with pytest.raises(ValueError, match=r"width must be one of \[.*\], got 7"):
        genomes.genome(spec)


def test_what_is_left_out_is_said_in_words() -> None:
    genomes = genomes_of(Supernet.of(captured("bert")[1]).space)
    one, two = (layer.name for layer in genomes.subnets.full.layers)
    assert genomes.describe(genomes.subnets.full) == "the original"
    out = genomes.subnets.full.replace(two, skipped=True).canonical()
    assert genomes.describe(out) == "encoder.layer.1 left out"
    both = out.replace(one, skipped=True).canonical()
    assert genomes.describe(both) == "encoder.layer.0, 1 left out"
    slices = {genomes.describe(spec) for spec in uniform_slices(genomes)}
    assert "encoder.layer.0, 1: 1 of 4 heads, width 16 of 64" in slices
    assert genomes_of(linear().space).describe(linear().space.spec({"0.width": 16})) == (
        "the model: width 16 of 64"
    )
