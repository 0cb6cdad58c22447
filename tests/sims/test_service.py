"""What is simulated: values that make no sense are refused by name."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sims.service import Disturbances, Result, Service, Switching, Units, drifting, noise


def service(**changes: Any) -> Service:
    """One worker, one plan: 2 ms + 2 ms per row at 16, twice the latter at 32."""
    rows = np.arange(1, 5)[None, :, None]
    cost_ms = 2.0 + 2.0 * rows * np.array([1.0, 2.0])[None, None, :]
    return replace(Service(cost_ms, np.array([16.0, 32.0]), 20.0, 1), **changes)


COST = service().cost_ms


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"slo_ms": math.nan}, "slo_ms must be finite and greater than 0, got nan"),
        ({"slo_ms": 0.0}, r"slo_ms must be finite and greater than 0, got 0\.0"),
        (
            {"cost_ms": np.ones((2, 2))},
            r"cost_ms must be \[plans, rows, lengths\] or \[kinds, .*got shape \(2, 2\)",
        ),
        ({"cost_ms": np.ones((0, 4, 2))}, r"cost_ms must be .*got shape \(0, 4, 2\)"),
        ({"cost_ms": 0.0 * COST}, r"cost_ms must be greater than 0, got 0\.0; inf and NaN say"),
        ({"cost_ms": -COST, "true_ms": COST}, r"cost_ms must be greater than 0, got -4\.0"),
        (
            {"lengths": np.array([2.0, 1.0])},
            r"lengths must be 2 ascending lengths, got \[2\. 1\.\]",
        ),
        ({"lengths": np.array([16.0])}, r"lengths must be 2 ascending lengths, got \[16\.\]"),
        (
            {"true_ms": np.ones((1, 1, 1))},
            r"true_ms must have the shape of cost_ms \(1, 4, 2\), got \(1, 1, 1\)",
        ),
        (
            {"true_ms": np.full((1, 4, 2), np.inf)},
            "true_ms must be finite and greater than 0 everywhere, got inf; a simulated batch",
        ),
        ({"cost_ms": COST * np.nan}, "true_ms must be finite and greater than 0 everywhere"),
        ({"tier": np.zeros(2, np.int64)}, r"tier must have one entry per plan \(1\), .*\(2,\)"),
        ({"accuracy": np.ones(3)}, r"accuracy must have one entry per plan \(1\), .*\(3,\)"),
        ({"learning": 1.5}, r"learning must be in \[0, 1\], got 1\.5"),
        ({"learning": math.nan}, r"learning must be in \[0, 1\], got nan"),
        ({"overhead_ms": -1.0}, r"overhead_ms must be finite and at least 0, got -1\.0"),
        (
            {"pattern": np.zeros((4, 2, 3))},
            r"pattern must be \[4, 2, 4\] of finite numbers of at least 0, got shape \[4, 2, 3\]",
        ),
        ({"pattern": np.full((4, 2, 4), np.nan)}, r"pattern must be \[4, 2, 4\] of finite"),
        ({"units": Units.alike(2)}, r"units must have one entry per worker \(1\), got 2"),
        (
            {"units": replace(Units.alike(1), kind=np.array([1]))},
            r"units\.kind must be in 0\.\.0, got \[1\]",
        ),
        (
            {"units": replace(Units.alike(1), kind=np.array([-1]))},
            r"units\.kind must be in 0\.\.0, got \[-1\]",
        ),
    ],
)
def test_a_service_that_makes_no_sense_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        service(**changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"slower": np.ones(1)}, r"slower, link_ms and lost_ms must have one entry .*\(2\), got"),
        ({"lost_ms": np.ones((2, 3))}, r"must have one entry per worker \(2\), got .*\(2, 3\)"),
        ({"slower": np.array([1.0, 0.0])}, r"slower must be finite and greater than 0, got \[1"),
        ({"slower": np.array([1.0, np.inf])}, "slower must be finite and greater than 0"),
        ({"link_ms": np.array([0.0, -1.0])}, r"link_ms must be finite and at least 0, got \[ 0"),
        ({"lost_ms": np.array([[5.0, 1.0], [0, 1]])}, "lost_ms must be from when to when"),
        ({"lost_ms": np.array([[5.0, np.nan], [0, 1]])}, "lost_ms must be from when to when"),
        (
            {"lost_ms": np.array([[5.0, np.inf], [0, 1]])},
            "a worker that stays away is one less: see Simulation.employ",
        ),
        (
            {"placement": "luck"},
            r"placement must be one of \('speed', 'use', 'order'\), got 'luck'",
        ),
    ],
)
def test_workers_that_make_no_sense_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(Units.alike(2), **changes)
    with pytest.raises(ValueError, match=r"must have one entry per worker \(0\)"):
        Units.alike(0)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Disturbances(np.zeros(1)), "factor must hold finite multipliers greater than 0"),
        (lambda: Disturbances(np.empty(0)), "factor must hold finite multipliers greater than 0"),
        (lambda: Disturbances(drift=np.array([1, np.inf])), "drift must hold finite multipliers"),
        (
            lambda: Disturbances(drift_every_ms=0.0),
            r"drift_every_ms must be finite and greater than 0, got 0\.0",
        ),
        (lambda: Switching(-1.0), r"switch_ms must be finite and at least 0, got -1\.0"),
        (lambda: Switching(load_ms=math.inf), "load_ms must be finite and at least 0, got inf"),
        (lambda: Switching(resident=0), "resident must be at least 1, got 0"),
        (
            lambda: noise(np.random.default_rng(0), scatter=-1.0),
            r"scatter must be >= 0, .* got -1\.0, 0\.0, 2\.0",
        ),
        (
            lambda: noise(np.random.default_rng(0), spike_share=1.5),
            r"spike_share in \[0, 1\] and spike > 0, got 0\.0, 1\.5, 2\.0",
        ),
        (lambda: noise(np.random.default_rng(0), spike=0.0), r"got 0\.0, 0\.0, 0\.0"),
        (
            lambda: drifting(np.random.default_rng(0), (2.0, 1.0)),
            r"levels must be \(low, high\) with 0 < low <= high, got \(2\.0, 1\.0\)",
        ),
        (lambda: drifting(np.random.default_rng(0), (1.0, math.inf)), "levels must be"),
    ],
)
def test_disturbances_that_make_no_sense_are_refused(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


def test_a_table_per_kind_of_device_is_one_dimension_more() -> None:
    two = service(cost_ms=np.stack([COST, 2 * COST]))
    assert two.plans == service().plans == 1
    assert two.table("cost_ms").shape == two.table("true_ms").shape == (2, 1, 4, 2)
    assert service().table("true_ms").shape == (1, 1, 4, 2)
    np.testing.assert_array_equal(service(true_ms=3 * COST).table("true_ms")[0], 3 * COST)
    moved = service(cost_ms=np.asfortranarray(COST)).table("cost_ms")
    assert moved.flags.c_contiguous


def test_noise_is_seeded_and_shaped() -> None:
    factor = noise(np.random.default_rng(0), scatter=0.1, spike_share=0.1, spike=10.0)
    again = noise(np.random.default_rng(0), scatter=0.1, spike_share=0.1, spike=10.0)
    np.testing.assert_array_equal(factor, again)
    assert (factor > 5).mean() == pytest.approx(0.1, abs=0.03)
    levels = drifting(np.random.default_rng(0), (0.7, 2.0))
    assert (levels.min() >= 0.7, levels.max() <= 2.0) == (True, True)
    assert levels.max() - levels.min() > 0.5


def test_a_result_relates_its_figures_to_what_was_offered() -> None:
    result = Result(200, 150, 40, 100, 4.0, 0.45, 1.0, 2.0, 1.5, 0.0)
    assert (result.goodput_per_s, result.met_ratio, result.refused_ratio) == (25.0, 0.5, 0.2)
    empty = replace(result, offered=0, met=0)
    assert (empty.met_ratio, empty.refused_ratio) == (0.0, 0.0)
