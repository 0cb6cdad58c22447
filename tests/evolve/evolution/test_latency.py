"""Predicted latencies of sub-networks, from the times of a few."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evolve.evolution.anchors import EAGER, Engine, Timing, anchors, timed
from evolve.evolution.genomes import genomes_of
from evolve.evolution.ground import ground
from evolve.evolution.inputs import prepared
from evolve.evolution.latency import Work, features, fitted, mix_of, shapes_of
from evolve.evolution.memory import Memory
from profiler.shapes import Shape, ShapeGrid
from supernet.capture.subject import capture
from supernet.elastic.supernet import Supernet
from tests.supernet.elastic.elastic_models import captured

SHAPES = (Shape(1, 8), Shape(8, 8))


@pytest.fixture(scope="module")
def net() -> Supernet:
    return Supernet.of(captured("bert")[1])


def test_work_is_that_of_the_whole_graph(net: Supernet) -> None:
    work, space = Work(net), genomes_of(net.space).space
    genomes, rng = genomes_of(net.space), np.random.default_rng(0)
    for genome in [space.original, *(space.sample(rng) for _ in range(4))]:
        spec = genomes.spec(genome)
        due = net.cost(spec, Shape(3, 8)).flops
        assert work(spec, Shape(3, 8)) * 1e9 == pytest.approx(due, rel=1e-3)


def test_a_law_of_layers_and_work_is_found_again(net: Supernet) -> None:
    genomes, work = genomes_of(net.space), Work(net)
    law = np.array([0.2, 0.1, 3.0])
    specs = anchors(net, genomes)
    timings = [Timing(spec, shape, float(features(work, spec, shape) @ law))
               for spec in specs for shape in SHAPES]  # fmt: skip
    latency = fitted(net, timings, dict.fromkeys(SHAPES, 1.0))
    assert latency.error < 1e-6
    unseen = net.space.spec({net.space.genes[0].name: net.space.genes[0].choices[0]})
    due = np.mean([features(work, unseen, shape) @ law for shape in SHAPES])
    assert latency(unseen) == pytest.approx(due)
    assert latency.speedup(net.full) == pytest.approx(1.0)
    assert latency.speedup(unseen) > 1.0


def test_no_part_of_it_is_negative(net: Supernet) -> None:
    specs = anchors(net, genomes_of(net.space))
    timings = [Timing(spec, Shape(1, 8), float(i + 1)) for i, spec in enumerate(specs)]
    latency = fitted(net, timings, {Shape(1, 8): 1.0})
    assert (latency.coefficients >= 0).all()
    assert "to within" in latency.described


def test_anchors_set_layers_and_widths_apart_and_are_timed(net: Supernet) -> None:
    specs = anchors(net, genomes_of(net.space))
    assert specs[0] == net.full
    assert any(any(layer.skipped for layer in spec.layers) for spec in specs)
    inputs = [torch.ones(1, 5, dtype=torch.int64), torch.ones(1, 5, dtype=torch.int64)]
    found = timed(net, specs[:2], SHAPES, inputs)
    assert {(one.spec, one.shape) for one in found} == {(s, h) for s in specs[:2] for h in SHAPES}
    assert all(one.ms > 0 and Timing.from_json(one.to_json()) == one for one in found)


def test_a_time_limit_leaves_the_first_two(net: Supernet) -> None:
    inputs = [torch.ones(1, 5, dtype=torch.int64), torch.ones(1, 5, dtype=torch.int64)]
    specs = anchors(net, genomes_of(net.space))
    found = timed(net, specs, SHAPES[:1], inputs, build_s=0.0)
    assert [one.spec for one in found] == list(specs[:2])


def test_an_engine_that_is_served_by_is_built_for() -> None:
    pytest.importorskip("onnxruntime")
    layers = torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)
    learned = capture(torch.nn.Sequential(*layers).eval(), (torch.zeros(1, 8),))
    small = Supernet.of(learned)
    given = prepared(small.signature, [[row] for row in torch.randn(40, 8).split(1)])
    found = ground(small, learned.grid, given, Engine("onnxruntime"), Memory(), build_s=0.0)
    assert (found.engine, len(found.timings), found.notes) == (Engine("onnxruntime"), 4, ())
    other = ground(small, learned.grid, given, Engine("nobody"), Memory())
    assert other.engine == EAGER
    assert "timed by eager, for nobody fp32, 1 threads could not be" in other.notes[0]
    known = Memory(engine=EAGER, timings=other.timings)
    assert ground(small, learned.grid, given, EAGER, known).timings == other.timings


def test_an_engine_that_is_not_here_says_so(net: Supernet) -> None:
    inputs = [torch.ones(1, 5, dtype=torch.int64), torch.ones(1, 5, dtype=torch.int64)]
    with pytest.raises(ValueError, match="backend must be one of"):
        timed(net, [net.full], SHAPES, inputs, Engine("nobody"))


def test_shapes_are_of_the_grid_and_count_as_the_traffic_has_them() -> None:
    grid = ShapeGrid.covering(max_rows=4, min_length=1, max_length=40)
    shapes = shapes_of(grid, [5] * 90 + [39] * 10, batchable=True)
    assert set(shapes) == {Shape(1, 8), Shape(4, 8), Shape(1, 40), Shape(4, 40)}
    mix = mix_of(shapes, [5, 6, 39])
    assert mix[Shape(1, 8)] == pytest.approx(2 * mix[Shape(1, 40)], rel=1e-6)
    assert mix[Shape(4, 8)] == pytest.approx(mix[Shape(1, 8)] / 4)
    assert shapes_of(grid, [5], batchable=False) == (Shape(1, 8),)
