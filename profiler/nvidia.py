"""The fingerprint of NVIDIA GPUs, from the driver's management library (NVML) through pynvml."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from profiler.facts import Bus, DeviceFingerprint, Rate, device_key

# FP32 lanes per streaming multiprocessor by compute capability (CUDA C Programming Guide,
# "Arithmetic Instructions"); NVML counts lanes, not multiprocessors.
_LANES_PER_SM = {
    (5, 0): 128, (5, 2): 128, (6, 0): 64, (6, 1): 128, (7, 0): 64, (7, 5): 64,
    (8, 0): 64, (8, 6): 128, (8, 7): 128, (8, 9): 128, (9, 0): 128, (10, 0): 128, (12, 0): 128,
}  # fmt: skip


@dataclass
class NvidiaProfiler:
    """Describes NVIDIA GPUs. `nvml`: a module with pynvml's interface; None imports pynvml.

    Static facts come from the driver; bandwidth and matrix rates are measured with a CUDA build
    of torch where there is one, and left out, with a note, where there is none.
    """

    nvml: Any = None
    kind: str = "nvidia"

    def unavailable(self) -> str | None:
        try:
            nvml = self._module()
        except ImportError:
            return "pynvml is not installed; pip install nvidia-ml-py"
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            return f"the NVIDIA driver does not answer ({error})"
        try:
            return None if nvml.nvmlDeviceGetCount() else "the driver reports no GPU"
        finally:
            nvml.nvmlShutdown()

    def devices(self) -> tuple[DeviceFingerprint, ...]:
        nvml = self._module()
        nvml.nvmlInit()
        try:
            return tuple(self._device(nvml, i) for i in range(nvml.nvmlDeviceGetCount()))
        finally:
            nvml.nvmlShutdown()

    def measured(self, device: DeviceFingerprint) -> DeviceFingerprint:
        """Rates by torch on this GPU, or the device as it was with a note saying why not."""
        try:
            torch = importlib.import_module("torch")
        except ImportError:
            return replace(
                device, notes=(*device.notes, "torch is not installed: rates not measured")
            )
        if not torch.cuda.is_available():
            note = "this torch has no CUDA or sees no GPU: rates not measured"
            return replace(device, notes=(*device.notes, note))
        from profiler.cuda_rates import measure_cuda

        bandwidth, matrix = measure_cuda(device.index)
        return replace(
            device,
            memory_bandwidth_gb_per_s=bandwidth,
            core_bandwidth_gb_per_s=bandwidth,
            matrix_gflop_per_s={d: Rate(rate, rate, "torch.cuda") for d, rate in matrix.items()},
        )

    def used_mib(self, uuid: str) -> float:
        """Memory in use on the GPU of this id ("GPU-…"), whoever uses it, in MiB.

        Not by process: in a container the driver does not know a process by its own number.
        """
        nvml = self._module()
        nvml.nvmlInit()
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            return float(nvml.nvmlDeviceGetMemoryInfo(handle).used) / 2**20
        finally:
            nvml.nvmlShutdown()

    def _module(self) -> Any:
        if self.nvml is None:
            self.nvml = importlib.import_module("pynvml")
        return self.nvml

    def _device(self, nvml: ModuleType, index: int) -> DeviceFingerprint:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        notes: list[str] = []

        def ask(function: str, *arguments: object) -> Any:
            """None, with a note, for what this driver or GPU does not support."""
            try:
                return getattr(nvml, function)(*arguments)
            except (nvml.NVMLError, AttributeError) as error:
                notes.append(f"{function} gave nothing ({error})")
                return None

        name = _text(ask("nvmlDeviceGetName", handle)) or "NVIDIA GPU"
        capability = ask("nvmlDeviceGetCudaComputeCapability", handle)
        memory = ask("nvmlDeviceGetMemoryInfo", handle)
        sm_count = _sm_count(ask("nvmlDeviceGetNumGpuCores", handle), capability)
        bus = _bus(lambda function: ask(function, handle))
        bus_bits = ask("nvmlDeviceGetMemoryBusWidth", handle)
        clock_mhz = ask("nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_MEM)
        architecture = f"sm_{capability[0]}{capability[1]}" if capability else "unknown"
        memory_bytes = int(memory.total) if memory else None
        facts = {
            "name": name,
            "architecture": architecture,
            "sm_count": sm_count,
            "memory_gib": round(memory_bytes / 2**30) if memory_bytes else None,
            "bus": [bus.max_generation, bus.max_width] if bus else None,
        }
        return DeviceFingerprint(
            key=device_key(self.kind, name, facts),
            kind=self.kind,
            name=name,
            architecture=architecture,
            cores=1,  # one queue of work: a GPU is not split into cores here
            logical_cpus=0,
            memory_bytes=memory_bytes,
            index=index,
            # Data moves on both edges of the memory clock.
            peak_bandwidth_gb_per_s=(
                2 * clock_mhz * 1e6 * bus_bits / 8 / 1e9 if clock_mhz and bus_bits else None
            ),
            bus=bus,
            sm_count=sm_count,
            driver=_text(ask("nvmlSystemGetDriverVersion")),
            notes=tuple(notes),
        )


def _bus(ask: Callable[[str], Any]) -> Bus | None:
    """The PCIe link. An idle GPU lowers its generation, hence the maximum beside it."""
    found = [
        ask(f"nvmlDeviceGet{which}PcieLink{what}")
        for which in ("Curr", "Max")
        for what in ("Generation", "Width")
    ]
    return None if None in found else Bus(*(int(value) for value in found))


def _sm_count(lanes: int | None, capability: tuple[int, int] | None) -> int | None:
    per_sm = _LANES_PER_SM.get((capability[0], capability[1])) if capability else None
    return lanes // per_sm if lanes and per_sm else None


def _text(value: object) -> str | None:
    """Older pynvml versions answer in bytes."""
    if value is None:
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
