"""Costs are medians over the probe shapes, as far as the budget reaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch

from profiler.shapes import Shape, ShapeGrid
from supernet.building.timing import measure, resize_batch
from supernet.signature import Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("rows", "length", 3)), TensorSpec("t", "float32", (1,))),
    (TensorSpec("output_0", "float32", ("rows", "length")),),
    batchable=True,
    paddable=True,
)
GRID = ShapeGrid.covering(4, 4, 16)
INPUTS = [np.arange(15, dtype=np.float32).reshape(1, 5, 3), np.ones(1, np.float32)]


class Clock:
    """Moves only when a plan runs."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Slow:
    """Takes 10 ms per token by the clock; every third run is a hundred times slower."""

    arrays: Literal["numpy"] = "numpy"

    def __init__(self, clock: Clock) -> None:
        self.clock, self.runs = clock, 0

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        rows, length, _ = inputs[0].shape
        self.runs += 1
        self.clock.now_s += rows * length / 100 * (100 if self.runs % 3 == 0 else 1)
        return []

    def close(self) -> None:
        pass


def test_medians_by_shape() -> None:
    clock = Clock()
    costs = measure(
        Slow(clock), INPUTS, SIGNATURE, GRID, threads=2, budget_s=1e9, clock=clock
    ).costs_ms
    assert set(costs) == set(GRID.probe_shapes())
    for shape, cost_ms in costs.items():
        assert cost_ms == pytest.approx(10 * shape.tokens), "the median ignores the outliers"


def test_the_budget_ends_the_measuring_at_the_dear_end() -> None:
    clock = Clock()
    costs = measure(
        Slow(clock), INPUTS, SIGNATURE, GRID, threads=2, budget_s=30, clock=clock
    ).costs_ms
    assert 1 <= len(costs) < len(GRID.probe_shapes())
    assert list(costs) == list(GRID.probe_shapes())[: len(costs)]


def test_nothing_is_timed_after_the_first_shape_over_the_limit() -> None:
    clock = Clock()
    costs = measure(
        Slow(clock), INPUTS, SIGNATURE, GRID, threads=2, budget_s=1e9, up_to_ms=150, clock=clock
    ).costs_ms
    shapes = list(GRID.probe_shapes())
    first_over = next(i for i, shape in enumerate(shapes) if 10 * shape.tokens > 150)
    assert list(costs) == shapes[: first_over + 1]
    assert 0 < first_over < len(shapes) - 1


def test_without_batching_one_row_is_all_there_is() -> None:
    alone = Signature(SIGNATURE.inputs, SIGNATURE.outputs, batchable=False, paddable=True)
    clock = Clock()
    costs = measure(Slow(clock), INPUTS, alone, GRID, threads=2, budget_s=1e9, clock=clock).costs_ms
    assert {shape.rows for shape in costs} == {1}


def test_one_thread_is_timed_by_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, processor = Clock(), Clock()
    monkeypatch.setattr("supernet.building.timing.time.perf_counter", wall)
    monkeypatch.setattr("supernet.building.timing.time.process_time", processor)
    costs = measure(Slow(processor), INPUTS, SIGNATURE, GRID, threads=1, budget_s=1e9).costs_ms
    assert all(ms == pytest.approx(10 * shape.tokens) for shape, ms in costs.items())
    costs = measure(Slow(wall), INPUTS, SIGNATURE, GRID, threads=1, budget_s=1e9).costs_ms
    assert set(costs.values()) == {0.0}
    costs = measure(Slow(wall), INPUTS, SIGNATURE, GRID, threads=2, budget_s=1e9).costs_ms
    assert all(ms == pytest.approx(10 * shape.tokens) for shape, ms in costs.items())


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
def test_batches_are_repeated_and_cut(make: Any) -> None:
    x, t = resize_batch([make(a) for a in INPUTS], SIGNATURE, Shape(2, 7))
    assert (tuple(x.shape), tuple(t.shape)) == ((2, 7, 3), (1,))
    x = np.asarray(x)
    assert x.flags.c_contiguous
    assert np.array_equal(x[1, :5], INPUTS[0][0])
    assert np.array_equal(x[0, 5:], INPUTS[0][0, :2])
