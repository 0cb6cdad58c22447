"""Which places of a model can be made smaller, and in which words the others are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from supernet.capture.probe import agree
from supernet.capture.subject import capture
from supernet.elastic.anatomy import Anatomy, find
from supernet.elastic.supernet import Supernet
from supernet.errors import Uncapturable
from tests.supernet.elastic.elastic_models import (
    MODELS,
    FusedBlock,
    bert,
    captured,
    flat,
    llama,
    words,
)
from tests.supernet.models import Stateful, Wrapped, ids, noise, seeded


def summary(anatomy: Anatomy) -> dict[str, list[tuple[str, str, int, int]]]:
    return {
        layer.name: [(p.name, p.kind, p.size, p.group) for p in layer.places]
        for layer in anatomy.layers
    }


def net_of(model: nn.Module, *inputs: Tensor) -> Supernet:
    learned = capture(model, inputs)
    assert learned.program is not None, learned.reason
    return Supernet.of(learned)


def why(net: Supernet, where: str) -> str:
    return next(refusal.why for refusal in net.refused if refusal.where == where)


EXPECTED = {
    "bert": {
        f"encoder.layer.{n}": [
            (f"encoder.layer.{n}.attention", "heads", 4, 1),
            (f"encoder.layer.{n}.intermediate.dense", "ffn", 64, 1),
        ]
        for n in (0, 1)
    },
    "llama": {
        f"model.layers.{n}": [
            (f"model.layers.{n}.self_attn", "heads", 2, 2),
            (f"model.layers.{n}.mlp.gate_proj", "ffn", 64, 1),
        ]
        for n in (0, 1)
    },
    "gpt2": {
        f"transformer.h.{n}": [
            (f"transformer.h.{n}.attn", "heads", 4, 1),
            (f"transformer.h.{n}.mlp.c_fc", "ffn", 128, 1),
        ]
        for n in (0, 1)
    },
    "vit": {
        f"layers.{n}": [
            (f"layers.{n}.attention", "heads", 4, 1),
            (f"layers.{n}.mlp.fc1", "ffn", 64, 1),
        ]
        for n in (0, 1)
    },
    "fused vit": {
        f"blocks.{n}": [(f"blocks.{n}", "heads", 4, 1), (f"blocks.{n}.mlp.0", "ffn", 64, 1)]
        for n in (0, 1)
    },
    "resnet": {
        f"layer1.{n}": [
            (f"layer1.{n}.conv1", "channels", 24, 1),
            (f"layer1.{n}.conv2", "channels", 24, 1),
        ]
        for n in (0, 1)
    },
    "mobilenet": {
        f"features.{n}": [
            (f"features.{n}.expand.0", "channels", 32, 1),
            (f"features.{n}.squeeze", "channels", 8, 1),
        ]
        for n in (0, 1)
    },
}


@pytest.mark.parametrize("name", list(MODELS))
def test_layers_and_their_places(name: str) -> None:
    net = Supernet.of(captured(name)[1])
    assert summary(net.anatomy) == EXPECTED[name]
    assert all(layer.stream is not None for layer in net.anatomy.layers)
    streams = [layer.stream for layer in net.anatomy.layers if layer.stream is not None]
    assert streams[0].exit == streams[1].entry


def test_the_residual_stream_keeps_its_width() -> None:
    net = Supernet.of(captured("vit")[1])
    assert "the width of the stream" in net.refused[0].why
    assert "layer_norm" in net.refused[0].why


def test_torchs_own_encoder_layers() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model = seeded(lambda: nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    learned = capture(model, [(noise(1, 7, 32),), (noise(1, 9, 32),)])
    net = Supernet.of(learned)
    assert summary(net.anatomy)["layers.1"] == [
        ("layers.1.self_attn", "heads", 4, 1),
        ("layers.1.linear1", "ffn", 64, 1),
    ]
    for layers in net.space.specs():
        got = net.module(layers)(noise(3, 11, 32))
        assert [tuple(out.shape) for out in got] == [(3, 11, 32)]
        if layers.layers[0] != net.full.layers[0]:
            break


def test_a_layer_used_twice_is_fixed() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.block(self.block(x))

    net = net_of(seeded(lambda: Wrapped(forward, block=FusedBlock())), noise(2, 5, 32))
    assert net.space.genes == ()
    assert why(net, "block.mlp.0") == "the weight 'block.mlp.0.weight' is used in 2 places"


def test_tied_weights_are_fixed() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = FusedBlock(), FusedBlock()
            self.second.mlp[0].weight = self.first.mlp[0].weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    net = net_of(seeded(Tied), noise(2, 5, 32))
    names = [gene.name for gene in net.space.genes]
    assert "first.kind" in names
    assert "first.mlp.0.width" not in names
    assert "is used in 2 places" in why(net, "first.mlp.0")


def test_weights_that_are_views_of_others_are_fixed() -> None:
    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 8))
        flat_weights = torch.randn(200)
        model[0].weight = nn.Parameter(flat_weights[:128].view(16, 8))
        model[2].weight = nn.Parameter(flat_weights[72:].view(8, 16))
        return model

    assert "shares memory with" in why(net_of(seeded(make), noise(2, 8)), "0")


def test_a_weight_that_is_used_elsewhere_too_is_fixed() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x))) + self.up.weight.sum()

    model = Wrapped(forward, up=nn.Linear(8, 16), down=nn.Linear(16, 8))
    net = net_of(model.eval(), noise(2, 8))
    assert net.space.size == 1
    assert "up.weight" in why(net, "up") or "sum" in why(net, "up")


@pytest.mark.parametrize(
    ("between", "told"),
    [
        (nn.LayerNorm(16), "layer_norm takes a mean over it"),
        (nn.Softmax(-1), "softmax mixes what lies along it"),
        (nn.GroupNorm(2, 16), "group_norm takes a mean over it"),
        (nn.Bilinear(16, 16, 16), "not understood"),
    ],
)
def test_what_mixes_channels_fixes_them(between: nn.Module, told: str) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.up(x)
        return self.down(self.between(y, y) if told == "not understood" else self.between(y))

    up, down = nn.Linear(8, 16), nn.Linear(16, 8)
    model = seeded(lambda: Wrapped(forward, up=up, down=down, between=between))
    net = net_of(model, noise(2, 8))
    assert net.space.size == 1
    assert told in why(net, "up")


def test_channels_that_the_model_returns_are_fixed() -> None:
    def forward(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.relu(self.up(x))
        return self.down(hidden), hidden

    model = Wrapped(forward, up=nn.Linear(8, 16), down=nn.Linear(16, 8))
    assert why(net_of(model.eval(), noise(2, 8)), "up") == "the model returns it"


def test_attention_weights_that_the_model_returns_fix_the_heads() -> None:
    model = bert(attn_implementation="eager")

    def forward(self: Any, **call: Tensor) -> Any:
        got = self.model(**call, output_attentions=True)
        return got.last_hidden_state, got.attentions

    learned = capture(Wrapped(forward, model=model).eval(), [words(1, 7), words(1, 9)])
    net = Supernet.of(learned)
    kinds = {p.kind for p in net.anatomy.places}
    assert kinds == {"ffn"}
    assert why(net, "model.encoder.layer.0.attention") == "the model returns it"
    assert "more than one value" in why(net, "model.encoder.layer.0")


def test_hidden_states_among_the_outputs_go_around_what_is_left_out() -> None:
    model = bert()

    def forward(self: Any, **call: Tensor) -> Any:
        return self.model(**call, output_hidden_states=True).hidden_states

    learned = capture(Wrapped(forward, model=model).eval(), [words(1, 7), words(1, 9)])
    net = Supernet.of(learned)
    spec = net.full.replace("model.encoder.layer.1", skipped=True)
    got = net.module(spec)(*flat(learned, words(2, 8)))
    assert torch.equal(got[1], got[2])
    assert agree(got[:2], list(model(**words(2, 8), output_hidden_states=True).hidden_states[:2]))


def test_a_value_that_more_than_the_next_layer_reads_keeps_its_layer() -> None:
    class Crossing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(FusedBlock() for _ in range(2))
            self.mix = nn.Linear(32, 32)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layers[0](x)
            return self.layers[1](y) + self.mix(y) + x

    net = net_of(seeded(Crossing), noise(2, 5, 32))
    spec = net.full.replace("layers.0", skipped=True)
    model = seeded(Crossing)
    x = noise(3, 5, 32)
    assert agree(net.module(spec)(x), [model.layers[1](x) + model.mix(x) + x])


def test_a_block_that_adds_nothing_to_its_input_cannot_be_left_out() -> None:
    model = seeded(lambda: nn.Sequential(*(nn.Linear(8, 8) for _ in range(3))))
    net = net_of(model, noise(2, 8))
    assert [layer.name for layer in net.anatomy.layers if layer.stream] == []


def test_one_head_and_three() -> None:
    for heads, choices in ((1, None), (3, (1, 2, 3)), (6, (2, 4, 6))):
        block = seeded(lambda heads=heads: nn.Sequential(FusedBlock(24, heads), nn.Identity()))
        net = net_of(block, noise(2, 5, 24))
        found = {gene.name: gene.choices for gene in net.space.genes}
        assert found.get("0.heads") == choices


def test_one_key_for_all_queries() -> None:
    model = llama(num_key_value_heads=1)
    net = Supernet.of(capture(model, [words(1, 7), words(1, 9)]))
    place = net.anatomy.places[0]
    assert (place.kind, place.size, place.group) == ("heads", 4, 1)
    assert "model.layers.0.self_attn.k_proj.weight" not in dict(place.weights)


def test_tied_embeddings_stay_tied() -> None:
    learned = capture(llama(), [words(1, 7), words(1, 9)])
    net = Supernet.of(learned)
    module = net.module(net.full.replace("model.layers.0", skipped=True))
    elastic = net.elastic()
    for made in (module, elastic):
        found = dict(made.named_parameters(remove_duplicate=False))
        tables = [found[n] for n in found if "embed_tokens" in n or "lm_head" in n]
        assert len({id(table) for table in tables}) == 1


def test_weights_that_are_no_numbers_fix_their_place() -> None:
    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        with torch.no_grad():
            model[0].weight[3, 2] = float("nan")
        return model

    assert why(net_of(seeded(make), noise(2, 8)), "0") == (
        "the weight '0.weight' holds NaN or infinity"
    )


def test_a_model_with_nothing_to_shrink() -> None:
    net = net_of(nn.Linear(8, 4).eval(), noise(2, 8))
    assert (net.space.size, net.space.genes) == (1, ())
    assert why(net, "") == "no inner width and no residual layer was found"
    x = noise(3, 8)
    assert torch.equal(net.module(net.full)(x)[0], net.elastic()(net.full, x)[0])


def test_a_model_without_a_program_is_refused() -> None:
    with pytest.raises(Uncapturable, match="there is no program to cut"):
        Supernet.of(capture(Stateful().eval(), (noise(2, 4),)))


def test_buffers_along_a_width_are_cut_with_it() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
            self.register_buffer("scale", torch.linspace(0.5, 2.0, 16))
            self.register_buffer("shift", torch.ones(16), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(torch.relu(self.up(x) * self.scale + self.shift))

    model = seeded(Scaled)
    net = net_of(model, noise(2, 8))
    x = noise(3, 8)
    hidden = torch.relu(model.up(x) * model.scale + model.shift)[:, :8]
    want = hidden @ model.down.weight[:, :8].T + model.down.bias
    assert agree(net.module(net.space.spec({"up.width": 8}))(x), [want])


@pytest.mark.parametrize("kind", ["chunk", "split", "slice", "narrow", "glu", "cat"])
def test_widths_side_by_side(kind: str) -> None:
    """A gate and a value from one product, taken apart in different words."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.up(x)
        if kind == "cat":
            return self.down(torch.cat([y, torch.relu(self.more(x))], dim=-1))
        if kind == "glu":
            return self.down(nn.functional.glu(y))
        if kind == "chunk":
            a, b = y.chunk(2, dim=-1)
        elif kind == "split":
            a, b = y.split([16, 16], dim=-1)
        elif kind == "slice":
            a, b = y[..., :16], y[..., 16:]
        else:
            a, b = y.narrow(-1, 0, 16), y.narrow(-1, 16, 16)
        return self.down(a * torch.sigmoid(b))

    up, more, down = nn.Linear(8, 32), nn.Linear(8, 16), nn.Linear(48 if kind == "cat" else 16, 8)
    model = seeded(lambda: Wrapped(forward, up=up, more=more, down=down))
    net = net_of(model, noise(2, 8))
    x = noise(3, 8)
    if kind == "cat":
        assert [(p.size, p.least) for p in net.anatomy.places] == [(32, 1), (16, 1)]
        kept = [*range(8), *range(32, 40)]
        full = torch.cat([up(x), torch.relu(more(x))], dim=-1)
        spec = net.space.spec({"up.width": 8, "more.width": 8})
    else:
        assert [(p.size, p.least) for p in net.anatomy.places] == [(16, 0)]
        kept = list(range(8))
        assert (net.anatomy.places[0].makes, len(net.refused)) == (("linear",), 0)
        full = up(x)[..., :16] * torch.sigmoid(up(x)[..., 16:])
        spec = net.space.spec({"up.width": 8})
    want = full[..., kept] @ down.weight[:, kept].T + down.bias
    assert agree(net.module(spec)(x), [want])


def test_what_is_found_does_not_depend_on_names() -> None:
    class Plain(nn.Module):
        """Raw parameters, no submodules."""

        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.randn(16, 8))
            self.b = nn.Parameter(torch.randn(8, 16))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bi,oi->bo", torch.relu(x @ self.a.T), self.b)

    model = seeded(Plain)
    anatomy = find(net_of(model, noise(2, 8)).anatomy.trace.program)
    assert [(p.kind, p.size) for p in anatomy.places] == [("ffn", 16)]
    net = net_of(model, noise(2, 8))
    x = noise(3, 8)
    spec = net.full.replace("", widths=(8,))
    assert agree(net.module(spec)(x), [torch.relu(x @ model.a[:8].T) @ model.b[:, :8].T])


def test_the_dims_that_were_free_stay_free() -> None:
    _, learned = captured("bert")
    net = Supernet.of(learned)
    spec = net.space.spec({gene.name: gene.choices[0] for gene in net.space.genes[1:4]})
    program = net.program(spec)
    assert learned.program is not None
    assert program.range_constraints == learned.program.range_constraints
    assert [ids(1, n).shape for n in (3, 39)]
    module = program.module()
    for rows, length in ((1, 2), (5, 3), (2, 39)):
        call = words(rows, length)
        got = module(*flat(learned, call))
        assert agree(list(got), list(net.module(spec)(*flat(learned, call))))
