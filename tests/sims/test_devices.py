"""Device models: the roofline by hand, monotone in every kind of work, and honest evidence."""

from __future__ import annotations

import os
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest

from profiler.fingerprint import DeviceFingerprint, Rate
from sims.devices import (
    DEVICES,
    LLMS,
    BatchModel,
    DeviceModel,
    Fit,
    Specs,
    Transformer,
    Work,
    cost_ms,
    decode,
    generation_ms,
    median_fit,
    of_fingerprint,
    prefill,
    resident_rows,
)
from sims.devices.measured import Measurement, held_out, possible
from sims.devices.table import FITS, HELD_OUT_PERCENT, SPECS

# 100 TFLOP/s and 1000 GB/s of which half is reached: 50e9 operations and 0.5e9 bytes per ms.
PEAK = Specs("fp16", 100.0, 1000.0, 16.0, "made up", "made up", "made up")
HALF = Fit(0.5, 0.5, 0.25, 0.5, 10.0, 20.0, 30.0, 100.0)
DEVICE = DeviceModel("example", PEAK, HALF, "none", "made up")
SMALL = Transformer(1e9, layers=10, hidden=1000, heads=8, kv_heads=2, head_width=100)


def test_the_roofline_by_hand() -> None:
    assert DEVICE.latency_ms(Work(flops=1e12, moved_bytes=1e9)) == pytest.approx(20.0)
    assert DEVICE.latency_ms(Work(flops=1e11, moved_bytes=2e9)) == pytest.approx(4.0)
    assert DEVICE.latency_ms(Work(0, 0, layers=10, rows=5)) == pytest.approx(0.1 + 0.1)
    # 1e9 bytes, read twice by four heads that share half-heartedly, at 250 GB/s.
    cached = Work(0, 0, cache_bytes=1e9, query_groups=4)
    assert DEVICE.latency_ms(cached) == pytest.approx(8.0)


def test_devices_share_the_work_and_pay_for_the_exchange() -> None:
    work = Work(flops=1e12, moved_bytes=1e9, layers=10, exchanged_bytes=1e9)
    # A quarter of 20 ms; 10 x (10 + 30) us; 1.5 GB over each link at 100 GB/s.
    assert DEVICE.latency_ms(work, devices=4) == pytest.approx(5.0 + 0.4 + 15.0)
    assert DEVICE.latency_ms(work, devices=1) == pytest.approx(20.0 + 0.1)


@pytest.mark.parametrize(("blend", "expected"), [(inf, 4.0), (2.0, 5.0), (1.0, 7.0)])
def test_blends_join_compute_and_memory(blend: float, expected: float) -> None:
    device = replace(DEVICE, fit=replace(HALF, blend=blend))
    assert device.latency_ms(Work(flops=1.5e11, moved_bytes=2e9)) == pytest.approx(expected)
    assert device.latency_ms(Work(0, 0)) == 0.0


def test_arrays_are_priced_like_their_entries() -> None:
    flops, moved = np.array([1e12, 1e11]), np.array([1e9, 2e9])
    prices = DEVICE.latency_ms(Work(flops, moved))
    np.testing.assert_allclose(prices, [20.0, 4.0])


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_every_device_is_monotone_and_says_what_backs_it(name: str) -> None:
    device = DEVICES[name]
    table = cost_ms(
        device,
        BatchModel(gflop_per_token=0.2, weight_mib=200.0, layers=12),
        np.array([1, 2, 8, 64]),
        np.array([16, 128, 1024]),
    )
    assert table.shape == (4, 3)
    assert (table > 0).all()
    assert (np.diff(table, axis=0) >= 0).all()
    assert (np.diff(table, axis=1) >= 0).all()
    llama = LLMS["Meta-Llama-3-8B"]
    few, many = (generation_ms(device, llama, rows, 128, 128, devices=4) for rows in (1, 64))
    assert few < many < 64 * few
    measured = device.evidence.startswith("measured rows: ")
    assert measured == (name in HELD_OUT_PERCENT)
    assert measured or device.evidence.startswith("published specs with")
    assert all(
        (device.specs.tflop_source, device.specs.bandwidth_source, device.specs.memory_source)
    )


def test_the_work_of_a_step_by_hand() -> None:
    first = prefill(SMALL, rows=2, length=50)
    assert first.flops == 2 * 1e9 * 100 + 2 * 10 * 8 * 100 * 2 * 50**2
    assert first.moved_bytes == 2e9
    assert first.exchanged_bytes == 2 * 10 * 100 * 1000 * 2
    step = decode(SMALL, rows=2, context=50)
    assert step.flops == 4e9
    assert step.cache_bytes == 2 * 50 * (2 * 2 * 10 * 2 * 100)
    assert step.query_groups == 4


def test_a_mixture_reads_the_experts_that_tokens_pick() -> None:
    mixtral = LLMS["Mixtral-8x7B-v0.1"]
    assert mixtral.read_bytes(1) == pytest.approx(2 * 12.9e9)
    assert mixtral.read_bytes(1000) == pytest.approx(2 * 46.7e9)
    assert prefill(mixtral, 1, 1).flops < 2 * 13e9


def test_what_does_not_fit_waits_its_turn() -> None:
    tight = replace(DEVICE, specs=replace(PEAK, memory_gib=4.0))
    token = SMALL.cache_bytes_per_token
    fitting = resident_rows(4.0, SMALL, 1000)
    assert fitting == pytest.approx((0.9 * 4 * 2**30 - 2e9) / (token * 1000))
    rows = 4 * int(fitting)
    assert generation_ms(tight, SMALL, rows, 750, 500) > generation_ms(
        DEVICE, SMALL, rows, 750, 500
    )
    with pytest.raises(
        ValueError, match="weights must fit into 1 GiB usable on 1 devices, got 2 G"
    ):
        resident_rows(1.0, SMALL, 1000)


def test_the_host_is_modelled_by_what_was_measured_on_it() -> None:
    host = DeviceFingerprint(
        "cpu-x", "cpu", "x", "x86_64", 2, 4,
        memory_bandwidth_gb_per_s=20.0,
        matrix_gflop_per_s={"fp32": Rate(100.0, 200.0)},
    )  # fmt: skip
    device = of_fingerprint(host)
    assert device.latency_ms(Work(flops=0, moved_bytes=1e9)) == pytest.approx(50.0)
    assert "no measured rows of a model" in device.evidence
    with pytest.raises(ValueError, match=r"must hold a measured int8 rate .* got rates fp32"):
        of_fingerprint(host, "int8")


def test_impossible_values_are_refused() -> None:
    with pytest.raises(ValueError, match="flops must be finite and at least 0, got -1"):
        Work(flops=-1, moved_bytes=0)
    with pytest.raises(ValueError, match="query_groups must be finite and at least 1, got 0"):
        Work(0, 0, query_groups=0)
    with pytest.raises(ValueError, match=r"compute_share must be in \(0, 1\], got 1.5"):
        replace(HALF, compute_share=1.5)
    with pytest.raises(ValueError, match="layer_us must be finite and at least 0, got nan"):
        replace(HALF, layer_us=float("nan"))
    with pytest.raises(ValueError, match="bandwidth_gb_per_s must be finite and greater than 0"):
        replace(PEAK, bandwidth_gb_per_s=0.0)
    with pytest.raises(ValueError, match="devices must be at least 1, got 0"):
        DEVICE.latency_ms(Work(0, 0), devices=0)
    with pytest.raises(ValueError, match="evidence must not be empty"):
        replace(DEVICE, evidence="")
    with pytest.raises(ValueError, match="rows must be one row of sizes of at least 1, got"):
        cost_ms(DEVICE, BatchModel(1.0, 1.0), np.array([0]), np.array([1]))
    with pytest.raises(ValueError, match=r"kv_heads must be at most heads \(8\), got 9"):
        replace(SMALL, kv_heads=9)
    with pytest.raises(ValueError, match="active_parameters must be given for a mixture"):
        replace(SMALL, experts=8)
    with pytest.raises(ValueError, match="fits must hold at least one fit, got none"):
        median_fit([])


def test_configurations_are_held_out_whole() -> None:
    rows = [
        Measurement(model, devices, length, batch, 1e6)
        for model in ("llama-7b", "Qwen2-7B")
        for devices in (1, 2, 4)
        for length in (128, 256)
        for batch in (1, 16, 32, 64)
    ]
    held = held_out(rows)
    sides: dict[tuple[str, int, int], set[bool]] = {}
    for row, flag in zip(rows, held.tolist(), strict=True):
        sides.setdefault(row.configuration, set()).add(flag)
    assert all(len(side) == 1 for side in sides.values())
    assert held.mean() == pytest.approx(0.25)
    assert held_out(rows, seed=1).tolist() != held.tolist()


def test_runs_faster_than_the_peaks_allow_are_left_out() -> None:
    # 128 steps that each read 13.5 GB at 1555 GB/s take at least 1.1 s.
    slow, broken = (Measurement("llama-7b", 1, 128, 1, ms) for ms in (1700.0, 900.0))
    assert possible([slow, broken], SPECS["a100"]) == [slow]


@pytest.mark.skipif("EVOLVE_DATA" not in os.environ, reason="EVOLVE_DATA is not set")
@pytest.mark.parametrize("name", sorted(FITS))
def test_refitting_gives_the_shipped_constants_and_errors(name: str) -> None:
    from sims.devices.fit import report

    path = Path(os.environ["EVOLVE_DATA"]) / "hardware/llm_inference_bench_All_results.csv"
    again = report(path, name)
    for field in ("compute_share", "memory_share", "cache_share", "reread", "layer_us", "row_us"):
        assert getattr(again.fit, field) == pytest.approx(getattr(FITS[name], field), rel=0.01)
    rows, median, p90 = HELD_OUT_PERCENT[name]
    assert again.rows == rows
    assert again.held[0] * 100 <= median + 0.1
    assert again.held[1] * 100 <= p90 + 0.1
