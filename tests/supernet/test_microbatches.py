"""Batches in parts give the answers of the whole; parts are taken where they were faster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from profiler.shapes import Shape, ShapeGrid
from supernet.backends.loaded import Microbatched
from supernet.building.timing import measure
from supernet.microbatches import Microbatches
from supernet.signature import Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("length", "rows", 2)), TensorSpec("t", "float32", (1,))),
    (TensorSpec("output_0", "float32", ("rows", "length")), TensorSpec("k", "float32", (1,))),
    batchable=True,
    paddable=True,
)


class Summing:
    """Answers what its signature says, and notes how many rows it was given each time."""

    def __init__(self, arrays: Literal["numpy", "torch"]) -> None:
        self.arrays, self.rows, self.is_open = arrays, list[int](), True

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        x, t = inputs
        assert x.flags.c_contiguous if self.arrays == "numpy" else x.is_contiguous()
        self.rows.append(x.shape[1])
        total = x.sum(2) * t
        return [total.T.copy() if self.arrays == "numpy" else total.T.contiguous(), t]

    def close(self) -> None:
        self.is_open = False


@pytest.mark.parametrize("arrays", ["numpy", "torch"])
@given(rows=st.integers(1, 20), length=st.integers(1, 9), most=st.integers(0, 9))
def test_parts_are_the_whole(
    arrays: Literal["numpy", "torch"], rows: int, length: int, most: int
) -> None:
    made = np.random.default_rng(rows).random((length, rows, 2), np.float32)
    inputs: list[Any] = [made, np.full(1, 3.0, np.float32)]
    if arrays == "torch":
        inputs = [torch.from_numpy(leaf) for leaf in inputs]
    whole, parts = Summing(arrays), Summing(arrays)
    wanted = whole.run(inputs)
    got = Microbatched(parts, Microbatches({Shape(20, 4): most}, SIGNATURE)).run(inputs)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    assert sum(parts.rows) == rows
    assert len(parts.rows) == (-(-rows // most) if most else 1)
    assert max(parts.rows) - min(parts.rows) <= 1


def test_batches_between_take_the_next_longer_and_larger_ones() -> None:
    how = Microbatches(
        {
            Shape(1, 16): 0, Shape(8, 16): 0, Shape(1, 64): 0, Shape(2, 64): 1, Shape(8, 64): 0,
            Shape(16, 64): 8, Shape(4, 256): 1,
        },
        SIGNATURE,
    )  # fmt: skip
    lengths = {1: 0, 16: 0, 17: 1, 64: 1, 65: 1, 256: 1, 1000: 1}
    assert {length: how.rows_at_once(2, length) for length in lengths} == lengths
    sizes = {1: 0, 2: 1, 3: 0, 8: 0, 9: 8, 16: 8, 100: 8}
    assert {rows: how.rows_at_once(rows, 64) for rows in sizes} == sizes
    assert str(how) == "1 rows of 64, 8 rows of 64, 1 rows of 256 at a time"
    assert Microbatches.from_json(how.to_json()) == how


def test_what_the_plan_refuses_it_still_refuses() -> None:
    plan = Summing("numpy")
    way = Microbatched(plan, Microbatches({Shape(1, 4): 1}, SIGNATURE))
    with pytest.raises(ValueError, match="unpack"):
        way.run([np.ones((1, 1, 2), np.float32)])
    way.close()
    assert not plan.is_open


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Crowded:
    """A millisecond per row and length, and so many more as the rows over `room`, squared."""

    arrays: Literal["numpy"] = "numpy"

    def __init__(self, clock: Clock, room: int) -> None:
        self.clock, self.room = clock, room

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        length, rows, _ = inputs[0].shape
        over = max(0, rows - self.room)
        self.clock.now_s += (rows + over * over) * length / 1e3
        return [np.zeros((rows, length), np.float32), inputs[1]]

    def close(self) -> None:
        pass


INPUTS = [np.ones((4, 1, 2), np.float32), np.ones(1, np.float32)]
GRID = ShapeGrid.covering(8, 4, 16)


def timed(plan: Crowded, clock: Clock) -> tuple[dict[Shape, float], Microbatches | None]:
    found = measure(plan, INPUTS, SIGNATURE, GRID, threads=2, budget_s=1e9, clock=clock)
    return dict(found.costs_ms), found.microbatches


def test_parts_are_taken_where_they_are_faster_and_timed_so() -> None:
    clock = Clock()
    costs, how = timed(Crowded(clock, room=2), clock)
    assert how is not None
    for length in {shape.length for shape in costs if shape.rows > 2}:
        assert how.rows_at_once(8, length) in (1, 2)
    assert all(ms == pytest.approx(shape.tokens) for shape, ms in costs.items())


def test_what_is_faster_whole_at_sixteen_rows_is_run_whole_there() -> None:
    clock, ran = Clock(), list[int]()
    took_ms = {1: 10.0, 2: 24.0, 4: 30.0, 8: 42.0, 16: 55.0}

    class Recurrent(Crowded):
        """Slower by the row with two, faster from four on."""

        def run(self, inputs: Sequence[Any]) -> list[Any]:
            _, rows, _ = inputs[0].shape
            ran.append(rows)
            self.clock.now_s += took_ms[rows] / 1e3
            return [np.zeros((rows, 4), np.float32), inputs[1]]

    plan = Recurrent(clock, room=16)
    grid = ShapeGrid.covering(16, 4, 4)
    found = measure(plan, INPUTS, SIGNATURE, grid, threads=2, budget_s=1e9, clock=clock)
    costs = {shape.rows: ms for shape, ms in found.costs_ms.items()}
    assert costs == pytest.approx({**took_ms, 2: 20.0})
    assert found.microbatches is not None
    served = Microbatched(plan, found.microbatches)
    for rows, parts in {2: [1, 1], 16: [16]}.items():
        ran.clear()
        served.run([np.ones((4, rows, 2), np.float32), INPUTS[1]])
        assert ran == parts


def test_parts_of_parts_are_as_small_as_those() -> None:
    clock, ran = Clock(), list[int]()

    class Small(Crowded):
        def run(self, inputs: Sequence[Any]) -> list[Any]:
            ran.append(inputs[0].shape[1])
            return super().run(inputs)

    plan = Small(clock, room=1)
    costs, how = timed(plan, clock)
    assert how is not None
    ran.clear()
    Microbatched(plan, how).run([np.ones((4, 8, 2), np.float32), INPUTS[1]])
    assert ran == 8 * [1]
    assert costs[Shape(8, 4)] == pytest.approx(32.0)


def test_a_plan_that_bears_every_batch_runs_it_whole() -> None:
    clock = Clock()
    assert timed(Crowded(clock, room=8), clock)[1] is None


def test_parts_that_only_look_faster_are_not_taken() -> None:
    clock, went = Clock(), list[int]()

    class Spoilt(Crowded):
        """Ten times slower once it has had a larger batch of that length, as parts would be."""

        def __init__(self) -> None:
            super().__init__(clock, room=2)
            self.most: dict[int, int] = {}

        def run(self, inputs: Sequence[Any]) -> list[Any]:
            length, rows, _ = inputs[0].shape
            if rows < self.most.get(length, 0):
                self.clock.now_s += 9 * rows * length / 1e3
                went.append(rows)
            self.most[length] = max(rows, self.most.get(length, 0))
            return super().run(inputs)

    assert timed(Spoilt(), clock)[1] is None
    assert went, "parts were tried"
