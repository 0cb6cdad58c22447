"""Measuring: best of several, within bounds, leaving torch as it was."""

from __future__ import annotations

import sys
import time

import pytest

from profiler import rates
from profiler.fingerprint import Rate


class Clock:
    """A clock that the measured work moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_best_run_counts_and_the_warm_up_does_not() -> None:
    clock = Clock()
    durations = [0.001, 5.0, 0.4, 0.9]

    def run() -> None:
        clock.now_s += durations.pop(0)

    assert rates.best_s(run, clock, share_s=1.0) == pytest.approx(0.4)
    assert durations == []


def test_runs_are_bounded_by_time_and_by_number() -> None:
    clock = Clock()
    runs = 0

    def run() -> None:
        nonlocal runs
        runs += 1
        clock.now_s += 0.03

    rates.best_s(run, clock, share_s=0.3)
    assert runs == 1 + 10
    runs = 0
    assert rates.best_s(lambda: None, clock, share_s=1.0) > 0.0


def test_copying_counts_bytes_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = []

    def fake(run: rates.Product, clock: rates.Clock) -> float:
        run()
        seconds.append(0.5)
        return 0.5

    monkeypatch.setattr(rates, "best_s", fake)
    rate = rates.copy_gb_per_s(2, l3_bytes=0)
    assert rate == pytest.approx(2 * (16 << 20) / 0.5 / 1e9)
    assert len(seconds) == 1


def test_sides_grow_only_while_several_runs_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    asked = []

    def make(side: int) -> rates.Product:
        asked.append(side)

        def run() -> None:
            clock.now_s += 2.0 * side**3 / 1e10  # a slow machine: 10 GFLOP/s

        return run

    assert rates._rate(make, 1, clock) == pytest.approx(10.0)
    assert asked == [256, 512]


def test_together_waits_for_all_and_passes_errors_on() -> None:
    done = []
    with rates._together([lambda: done.append(1), lambda: done.append(2)]) as run:
        run()
    assert sorted(done) == [1, 2]

    def broken() -> None:
        raise RuntimeError("illegal instruction")

    with pytest.raises(RuntimeError, match="illegal"), rates._together([broken, broken]) as run:
        run()


def test_a_kernel_that_is_missing_becomes_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(side: int) -> rates.Product:
        raise RuntimeError("no such operator\nlong trace")

    def present(side: int) -> rates.Product:
        return lambda: None

    monkeypatch.setattr(rates, "_KERNELS", {"a": {"x": missing, "y": present}, "b": {"z": missing}})
    notes: list[str] = []
    found = rates._torch_rates(2, time.perf_counter, notes)
    assert list(found) == ["a"]
    assert found["a"].kernel == "y"
    assert notes == [
        "a: x is not usable here (no such operator)",
        "b: z is not usable here (no such operator)",
    ]


def test_without_torch_numpy_measures_fp32_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(rates, "granted_share", lambda cores, clock: 1.0)
    found = rates.measure_cpu(1, l3_bytes=0)
    assert list(found.matrix) == ["fp32"]
    assert 0 < found.matrix["fp32"].one_core <= found.matrix["fp32"].all_cores
    (note,) = found.notes
    assert note.startswith("torch is not installed")


def test_a_busy_machine_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "granted_share", lambda cores, clock: 0.55)
    monkeypatch.setattr(rates, "copy_gb_per_s", lambda threads, l3, clock: 1.0)
    monkeypatch.setattr(rates, "_torch_rates", lambda *_: {"fp32": Rate(1.0, 2.0)})
    (note,) = rates.measure_cpu(2, 0).notes
    assert note.startswith("only 55% of 2 cores was free")


def test_this_machine_and_torch_is_left_as_it_was() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    found = rates.measure_cpu(2, l3_bytes=0)
    assert torch.get_num_threads() == before
    assert {"fp32", "bf16"} <= set(found.matrix)
    for rate in found.matrix.values():
        assert 0 < rate.one_core <= rate.all_cores
        assert rate.kernel
    assert 0 < found.copy_core_gb_per_s <= found.copy_all_gb_per_s
