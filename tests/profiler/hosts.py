"""Made-up machines to describe: a /proc and /sys tree, an NVML, a profiler that counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from profiler.fingerprint import DeviceFingerprint, Rate, device_key

XEON_FLAGS = (
    "fpu sse2 avx avx2 fma avx512f avx512_vnni amx_tile amx_int8 amx_bf16 hypervisor md_clear"
)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n", encoding="utf-8")
    return root


def xeon(root: Path, *, siblings: bool = True) -> Path:
    """Two cores, four hardware threads (0 and 2 share a core), one NUMA node of two."""
    files = {
        "proc/cpuinfo": (
            "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\n"
            f"model name\t: Intel(R) Xeon(R) 8488C\nflags\t\t: {XEON_FLAGS}\n\nprocessor\t: 1\n"
        ),
        "proc/meminfo": "MemTotal:       16777216 kB\nMemFree: 1 kB",
        "proc/self/cgroup": "0::/box/inner",
        "sys/devices/system/node/node0/cpulist": "0-1",
        "sys/devices/system/node/node1/cpulist": "2-3",
    }
    for cpu in range(4):
        base = f"sys/devices/system/cpu/cpu{cpu}"
        if siblings:
            files[f"{base}/topology/thread_siblings_list"] = f"{cpu % 2},{cpu % 2 + 2}"
        caches = (("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2M"),
                  ("3", "Unified", "107520K"))  # fmt: skip
        for index, (level, kind, size) in enumerate(caches):
            for name, value in (("level", level), ("type", kind), ("size", size)):
                files[f"{base}/cache/index{index}/{name}"] = value
    return write(root, files)


class NVMLError(Exception):
    pass


class FakeNvml:
    """The part of pynvml's interface that is used, answering like one data-centre GPU each."""

    NVMLError = NVMLError
    NVML_CLOCK_MEM = 2

    def __init__(self, count: int = 1, missing: tuple[str, ...] = (), driver: bool = True) -> None:
        self.count = count
        self.missing = missing
        self.driver = driver
        self.calls: list[str] = []
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)
        answers: dict[str, Any] = {
            "nvmlDeviceGetCount": self.count,
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlDeviceGetHandleByUUID": "handle",
            "nvmlDeviceGetName": b"NVIDIA H100 80GB HBM3",
            "nvmlDeviceGetCudaComputeCapability": (9, 0),
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 * 2**30, used=3 * 2**29),
            "nvmlDeviceGetNumGpuCores": 132 * 128,
            "nvmlDeviceGetCurrPcieLinkGeneration": 1,
            "nvmlDeviceGetCurrPcieLinkWidth": 16,
            "nvmlDeviceGetMaxPcieLinkGeneration": 5,
            "nvmlDeviceGetMaxPcieLinkWidth": 16,
            "nvmlDeviceGetMemoryBusWidth": 5120,
            "nvmlDeviceGetMaxClockInfo": 2619,
            "nvmlSystemGetDriverVersion": "550.54.15",
        }

        def answer(*_: object) -> Any:
            assert self.open > 0, "asked before nvmlInit or after nvmlShutdown"
            self.calls.append(name)
            if name in self.missing:
                raise NVMLError("Not Supported")
            return answers[name]

        return answer


@dataclass
class CountingProfiler:
    """A profiler of made-up devices that counts how often it is asked and measures."""

    kind: str = "cpu"
    count: int = 1
    fails: str = ""
    reason: str | None = None
    asked: int = 0
    measures: int = 0

    def unavailable(self) -> str | None:
        self.asked += 1
        return self.reason

    def devices(self) -> tuple[DeviceFingerprint, ...]:
        if self.fails == "devices":
            raise OSError("bus error")
        cores = ((0, 2), (1, 3)) if self.kind == "cpu" else ()
        base = DeviceFingerprint(
            key=device_key(self.kind, "Made Up", {}), kind=self.kind, name="Made Up",
            architecture="x86_64", cores=2, logical_cpus=4, core_cpus=cores,
        )  # fmt: skip
        return tuple(replace(base, index=i) for i in range(self.count))

    def measured(self, device: DeviceFingerprint) -> DeviceFingerprint:
        self.measures += 1
        if self.fails == "measured":
            raise RuntimeError("out of memory")
        return replace(
            device,
            memory_bandwidth_gb_per_s=40.0,
            core_bandwidth_gb_per_s=30.0,
            matrix_gflop_per_s={"fp32": Rate(100.0, 180.0, "made up")},
        )
