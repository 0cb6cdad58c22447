"""FLOPs counted by running, fitted over shapes, and added up while serving."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.flops import DynamicFlops, FlopModel, flops_per_row
from profiler.shapes import Shape


def test_a_linear_layer_by_hand() -> None:
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(32, 64)
    x = torch.zeros(5, 32)
    assert flops_per_row(layer, (x,)) == 2 * 32 * 64
    assert flops_per_row(layer, {"input": x}) == 2 * 32 * 64
    assert flops_per_row(layer, (x,), rows=1) == 5 * 2 * 32 * 64


def test_attention_is_counted_on_cpu() -> None:
    torch = pytest.importorskip("torch")
    q = torch.randn(2, 4, 16, 8)  # rows, heads, length, width
    count = flops_per_row(torch.nn.functional.scaled_dot_product_attention, (q, q, q))
    assert count == 2 * (2 * 4 * 16 * 16 * 8)


def test_a_fused_encoder_layer_is_counted_and_the_model_is_left_alone() -> None:
    torch = pytest.importorskip("torch")
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    count = flops_per_row(layer, (torch.randn(3, 10, 16),))
    projections = 2 * 10 * (4 * 16 * 16 + 2 * 16 * 32)
    attention = 2 * 2 * 10 * 10 * 16
    assert count == projections + attention
    assert torch.backends.mha.get_fastpath_enabled() == fast_path
    assert not layer.training
    assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())


def test_inputs_without_rows_are_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match="a tensor with rows, got none; pass rows="):
        flops_per_row(lambda x: x, (3,))
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        flops_per_row(lambda x: x, (torch.zeros(0, 3),))


coefficient = st.floats(0.0, 1e8)


@given(coefficient, coefficient, st.floats(0.0, 1e5))
def test_three_lengths_determine_a_transformer(fixed: float, linear: float, square: float) -> None:
    truth = FlopModel(fixed, linear, square)
    shapes = (Shape(1, 8), Shape(2, 64), Shape(4, 512))
    fitted = FlopModel.through({s: truth.flops(s) for s in shapes})
    for shape in (Shape(3, 32), Shape(1, 300), Shape(8, 512)):
        assert fitted.flops(shape) == pytest.approx(truth.flops(shape), rel=1e-6, abs=1.0)


def test_one_length_scales_with_rows_and_length() -> None:
    model = FlopModel.through({Shape(4, 10): 400.0})
    assert model.flops(Shape(1, 10)) == 100.0
    assert model.flops(Shape(2, 20)) == 400.0
    assert FlopModel.through({Shape(1, 1): 0.0}).flops(Shape(3, 1)) == 0.0


@pytest.mark.parametrize(
    ("points", "message"),
    [({}, "at least one shape, got none"), ({Shape(1): float("nan")}, "finite and at least 0")],
)
def test_nonsense_points_are_named(points: dict[Shape, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlopModel.through(points)


def test_readings_by_hand() -> None:
    flops = DynamicFlops({Shape(1, 10): 1e9, Shape(1, 20): 2e9}, peak_gflop_per_s=200.0)
    empty = flops.reading()
    assert (empty.batches, empty.per_request, empty.share_of_peak) == (0, 0.0, 0.0)
    # 4 GFLOP without padding, and 4 of which three quarters are padding.
    flops.record_batch(Shape(4, 10), elapsed_ms=40.0, real_tokens=40)
    flops.record_batch(Shape(2, 20), elapsed_ms=60.0, real_tokens=10)
    reading = flops.reading()
    assert (reading.requests, reading.batches) == (6, 2)
    assert reading.per_request == pytest.approx(8e9 / 6)
    assert reading.useful_per_request == pytest.approx(5e9 / 6)
    assert reading.gflop_per_s == pytest.approx(80.0)
    assert reading.share_of_peak == pytest.approx(0.4)
    flops.reset()
    assert flops.reading() == empty


def test_a_peak_that_was_not_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a measured rate above 0, got 0"):
        DynamicFlops({Shape(1): 1.0}, 0)
