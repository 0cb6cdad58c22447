"""Linear and windowed attention against products written out in full."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.export import Dim

from supernet.elastic.attention.linear import (
    causal_linear_attention,
    feature_map,
    linear_attention,
    window_attention,
)


def given(length: int, groups: int = 4, rows: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
    """Queries, keys, values, and which keys are valid: every row but the first is padded."""
    rng = torch.Generator().manual_seed(seed)
    query = torch.randn(rows, 4, length, 8, generator=rng)
    key = torch.randn(rows, groups, length, 8, generator=rng)
    value = torch.randn(rows, groups, length, 6, generator=rng)
    valid = torch.ones(rows, 1, length, dtype=torch.bool)
    for row in range(1, rows):
        valid[row, :, max(1, length - 2 * row) :] = False
    return query, key, value, valid


def in_full(weights: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    """``weights`` of every query and key, those not allowed put to zero, normalised."""
    weights = weights.double() * allowed
    return (weights / weights.sum(-1, keepdim=True)) @ value.double()


def close(got: Tensor, want: Tensor) -> bool:
    return bool(torch.allclose(got.double(), want, rtol=1e-4, atol=1e-5))


LENGTHS = [1, 2, 5, 63, 64, 65, 128, 200]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_linear_attention_is_its_product_in_full(length: int, causal: bool, groups: int) -> None:
    query, key, value, valid = given(length, groups)
    maps = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    wide_key, wide_value = (x.repeat_interleave(4 // groups, dim=1) for x in (key, value))
    q, k = feature_map(query, maps[0]), feature_map(wide_key, maps[1])
    attend = causal_linear_attention if causal else linear_attention
    allowed = valid.unsqueeze(-2).expand(-1, -1, length, -1)
    allowed = allowed & torch.ones(length, length, dtype=torch.bool).tril() if causal else allowed
    got = attend(q, k, value, valid)
    assert got.shape == (2, 4, length, 6)
    assert close(got, in_full(q.double() @ k.double().mT, wide_value, allowed))
    every = torch.ones(length, length, dtype=torch.bool)
    want = in_full(q.double() @ k.double().mT, wide_value, every.tril() if causal else every)
    assert close(attend(q, k, value, None), want)


def test_features_are_positive_and_both_signs_count() -> None:
    x = torch.randn(2, 3, 5, 8)
    features = feature_map(x, torch.eye(8).expand(3, 8, 8))
    assert features.shape == (2, 3, 5, 16)
    assert torch.allclose(features[..., :8], x.softmax(-1))
    assert torch.allclose(features[..., 8:], (-x).softmax(-1))


@pytest.mark.parametrize("length", [1, 3, 8, 9, 16, 17, 40])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("window", "sinks"), [(8, 4), (8, 0), (4, 4)])
def test_a_window_is_masked_softmax_attention(
    length: int, causal: bool, window: int, sinks: int
) -> None:
    query, key, value, valid = given(length, groups=2)
    wide_key, wide_value = (x.repeat_interleave(2, dim=1) for x in (key, value))
    far = torch.arange(length) - torch.arange(length).unsqueeze(-1)
    band = (far.abs() <= window) | (torch.arange(length) < sinks)
    band = band & (far <= 0) if causal else band
    scores = (query.double() @ wide_key.double().mT * 0.3).exp()
    got = window_attention(
        query, key, value, valid, window=window, sinks=sinks, scale=0.3, causal=causal
    )
    want = in_full(scores, wide_value, band & valid.unsqueeze(-2)).nan_to_num()
    assert close(got, want)


def test_a_window_over_everything_is_softmax_attention() -> None:
    query, key, value, _ = given(20)
    got = window_attention(query, key, value, None, window=32, sinks=2, scale=8**-0.5, causal=True)
    want = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert close(got, want.double())


@pytest.mark.parametrize("attend", [linear_attention, causal_linear_attention])
def test_rows_without_a_valid_key_are_zero_and_finite(attend: Callable[..., Tensor]) -> None:
    query, key, value, valid = given(10)
    q, k = query.softmax(-1), key.softmax(-1)
    got = attend(q, k, value, torch.zeros_like(valid))
    assert torch.equal(got, torch.zeros_like(got))
    windowed = window_attention(
        query, key, value, torch.zeros_like(valid), window=4, sinks=2, scale=1.0, causal=False
    )
    assert torch.equal(windowed, torch.zeros_like(windowed))


@pytest.mark.parametrize("attend", [linear_attention, causal_linear_attention])
def test_half_precision_adds_up_in_full(attend: Callable[..., Tensor]) -> None:
    query, key, value, valid = given(3000, rows=1)
    q, k = query.softmax(-1), key.softmax(-1)
    want = attend(q, k, value, valid)
    got = attend(q.bfloat16(), k.bfloat16(), value.bfloat16(), valid)
    assert float((got.float() - want).norm() / want.norm()) < 0.05


@pytest.mark.parametrize("kind", ["linear", "causal", "window"])
def test_one_trace_holds_for_all_lengths(kind: str) -> None:
    class Attend(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor) -> Tensor:
            if kind == "window":
                return window_attention(q, k, v, valid, window=16, sinks=4, scale=0.3, causal=True)
            attend = linear_attention if kind == "linear" else causal_linear_attention
            return attend(q.softmax(-1), k.softmax(-1), v, valid)

    free = {0: Dim.AUTO, 2: Dim.AUTO}
    program = torch.export.export(
        Attend(), given(70, rows=3), dynamic_shapes=(free, free, free, free)
    )
    module = program.module(check_guards=False)
    for length in (1, 2, 64, 65, 300):
        inputs = given(length, rows=2)
        assert torch.allclose(module(*inputs), Attend()(*inputs), atol=1e-6)


@pytest.mark.parametrize("attend", [linear_attention, causal_linear_attention])
def test_gradients_reach_the_feature_maps(attend: Callable[..., Tensor]) -> None:
    query, key, value, valid = given(70)
    weight = torch.eye(8).repeat(4, 1, 1).requires_grad_()
    attend(
        feature_map(query, weight), feature_map(key, weight), value, valid
    ).square().sum().backward()
    assert weight.grad is not None
    assert bool(weight.grad.isfinite().all())
    assert float(weight.grad.abs().sum()) > 0
