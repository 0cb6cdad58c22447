"""Errors by hand, and everything that must never pass."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from supernet.fidelity import METRICS, agreement, error, judge


def floats(*values: float) -> np.ndarray:  # type: ignore[type-arg]
    return np.array(values, np.float32)


def test_relative_l2_by_hand() -> None:
    assert error("relative_l2", [floats(3, 4.5)], [floats(3, 4)]) == pytest.approx(0.1)


def test_a_small_output_is_not_hidden_by_a_large_one() -> None:
    good, bad = floats(*[1000] * 100), floats(2)
    assert error("relative_l2", [good, bad], [good, floats(1)]) == pytest.approx(1.0)


def test_rounding_around_zero_is_no_error() -> None:
    got, want = [floats(1, 2), floats(1e-9)], [floats(1, 2), floats(0)]
    assert error("relative_l2", got, want) < 1e-2
    assert error("relative_l2", [floats(0)], [floats(0)]) == 0
    assert error("relative_l2", [floats(1)], [floats(0)]) == math.inf


def test_cosine_by_hand() -> None:
    assert error("cosine", [floats(1, 0)], [floats(1, 1)]) == pytest.approx(1 - 0.5**0.5)
    assert error("cosine", [floats(2, 2)], [floats(1, 1)]) == pytest.approx(0)
    assert error("cosine", [floats(0, 0)], [floats(0, 0)]) == 0
    assert error("cosine", [floats(0, 0)], [floats(0, 1)]) == 1


def test_top1_by_hand() -> None:
    got = np.array([[1, 2], [2, 1], [0, 3], [0, 3]], np.float32)
    want = np.array([[1, 2], [1, 2], [0, 3], [1, 3]], np.float32)
    assert error("top1", [got], [want]) == 0.25


@pytest.mark.parametrize("metric", METRICS)
def test_what_never_passes(metric: str) -> None:
    one = floats(1, 2)
    assert error(metric, [floats(1, math.nan)], [one]) == math.inf
    assert error(metric, [floats(1, math.inf)], [one]) == math.inf
    assert error(metric, [], [one]) == math.inf
    assert error(metric, [one, one], [one]) == math.inf
    assert error(metric, [one.astype(np.float64)], [one]) == math.inf
    assert error(metric, [floats(1, 2, 3)], [one]) == math.inf
    assert judge(metric, []).worst == math.inf


@pytest.mark.parametrize("metric", METRICS)
def test_the_same_is_no_error(metric: str) -> None:
    outputs = [floats(1, -2), np.array([1, 2]), np.array(True), floats(math.nan, 1), floats()]
    assert error(metric, outputs, outputs) == pytest.approx(0, abs=1e-12)
    assert error(metric, [], []) == 0


@pytest.mark.parametrize("metric", METRICS)
def test_integers_count_by_the_share_that_differs(metric: str) -> None:
    assert error(metric, [np.array([1, 2, 3, 4])], [np.array([1, 2, 3, 5])]) == 0.25
    assert error(metric, [np.array([True])], [np.array([False])]) == 1


def test_torch_tensors_are_taken_too() -> None:
    got, want = torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0], requires_grad=True)
    assert error("relative_l2", [got], [want]) == pytest.approx(0.1)
    assert error("relative_l2", [got.bfloat16()], [want.bfloat16()]) == pytest.approx(0.1)


def test_the_worst_example_is_judged() -> None:
    pairs = [([floats(1)], [floats(1)]), ([floats(1.5)], [floats(1)])]
    found = judge("relative_l2", pairs)
    assert (found.worst, found.mean, found.examples) == (0.5, 0.25, 2)


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(ValueError, match=r"metric must be one of \['cosine', 'relative_l2'"):
        error("l3", [], [])


@pytest.mark.parametrize("metric", ["relative_l2", "cosine"])
def test_answers_too_large_to_be_measured_are_no_match(metric: str) -> None:
    large = np.array([1e200, -2e200])
    assert error(metric, [-large], [large]) == float("inf")


def test_agreement_is_one_for_equal_answers_and_falls_with_the_angle() -> None:
    a = np.array([[1.0, 0.0], [0.0, 2.0]])
    turned = np.array([[1.0, 1.0], [0.0, 1.0]])
    assert agreement("cosine", [a], [a]) == 1
    assert agreement("cosine", [turned], [a]) == pytest.approx((2**-0.5 + 1) / 2)
    assert agreement("top1", [turned], [a]) == 1
    assert agreement("cosine", [-a], [a]) == 0


def test_the_output_that_agrees_least_counts() -> None:
    a, b = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert agreement("cosine", [a, b], [a, a]) == 0
    assert agreement("cosine", [a, np.array([1, 2])], [a, np.array([1, 3])]) == 0.5


@pytest.mark.parametrize("measure", ["cosine", "top1"])
def test_answers_that_cannot_be_compared_agree_in_nothing(measure: str) -> None:
    a = np.array([[1.0, 2.0]])
    assert agreement(measure, [np.array([[np.nan, 2.0]])], [a]) == 0
    assert agreement(measure, [a[:, :1]], [a]) == 0
    assert agreement(measure, [], [a]) == 0
