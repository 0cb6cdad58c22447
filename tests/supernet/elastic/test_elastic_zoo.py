"""Architectures that other people wrote: sub-networks against the whole with weights put to zero.

What a product does not sum over may as well be zero; what is left out of a graph must not show.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx

from benchmarks.architectures import ARCHITECTURES
from supernet.capture.probe import agree
from supernet.capture.subject import capture
from supernet.elastic.axes.axes import units
from supernet.elastic.axes.tracing import weight_name
from supernet.elastic.cutting.narrowing import cuts_of
from supernet.elastic.space import SpaceConfig
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.supernet import Supernet
from tests.supernet.elastic.test_elastic_subnets import drawn

# Rotary and parallel attention, attention that is not softmax's only user, experts, shared biases,
# windows of an image, convolutions with residuals, heads in the rows of one fused product, lengths
# that convolutions with strides have made.
FOUND = {
    "ModernBert": {"heads": 2, "ffn": 2},
    "RoFormer": {"heads": 2, "ffn": 2},
    "MegatronBert": {"heads": 2, "ffn": 2},
    "T5EncoderModel": {"ffn": 2},
    "GPTNeoXForCausalLM": {"heads": 2, "ffn": 2},
    "PhiForCausalLM": {"heads": 2, "ffn": 2},
    "Qwen3ForCausalLM": {"heads": 2, "ffn": 2},
    "MixtralForCausalLM": {"heads": 2},
    "Swin": {"heads": 4, "ffn": 4},
    "MobileNetV2": {"channels": 19},
    "ConvNext": {"ffn": 2},
    "Wav2Vec2": {"heads": 2, "ffn": 2},
}


def named(name: str) -> tuple[Supernet, Sequence[Tensor]]:
    architecture = next(one for one in ARCHITECTURES if one.name == name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library
        model = architecture.make()
        rng = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in model.parameters():  # small ones hide what is wrong, and biases are 0
                weight.add_(0.15 * torch.randn(weight.shape, generator=rng))
        learned = capture(model, architecture.examples())
    net = Supernet.of(learned, SpaceConfig(attention=("linear",)))
    assert agree(
        list(net.module(net.full)(*learned.references[-1].inputs)),
        list(learned.references[-1].outputs),
    )
    return net, learned.references[-1].inputs


def masked(net: Supernet, spec: SubnetSpec) -> dict[str, Tensor]:
    """The weights, zero where a product sums over units that the spec leaves out."""
    trace = net.anatomy.trace
    nodes = {node.name: node for node in trace.program.graph.nodes}
    weights = dict(net.weights)
    cuts = cuts_of(net.anatomy, spec)
    for place in net.anatomy.places:
        kept = cuts.get(place.axis.root(), place.size)
        for name in (w for product in place.sums for w in trace.weights_of(nodes[product])):
            for dim, axes in enumerate(trace.of(trace.weights[name])):
                entries = np.flatnonzero(units(axes, place.axis) >= kept)
                if len(entries) and (name, dim) in place.weights:
                    weights[name] = weights[name].index_fill(dim, torch.from_numpy(entries), 0.0)
    return weights


def whole(net: Supernet, spec: SubnetSpec, given: Sequence[Tensor]) -> list[Tensor]:
    """The original with those weights; a layer that is left out gives what it was given."""
    program = net.anatomy.trace.program
    passed = {
        layer.stream.exit: layer.stream.entry
        for layer, own in zip(net.anatomy.layers, spec.layers, strict=True)
        if own.skipped and layer.stream is not None
    }

    class Run(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.name not in passed:
                return value
            return next(self.env[node] for node in self.env if node.name == passed[n.name])

    weights, inputs = masked(net, spec), iter(given)
    names = [weight_name(one) for one in program.graph_signature.input_specs]
    values = [next(inputs) if name is None else weights[name] for name in names]
    graph = fx.GraphModule(program.graph_module, program.graph)
    with torch.no_grad():
        return list(Run(graph, garbage_collect_values=False).run(*values))


@pytest.mark.parametrize("name", FOUND)
def test_what_is_left_out_is_as_if_it_were_zero(name: str) -> None:
    net, given = named(name)
    kinds = [place.kind for place in net.anatomy.places]
    assert {kind: kinds.count(kind) for kind in dict.fromkeys(sorted(kinds, reverse=True))} == (
        FOUND[name]
    )
    names = [gene.name for gene in net.space.genes]
    assert len(set(names)) == len(names)
    rng = random.Random(name)
    for _ in range(5):
        spec = drawn(net, rng)
        assert agree(list(net.module(spec)(*given)), whole(net, spec, given)), spec.key
    assert net.program(spec).range_constraints == net.anatomy.trace.program.range_constraints
