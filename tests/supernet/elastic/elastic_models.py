"""Models that nobody prepared, for the tests of elastic, and the same made smaller by hand."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from supernet.capture.subject import Capture, capture
from supernet.elastic.subnet import AttentionSpec, LayerSpec, SubnetSpec
from tests.supernet.models import ids, noise, seeded


def words(rows: int, length: int) -> dict[str, Tensor]:
    given = ids(rows, length, seed=length)
    return {"input_ids": given, "attention_mask": torch.ones_like(given)}


def padded(rows: int, length: int) -> dict[str, Tensor]:
    """Words of which every row but the first ends earlier."""
    given = words(rows, length)
    for row in range(1, rows):
        given["attention_mask"][row, length - row :] = 0
    return given


def bert(**changes: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    more = {"vocab_size": 50, "num_hidden_layers": 2, "max_position_embeddings": 40}
    config = transformers.BertConfig(**{**sizes, **more, **changes})
    return seeded(lambda: _shaken(transformers.BertModel(config)))


def llama(**changes: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    more = {"num_key_value_heads": 2, "vocab_size": 50, "num_hidden_layers": 2, "use_cache": False}
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": True}
    config = transformers.LlamaConfig(**{**sizes, **more, **tokens, **changes})
    return seeded(lambda: _shaken(transformers.LlamaForCausalLM(config)))


def gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=50, n_positions=40, use_cache=False,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return seeded(lambda: _shaken(transformers.GPT2LMHeadModel(config)))


def vit() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        image_size=16, patch_size=4,
    )  # fmt: skip
    return seeded(lambda: _shaken(transformers.ViTModel(config)))


def _shaken(model: nn.Module) -> nn.Module:
    """With weights large enough that every part shows in the answer, biases included."""
    for name, weight in model.named_parameters():
        spread = 0.3 if weight.dim() > 1 else 0.2
        centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
        nn.init.normal_(weight, centre, spread)
    return model


class FusedBlock(nn.Module):
    """A pre-norm block of a ViT, queries, keys and values in one product, products spelled out."""

    def __init__(self, width: int = 32, heads: int = 4, hidden: int = 64) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.heads, self.size = heads, width // heads
        self.gamma = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        rows, length, _ = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(rows, length, 3, self.heads, self.size)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q * self.size**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        mixed = (weights @ v).transpose(1, 2).reshape(rows, length, -1)
        x = x + self.gamma * self.proj(mixed)
        return x + self.mlp(self.norm2(x))


class FusedViT(nn.Module):
    """Patches by a convolution, two fused blocks, and a head on the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, 4)
        self.blocks = nn.Sequential(FusedBlock(), FusedBlock())
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.blocks(tokens).mean(1))


class Bottleneck(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu_(self.bn2(self.conv2(y)))
        return torch.relu(x + self.bn3(self.conv3(y)))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(True))
        self.layer1 = nn.Sequential(Bottleneck(16, 24), Bottleneck(16, 24))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.stem(x), 2)
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(self.layer1(x), 1), 1))


class Inverted(nn.Module):
    """A block of MobileNetV2 with squeeze and excitation."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(
            nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(inplace=True)
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.Hardswish(inplace=True),
        )
        self.squeeze, self.excite = nn.Conv2d(inner, 8, 1), nn.Conv2d(8, inner, 1)
        self.project = nn.Sequential(nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        gate = self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True))))
        return x + self.project(y * torch.sigmoid(gate))


class MobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.features = nn.Sequential(Inverted(8, 32), Inverted(8, 32))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(self.stem(x)).mean((2, 3)))


def images() -> Any:
    return (noise(2, 3, 16, 16),)


def texts() -> Any:
    return [words(1, 7), words(1, 12)]


def with_statistics(make: Callable[[], nn.Module]) -> nn.Module:
    """With batch norms that differ channel by channel."""

    def shaken() -> nn.Module:
        model = make()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.3, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.3, 0.3)
        return model

    return seeded(shaken)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "bert": (bert, texts),
    "llama": (llama, texts),
    "gpt2": (gpt2, texts),
    "vit": (vit, images),
    "fused vit": (lambda: seeded(FusedViT), images),
    "resnet": (lambda: with_statistics(ResNet), images),
    "mobilenet": (lambda: with_statistics(MobileNet), images),
}


@functools.cache
def captured(name: str) -> tuple[nn.Module, Capture]:
    """The model of that name and its capture, made once; neither may be changed."""
    make, examples = MODELS[name]
    model = make()
    learned = capture(model, examples())
    assert learned.program is not None, learned.reason
    return model, learned


def flat(learned: Capture, call: Any) -> list[Tensor]:
    """A call's tensors as the program takes them."""
    args, kwargs = ((), call) if isinstance(call, dict) else (call, {})
    return learned.flatten(args, kwargs).leaves


def smaller(name: str, spec: SubnetSpec) -> nn.Module:
    """The user's own model with sliced weights: what a sub-network must compute."""
    model = copy.deepcopy(captured(name)[0])
    shrink = {
        "bert": _bert_layer, "llama": _llama_layer, "gpt2": _gpt2_layer, "vit": _vit_layer,
        "fused vit": _fused_layer, "resnet": _resnet_layer, "mobilenet": _mobile_layer,
    }[name]  # fmt: skip
    layers = _layers_of(name, model)
    for layer, own in zip(list(layers), spec.layers, strict=True):
        if not own.skipped:
            shrink(layer, own)
    for index in reversed(range(len(spec.layers))):
        if spec.layers[index].skipped:
            del layers[index]
    if hasattr(model, "config"):
        model.config.num_hidden_layers = len(layers)
    return model.eval()


def _layers_of(name: str, model: Any) -> Any:
    return {
        "bert": lambda: model.encoder.layer, "llama": lambda: model.model.layers,
        "gpt2": lambda: model.transformer.h, "vit": lambda: model.layers,
        "fused vit": lambda: model.blocks, "resnet": lambda: model.layer1,
        "mobilenet": lambda: model.features,
    }[name]()  # fmt: skip


def first(weight: Any, count: int, dim: int = 0) -> nn.Parameter:
    """The first entries; none of them is all of them, put to zero, which adds nothing."""
    kept = weight.detach().narrow(dim, 0, count) if count else torch.zeros_like(weight)
    return nn.Parameter(kept.clone())


def _rows(linear: Any, count: int) -> None:
    if not count:  # what reads it reads nothing of it
        return
    linear.weight = first(linear.weight, count)
    if linear.bias is not None:
        linear.bias = first(linear.bias, count)


def _columns(linear: Any, count: int) -> None:
    linear.weight = first(linear.weight, count, dim=1)


def _ffn(ups: list[Any], down: Any, width: int) -> None:
    for up in ups if width else []:
        _rows(up, width)
    _columns(down, width)


def _heads(projections: list[Any], out: Any, count: int, size: int, group: int = 1) -> None:
    for index, linear in enumerate(projections if count else []):
        _rows(linear, (count if index == 0 else count // group) * size)
    _columns(out, count * size)


def _bert_layer(layer: Any, own: LayerSpec) -> None:
    attention = layer.attention.self
    projections = [attention.query, attention.key, attention.value]
    _heads(projections, layer.attention.output.dense, own.attention[0].heads, 8)
    _ffn([layer.intermediate.dense], layer.output.dense, own.widths[0])


def _llama_layer(layer: Any, own: LayerSpec) -> None:
    attention = layer.self_attn
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    _heads(projections, attention.o_proj, own.attention[0].heads, 8, group=2)
    _ffn([layer.mlp.gate_proj, layer.mlp.up_proj], layer.mlp.down_proj, own.widths[0])


def _vit_layer(layer: Any, own: LayerSpec) -> None:
    attention = layer.attention
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    _heads(projections, attention.o_proj, own.attention[0].heads, 8)
    _ffn([layer.mlp.fc1], layer.mlp.fc2, own.widths[0])


def _gpt2_layer(layer: Any, own: LayerSpec) -> None:
    """Its weights lie the other way round, and all three projections in one."""
    count = own.attention[0].heads * 8
    attention, mlp = layer.attn, layer.mlp
    if count:
        parts = attention.c_attn.weight.detach().chunk(3, dim=1)
        attention.c_attn.weight = nn.Parameter(torch.cat([p[:, :count] for p in parts], dim=1))
        biases = attention.c_attn.bias.detach().chunk(3)
        attention.c_attn.bias = nn.Parameter(torch.cat([b[:count] for b in biases]))
        attention.c_attn.nf = 3 * count
        attention.split_size = count
    attention.c_proj.weight = first(attention.c_proj.weight, count)
    if own.widths[0]:
        mlp.c_fc.weight = first(mlp.c_fc.weight, own.widths[0], dim=1)
        mlp.c_fc.bias = first(mlp.c_fc.bias, own.widths[0])
        mlp.c_fc.nf = own.widths[0]
    mlp.c_proj.weight = first(mlp.c_proj.weight, own.widths[0])


def _fused_layer(layer: Any, own: LayerSpec) -> None:
    heads = own.attention[0].heads
    if heads:
        weight = layer.qkv.weight.detach().view(3, 4, 8, 32)[:, :heads]
        layer.qkv.weight = nn.Parameter(weight.reshape(3 * heads * 8, 32).clone())
        bias = layer.qkv.bias.detach().view(3, 4, 8)[:, :heads]
        layer.qkv.bias = nn.Parameter(bias.reshape(-1).clone())
        layer.heads = heads
    _columns(layer.proj, heads * 8)
    _ffn([layer.mlp[0]], layer.mlp[2], own.widths[0])


def _norm(norm: Any, count: int) -> None:
    if not count:
        return
    _rows(norm, count)
    norm.running_mean = norm.running_mean[:count].clone()
    norm.running_var = norm.running_var[:count].clone()


def _resnet_layer(layer: Any, own: LayerSpec) -> None:
    one, two = own.widths
    if one:
        layer.conv1.weight = first(layer.conv1.weight, one)
    _norm(layer.bn1, one)
    layer.conv2.weight = first(layer.conv2.weight, one, dim=1)
    if two:
        layer.conv2.weight = first(layer.conv2.weight, two)
    _norm(layer.bn2, two)
    layer.conv3.weight = first(layer.conv3.weight, two, dim=1)


def _mobile_layer(layer: Any, own: LayerSpec) -> None:
    inner, squeezed = own.widths
    layer.squeeze.weight = first(layer.squeeze.weight, inner, dim=1)
    layer.project[0].weight = first(layer.project[0].weight, inner, dim=1)
    layer.excite.weight = first(layer.excite.weight, squeezed, dim=1)
    _rows(layer.squeeze, squeezed)
    if not inner:
        return
    layer.expand[0].weight = first(layer.expand[0].weight, inner)
    _norm(layer.expand[1], inner)
    layer.depthwise[0].weight = first(layer.depthwise[0].weight, inner)
    layer.depthwise[0].groups = inner
    _norm(layer.depthwise[1], inner)
    _rows(layer.excite, inner)


def spec_of(*layers: tuple[bool, int | None, tuple[int, ...]], like: SubnetSpec) -> SubnetSpec:
    """A spec in short: of each layer whether it is left out, its heads, its widths."""
    made = []
    for full, (skipped, heads, widths) in zip(like.layers, layers, strict=True):
        attention = () if heads is None else (AttentionSpec("softmax", heads),)
        made.append(LayerSpec(full.name, skipped, attention, widths))
    return SubnetSpec(tuple(made))
