"""How a batch uses the caches and the memory of one machine."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest

from profiler.fingerprint import DeviceFingerprint, Rate
from profiler.shapes import Shape
from supernet.capture.subject import capture
from supernet.fusion.graph.memory import FEATURES, extract_memory_pattern
from supernet.fusion.graph.op_graph import Op, OpGraph, OpKind, TensorUse
from tests.supernet.models import Attention, seeded, text

BARE = DeviceFingerprint("cpu-bare", "cpu", "bare", "x86_64", cores=2, logical_cpus=2)
CACHED = replace(BARE, l1d_bytes=100, l2_bytes=1_000, l3_bytes=10_000)


def op(
    name: str, *reads: TensorUse, writes: int, kind: OpKind = OpKind.POINTWISE, flops: int = 0,
    effect: str | None = None,
) -> Op:  # fmt: skip
    return Op(name, f"aten.{name}", kind, reads, writes, flops, (1,), "float32", effect)


def of(*ops: Op, outputs: tuple[str, ...]) -> OpGraph:
    graph = nx.DiGraph()
    for each in ops:
        graph.add_node(each.name, op=each)
        for use in each.reads:
            if use.kind == "value":
                graph.add_edge(use.name, each.name, bytes=use.bytes)
    return OpGraph(graph, Shape(1), frozenset(outputs))


def given(name: str, size: int) -> TensorUse:
    return TensorUse(name, size, "input")


def weight(name: str, size: int) -> TensorUse:
    return TensorUse(name, size, "weight")


def value(name: str, size: int) -> TensorUse:
    return TensorUse(name, size, "value")


CHAIN = of(
    op("fc", given("x", 40), weight("w", 800), writes=80, kind=OpKind.MATMUL, flops=3_200),
    op("relu", value("fc", 80), writes=80, flops=20),
    op("mix", value("fc", 80), value("relu", 80), writes=40, kind=OpKind.MATMUL, flops=780),
    outputs=("mix",),
)


class TestByHand:
    def test_what_moves(self) -> None:
        pattern = extract_memory_pattern(CHAIN, CACHED)
        assert (pattern.flops, pattern.weight_bytes) == (4_000, 800)
        assert (pattern.bytes_read, pattern.bytes_written) == (1_080, 200)
        assert pattern.intensity == pytest.approx(4_000 / 1_280)
        assert pattern.pointwise_share == pytest.approx(160 / 1_280)
        assert pattern.attention_share == pytest.approx(780 / 4_000)  # no weight in it

    def test_peak_of_live_values(self) -> None:
        # x throughout; fc and relu are both needed until mix has written
        assert extract_memory_pattern(CHAIN, CACHED).peak_live_bytes == 40 + 80 + 80 + 40
        freed = of(
            op("a", given("x", 10), writes=100),
            op("b", value("a", 100), writes=30),
            op("c", value("b", 30), writes=30),
            outputs=("c",),
        )
        assert extract_memory_pattern(freed, CACHED).peak_live_bytes == 10 + 100 + 30
        kept = of(*freed.ops(), outputs=("a", "c"))
        assert extract_memory_pattern(kept, CACHED).peak_live_bytes == 10 + 100 + 30 + 30

    def test_what_is_written_in_place_is_alive_once(self) -> None:
        graph = of(
            op("a", given("x", 10), writes=100),
            op("b", value("a", 100), writes=100, effect="mutates"),
            op("c", value("b", 100), writes=20),
            outputs=("c",),
        )
        assert extract_memory_pattern(graph, CACHED).peak_live_bytes == 10 + 100 + 20

    def test_the_nearest_cache_that_still_holds_it(self) -> None:
        served = extract_memory_pattern(CHAIN, CACHED).served_by
        # x, fc and relu: just written. fc again: its own 80 and relu's, 160.
        # w: last used a batch ago, its own 800 and since then fc, relu, mix and x: 1,040.
        total = 1_080
        assert served["l1"] == pytest.approx((40 + 80 + 80) / total)
        assert served["l2"] == pytest.approx(80 / total)
        assert served["l3"] == pytest.approx(800 / total)
        assert served["memory"] == 0.0

    def test_a_cache_of_unknown_size_serves_nothing(self) -> None:
        without = extract_memory_pattern(CHAIN, replace(CACHED, l2_bytes=None, l3_bytes=None))
        assert without.served_by["l2"] == without.served_by["l3"] == 0.0
        assert sum(without.served_by.values()) == pytest.approx(1.0)
        assert extract_memory_pattern(CHAIN, BARE).served_by["memory"] == 1.0

    @pytest.mark.parametrize(
        ("changes", "ridge"),
        [
            ({"memory_bandwidth_gb_per_s": 20.0}, 10.0),
            ({"peak_bandwidth_gb_per_s": 40.0}, 5.0),
            ({"core_bandwidth_gb_per_s": 50.0}, 2.0),
            ({}, 16.0),
            ({"memory_bandwidth_gb_per_s": 20.0, "matrix_gflop_per_s": {}}, 16.0),
        ],
    )
    def test_balance_is_relative_to_the_machine(
        self, changes: dict[str, object], ridge: float
    ) -> None:
        rates = {"fp32": Rate(one_core=100.0, all_cores=200.0)}
        machine = replace(CACHED, **{"matrix_gflop_per_s": rates, **changes})
        pattern = extract_memory_pattern(CHAIN, machine)
        assert pattern.balance == pytest.approx(pattern.intensity / ridge)


class TestFeatures:
    def test_they_are_named_finite_and_single_precision(self) -> None:
        pattern = extract_memory_pattern(CHAIN, BARE)
        features = pattern.features()
        assert features.shape == (len(FEATURES),) == (13,)
        assert features.dtype == np.float32
        assert np.isfinite(features).all()
        named = dict(zip(FEATURES, features, strict=True))
        assert named["log_flops"] == pytest.approx(np.log(4_001))
        assert named["log_balance"] == pytest.approx(np.log1p(pattern.balance))
        assert named["pointwise_share"] == pytest.approx(pattern.pointwise_share)
        assert named["served_by_memory"] == 1.0

    def test_an_empty_program_has_finite_features(self) -> None:
        pattern = extract_memory_pattern(of(outputs=()), BARE)
        assert not pattern.features().any()

    def test_a_real_program_grows_with_its_shape(self) -> None:
        learned = capture(seeded(Attention), [text(1, 5), text(1, 9)])
        assert learned.program is not None
        patterns = [
            extract_memory_pattern(OpGraph.of(learned.program, learned.signature, shape), CACHED)
            for shape in (Shape(1, 8), Shape(4, 8), Shape(4, 32))
        ]
        for smaller, larger in pairwise(patterns):
            assert larger.flops > smaller.flops
            assert larger.bytes_read > smaller.bytes_read
            assert larger.peak_live_bytes > smaller.peak_live_bytes
            assert sum(larger.served_by.values()) == pytest.approx(1.0)
        assert patterns[2].attention_share > patterns[1].attention_share > 0.0
        assert np.isfinite([pattern.features() for pattern in patterns]).all()
