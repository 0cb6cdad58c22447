"""The grid: buckets, padding, and what is worth timing."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.shapes import Shape, ShapeGrid


def test_cells_step_finely_where_requests_are_short() -> None:
    grid = ShapeGrid.covering(max_rows=16, min_length=3, max_length=600)
    assert grid.lengths[:9] == (4, 8, 12, 16, 20, 24, 28, 32, 40)
    assert grid.lengths[-6:] == (256, 320, 384, 448, 512, 600)


def test_cells_beyond_512_grow_by_a_quarter() -> None:
    lengths = ShapeGrid.covering(1, 500, 3000).lengths
    assert lengths == (512, 640, 800, 1000, 1256, 1576, 1976, 2472, 3000)


def test_a_model_without_a_length_axis_has_one_cell() -> None:
    grid = ShapeGrid.covering(max_rows=8)
    assert grid.lengths == (1,)
    assert grid.probe_shapes() == tuple(Shape(r, 1) for r in (1, 2, 4, 8))


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_every_length_is_padded_up_and_never_far(a: int, b: int) -> None:
    low, high = sorted((a, b))
    grid = ShapeGrid.covering(4, low, high)
    assert grid.lengths[-1] == high
    for length in {low, (low + high) // 2, high}:
        padded = grid.pad(length)
        assert length <= padded <= max(length + 3, length * 1.27)
        assert grid.lengths[grid.bucket(length)] == padded


def test_a_length_on_a_bucket_is_not_padded() -> None:
    grid = ShapeGrid(2, (4, 8))
    assert (grid.pad(4), grid.pad(5), grid.pad(1)) == (4, 8, 4)


@pytest.mark.parametrize("length", [9, 0, -1])
def test_a_length_outside_is_refused_with_the_remedy(length: int) -> None:
    with pytest.raises(ValueError, match=rf"between 1 and 8, got {length}; capture with a longer"):
        ShapeGrid(2, (4, 8)).bucket(length)


def test_probes_are_few_cheapest_first_and_reach_every_corner() -> None:
    grid = ShapeGrid.covering(max_rows=12, min_length=4, max_length=512)
    probes = grid.probe_shapes()
    assert [s.tokens for s in probes] == sorted(s.tokens for s in probes)
    assert {s.rows for s in probes} == {1, 2, 4, 8, 12}
    assert {Shape(1, 4), Shape(1, 512), Shape(12, 4), Shape(12, 512)} <= set(probes)
    assert {s.length for s in probes} <= set(grid.lengths)
    assert 5 <= len({s.length for s in probes}) <= 7
    assert len(set(probes)) == len(probes)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Shape(0, 4), "rows must be at least 1, got 0"),
        (lambda: Shape(1, 0), "length must be at least 1, got 0"),
        (lambda: ShapeGrid(0, (1,)), "max_rows must be at least 1, got 0"),
        (lambda: ShapeGrid(1, ()), r"use \(1,\) for a model without a length axis"),
        (lambda: ShapeGrid(1, (4, 4)), r"strictly ascending, got \(4, 4\)"),
        (lambda: ShapeGrid.covering(1, 9, 8), "got min_length 9 and max_length 8"),
    ],
)
def test_nonsense_is_named(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]


def test_json_round_trip() -> None:
    grid = ShapeGrid.covering(16, 4, 100)
    assert ShapeGrid.from_json(grid.to_json()) == grid
    with pytest.raises(ValueError, match="grid must hold max_rows and lengths"):
        ShapeGrid.from_json({"max_rows": 3})
    assert all(a < b for a, b in pairwise(grid.lengths))
