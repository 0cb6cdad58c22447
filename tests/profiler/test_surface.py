"""Interpolation, extrapolation, the monotone fit and the roofline."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.shapes import Shape, ShapeGrid
from profiler.surface import RooflinePrior, interpolated, monotone

GRID = ShapeGrid(8, (8, 16, 32, 64))
positive = st.floats(0.01, 1e4)


def affine(shape: Shape) -> float:
    return 2.0 + 0.05 * shape.tokens


def test_timed_points_are_kept_and_the_rest_is_bilinear() -> None:
    points = {Shape(1, 8): 1.0, Shape(1, 32): 3.0, Shape(4, 8): 4.0, Shape(4, 32): 12.0}
    surface = interpolated(points, GRID)
    assert surface[0, 0] == pytest.approx(1.0)
    assert surface[3, 2] == pytest.approx(12.0)
    # Length 16 is a third of the way from 8 to 32; rows 2 a third of the way from 1 to 4.
    assert surface[0, 1] == pytest.approx(1.0 + 2.0 / 3)
    assert surface[1, 0] == pytest.approx(2.0)
    assert surface[1, 1] == pytest.approx((4 + 2 * 2 + 2 * 3 / 1 + 12) / 9 + 0, abs=1.0)


def test_an_affine_cost_is_recovered_everywhere_from_a_few_points() -> None:
    points = {s: affine(s) for s in (Shape(1, 8), Shape(2, 8), Shape(1, 16), Shape(2, 16))}
    surface = interpolated(points, GRID)
    wanted = [[affine(Shape(r, n)) for n in GRID.lengths] for r in range(1, 9)]
    np.testing.assert_allclose(surface, wanted, rtol=1e-9)


def test_a_missing_knot_is_carried_from_its_neighbour() -> None:
    points = {s: affine(s) for s in GRID.probe_shapes() if s != Shape(8, 64)}
    assert interpolated(points, GRID)[7, 3] == pytest.approx(affine(Shape(8, 64)))


def test_one_point_is_off_by_at_most_its_own_overhead() -> None:
    surface = interpolated({Shape(2, 16): 10.0}, GRID)
    assert surface[1, 1] == pytest.approx(10.0)
    assert 5.0 < surface[0, 0] < 10.0
    assert surface[7, 3] == pytest.approx(5.0 + 5.0 * 16)


def test_a_cost_that_falls_with_work_is_taken_as_flat_beyond() -> None:
    surface = interpolated({Shape(2, 16): 4.0, Shape(4, 32): 1.0}, GRID)
    assert surface[7, 3] == pytest.approx(1.0)
    assert surface[0, 0] == pytest.approx(4.0)


def test_a_cost_that_grows_faster_than_work_is_taken_as_proportional_beyond() -> None:
    surface = interpolated({Shape(1, 8): 1.0, Shape(1, 16): 4.0}, GRID)
    assert surface[0, 3] == pytest.approx(16.0)


def test_no_points_is_an_error() -> None:
    with pytest.raises(ValueError, match="points_ms must hold at least one timed shape"):
        interpolated({}, GRID)


@given(st.dictionaries(st.builds(Shape, st.integers(1, 8), st.sampled_from(GRID.lengths)),
                       positive, min_size=1, max_size=12))  # fmt: skip
def test_any_timings_give_finite_positive_monotone_prices(points: dict[Shape, float]) -> None:
    surface = monotone(interpolated(points, GRID))
    assert np.isfinite(surface).all()
    assert (surface > 0).all()
    assert (np.diff(surface, axis=0) >= -1e-9 * surface[:-1]).all()
    assert (np.diff(surface, axis=1) >= -1e-9 * surface[:, :-1]).all()


@given(st.lists(positive, min_size=6, max_size=6))
def test_the_monotone_fit_has_the_least_worst_relative_error(values: list[float]) -> None:
    surface = np.array(values).reshape(2, 3)
    fitted = monotone(surface)
    # No monotone surface can do better than half the worst inversion, in the logarithm.
    logs = np.log(surface)
    worst = max(
        (
            logs[i, j] - logs[k, m]
            for i in range(2) for j in range(3) for k in range(i, 2) for m in range(j, 3)
        ),
        default=0.0,
    )  # fmt: skip
    assert np.abs(np.log(fitted) - logs).max() == pytest.approx(worst / 2, abs=1e-9)


def test_a_monotone_surface_is_left_alone() -> None:
    surface = np.array([[1.0, 2.0], [3.0, 7.0]])
    np.testing.assert_allclose(monotone(surface), surface)


def test_one_noisy_small_shape_does_not_lift_all_larger_ones() -> None:
    surface = np.array([[90.0, 10.0, 20.0, 40.0]])
    assert monotone(surface)[0].tolist() == pytest.approx([30.0, 30.0, 42.426, 60.0], abs=0.01)


def test_the_roofline_is_bound_by_moving_then_by_computing() -> None:
    prior = RooflinePrior(
        flops_per_token=1e9, weight_bytes=1e9, gflop_per_s=100.0, bandwidth_gb_per_s=10.0,
        overhead_ms=0.5,
    )  # fmt: skip
    surface = prior.surface(ShapeGrid(2, (5, 20)))
    assert surface[0, 0] == pytest.approx(0.5 + 100.0)  # 1 GB at 10 GB/s; computing is 50 ms
    assert surface[1, 1] == pytest.approx(0.5 + 400.0)  # 40 tokens at 100 a second


def test_a_roofline_without_measured_rates_is_refused() -> None:
    with pytest.raises(ValueError, match="bandwidth_gb_per_s must be a measured rate above 0"):
        RooflinePrior(1.0, 1.0, 10.0, 0.0)
    with pytest.raises(ValueError, match="flops_per_token must be finite and at least 0, got nan"):
        RooflinePrior(float("nan"), 1.0, 10.0, 1.0)
    with pytest.raises(ValueError, match="weight_bytes must be finite and at least 0, got -1"):
        RooflinePrior(1.0, -1, 10.0, 1.0)
