"""What batches beside cost: expected from rates, then learned."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from profiler.contention import Contention, expected_slowdown
from profiler.facts import DeviceFingerprint, Rate

DEVICE = DeviceFingerprint(
    key="cpu", kind="cpu", name="cpu", architecture="x86_64", cores=4, logical_cpus=4,
    matrix_gflop_per_s={"fp32": Rate(100.0, 200.0)},
)  # fmt: skip


def test_cores_that_share_their_units_are_expected_to_slow_each_other() -> None:
    assert expected_slowdown(DEVICE, lanes=4, threads=1) == pytest.approx(
        (1.0, 200 / (100 + 100 / 3), 300 / (100 + 200 / 3), 2.0)
    )
    assert expected_slowdown(DEVICE, lanes=2, threads=2) == pytest.approx(
        (1.0, 2 * (100 + 100 / 3) / 200)
    )


@pytest.mark.parametrize(
    "device", [replace(DEVICE, matrix_gflop_per_s={}), replace(DEVICE, kind="nvidia")]
)
def test_nothing_is_expected_where_nothing_was_measured(device: DeviceFingerprint) -> None:
    assert expected_slowdown(device, lanes=3, threads=1) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("true", "expected"), [(1.7, 1.0), (1.0, 2.0), (1.3, 1.3)])
def test_what_runs_corrects_what_was_expected(true: float, expected: float) -> None:
    contention = Contention(2, (1.0, expected))
    for _ in range(200):
        contention.record_batch(1, true / contention.slowdown(1))
    assert contention.slowdown(1) == pytest.approx(true, rel=0.02)
    assert contention.slowdown(0) == 1.0


def test_company_never_speeds_up_nor_slows_by_more_than_the_lanes() -> None:
    contention = Contention(2)
    for took in (0.1, 50.0):
        for _ in range(300):
            contention.record_batch(1, took)
    assert contention.slowdown(1) == 2.0
    for _ in range(300):
        contention.record_batch(1, 0.1)
    assert contention.slowdown(1) == 1.0


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, 0.0, -1.0])
def test_times_that_mean_nothing_teach_nothing(nonsense: float) -> None:
    contention = Contention(2, (1.0, 1.5))
    contention.record_batch(1, nonsense)
    contention.record_batch(0, 3.0)
    contention.record_batch(2, 3.0)
    assert contention.slowdowns == (1.0, 1.5)


@pytest.mark.parametrize(("lanes", "expected"), [(0, ()), (2, (1.0,))])
def test_bad_arguments_are_named(lanes: int, expected: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"lanes must be at least 1|one entry per lane"):
        Contention(lanes, expected)
