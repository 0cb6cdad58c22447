"""NVIDIA devices through an injected stand-in for pynvml; the real driver is tested by `gpu`."""

from __future__ import annotations

import sys

import pytest

from profiler.fingerprint import Bus, fingerprint
from profiler.nvidia import NvidiaProfiler
from tests.profiler.hosts import FakeNvml


def test_static_facts() -> None:
    nvml = FakeNvml(count=2)
    first, second = NvidiaProfiler(nvml).devices()
    assert first.name == "NVIDIA H100 80GB HBM3"
    assert (first.architecture, first.sm_count, first.driver) == ("sm_90", 132, "550.54.15")
    assert first.bus == Bus(generation=1, width=16, max_generation=5, max_width=16)
    assert first.memory_bytes == 80 * 2**30
    assert first.peak_bandwidth_gb_per_s == pytest.approx(3352.3, abs=0.1)
    assert first.notes == ()
    assert (first.index, second.index) == (0, 1)
    assert first.key == second.key  # equal devices share one key
    assert nvml.open == 0  # every nvmlInit was matched


def test_memory_in_use() -> None:
    nvml = FakeNvml()
    assert NvidiaProfiler(nvml).used_mib("GPU-1234") == 1536
    assert nvml.open == 0
    with pytest.raises(nvml.NVMLError):
        NvidiaProfiler(FakeNvml(missing=("nvmlDeviceGetHandleByUUID",))).used_mib("GPU-none")


def test_what_a_driver_does_not_support_is_unknown_not_guessed() -> None:
    missing = ("nvmlDeviceGetNumGpuCores", "nvmlDeviceGetMemoryBusWidth",
               "nvmlDeviceGetCurrPcieLinkWidth")  # fmt: skip
    (device,) = NvidiaProfiler(FakeNvml(missing=missing)).devices()
    assert (device.sm_count, device.peak_bandwidth_gb_per_s, device.bus) == (None, None, None)
    assert [note.split()[0] for note in device.notes] == [
        "nvmlDeviceGetNumGpuCores", "nvmlDeviceGetCurrPcieLinkWidth", "nvmlDeviceGetMemoryBusWidth",
    ]  # fmt: skip


def test_an_older_pynvml_without_a_function_is_survived() -> None:
    class Old(FakeNvml):
        def __getattr__(self, name: str) -> object:
            if name == "nvmlDeviceGetNumGpuCores":
                raise AttributeError(name)
            return super().__getattr__(name)

    (device,) = NvidiaProfiler(Old()).devices()
    assert device.sm_count is None
    assert device.name == "NVIDIA H100 80GB HBM3"


def test_reasons_to_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert NvidiaProfiler(FakeNvml(count=0)).unavailable() == "the driver reports no GPU"
    reason = NvidiaProfiler(FakeNvml(driver=False)).unavailable()
    assert reason == "the NVIDIA driver does not answer (Driver Not Loaded)"
    assert NvidiaProfiler(FakeNvml()).unavailable() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert NvidiaProfiler().unavailable() == "pynvml is not installed; pip install nvidia-ml-py"


def test_without_cuda_the_rates_stay_unmeasured_and_a_note_says_why() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    profiler = NvidiaProfiler(FakeNvml())
    device = profiler.measured(profiler.devices()[0])
    assert not device.measured
    assert device.notes == ("this torch has no CUDA or sees no GPU: rates not measured",)


def test_without_torch_the_note_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    profiler = NvidiaProfiler(FakeNvml())
    device = profiler.measured(profiler.devices()[0])
    assert device.notes == ("torch is not installed: rates not measured",)


@pytest.mark.gpu
def test_a_real_gpu() -> None:
    if (reason := NvidiaProfiler().unavailable()) is not None:
        pytest.skip(reason)
    device = fingerprint("nvidia")
    assert device.driver
    assert device.sm_count
    if device.measured:
        assert (device.memory_bandwidth_gb_per_s or 0) > 0
        assert device.gflop_per_s("bf16") > device.gflop_per_s("fp32") > 0
