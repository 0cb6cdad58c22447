"""The memory pattern over the grid: amounts between, ratios after, and whose fusion serves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from profiler.patterns import MemoryDemand, Pattern, PatternTable, knots, moved_table, with_fusion
from profiler.shapes import Shape, ShapeGrid

GRID = ShapeGrid(3, (8, 16, 32))


def demand(shape: Shape) -> MemoryDemand:
    """Weights of 10 MiB and 1 MiB a token, half of it written; everything from memory."""
    tokens = float(shape.tokens)
    return MemoryDemand(2.0 * tokens, 10.0 + 0.5 * tokens, 0.5 * tokens, 10.0)


def test_few_shapes_are_worked_out_the_corners_among_them() -> None:
    grid = ShapeGrid.covering(max_rows=16, min_length=4, max_length=256)
    shapes = knots(grid)
    assert len(shapes) == 9
    assert {Shape(1, 4), Shape(16, 4), Shape(1, 256), Shape(16, 256)} <= set(shapes)
    assert all(shape.length in grid.lengths for shape in shapes)
    assert knots(ShapeGrid(1, (1,))) == (Shape(1, 1),)


def test_what_is_linear_is_exact_between_the_knots() -> None:
    points = {Shape(r, n): demand(Shape(r, n)) for r in (1, 3) for n in (8, 32)}
    table = moved_table(points, GRID)
    assert table.shape == (3, 3, 3)
    balance, memory_share, moved_mib = table[1, 1]  # 2 × 16
    assert moved_mib == pytest.approx(10.0 + 32.0)
    assert balance == pytest.approx(64.0 / 42.0)
    assert memory_share == pytest.approx(10.0 / 26.0)


def test_a_larger_batch_of_products_is_less_bound_by_memory() -> None:
    points = {shape: demand(shape) for shape in knots(GRID)}
    balance, memory_share, moved = np.moveaxis(moved_table(points, GRID), -1, 0)
    for axis in (0, 1):
        assert (np.diff(balance, axis=axis) > 0).all()
        assert (np.diff(memory_share, axis=axis) < 0).all()
        assert (np.diff(moved, axis=axis) > 0).all()


def test_what_moves_nothing_divides_by_nothing() -> None:
    points = {Shape(1, 1): MemoryDemand(0.0, 0.0, 0.0, 0.0)}
    assert moved_table(points, ShapeGrid(2, (1,))).tolist() == [[[0.0] * 3]] * 2


def test_fused_where_the_fastest_exact_plan_is() -> None:
    cost_ms = np.array(
        [
            [[2.0, 2.0, np.inf]],  # exact
            [[1.0, 3.0, np.nan]],  # exact and fused
            [[0.1, 0.1, 0.1]],  # fused too, but less exact
        ]
    )
    table = with_fusion(np.ones((1, 3, 3)), cost_ms, np.array([0, 0, 2]), fused=(False, True, True))
    assert table[0, :, 3].tolist() == [1.0, 0.0, 0.0]
    assert (table[..., :3] == 1.0).all()


@pytest.mark.parametrize(
    ("rows", "length", "at"),
    [(1, 8, (0, 0)), (1.4, 7.5, (0, 0)), (1.5, 8.1, (1, 1)), (3, 32, (2, 2)), (9, 99, (2, 2))],
)
def test_the_mean_batch_is_looked_up_at_the_nearest_shape(
    rows: float, length: float, at: tuple[int, int]
) -> None:
    values = np.arange(36.0).reshape(3, 3, 4)
    assert PatternTable(values, GRID.lengths).at(rows, length) == Pattern(*values[at].tolist())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: MemoryDemand(1.0, -1.0, 0.0, 0.0),
            r"read_mib must be finite and at least 0, got -1\.0",
        ),
        (
            lambda: MemoryDemand(np.inf, 1.0, 0.0, 0.0),
            "work_mib must be finite and at least 0, got inf",
        ),
        (lambda: moved_table({}, GRID), r"points must be every pair of some rows and lengths"),
        (
            lambda: moved_table({s: demand(s) for s in (Shape(1, 8), Shape(3, 32))}, GRID),
            "points must be every pair",
        ),
        (
            lambda: PatternTable(np.zeros((2, 2, 4)), (8,)),
            r"values must be \[rows, 1, 4\], got shape \(2, 2, 4\)",
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()
