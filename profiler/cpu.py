"""The fingerprint of the CPU this process runs on, as far as it is allowed to use it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from profiler import sysfs
from profiler.facts import DeviceFingerprint, device_key


@dataclass(frozen=True)
class CpuProfiler:
    """Describes the host CPU: facts from /proc and /sys under `root`, rates by measuring.

    `allowed`: logical CPUs this process may use; None asks the scheduler.
    """

    root: Path = Path("/")
    allowed: frozenset[int] | None = None
    kind: str = "cpu"

    def unavailable(self) -> str | None:
        return None

    def devices(self) -> tuple[DeviceFingerprint, ...]:
        info = sysfs.cpuinfo(self.root)
        allowed = self.allowed if self.allowed is not None else _affinity()
        quota = sysfs.cpu_quota(self.root)
        cores = sysfs.core_cpus(self.root, allowed)
        # A quota of 1.5 CPUs keeps one core busy without being throttled; two would be.
        cores = cores[: max(1, int(quota))] if quota is not None else cores
        logical = sum(len(cpus) for cpus in cores)
        caches = sysfs.caches_bytes(self.root, min(allowed))
        name = info.get("model name") or platform.processor() or platform.machine()
        instruction_sets = sysfs.instruction_sets(info)
        facts = {
            "architecture": platform.machine(),
            "model": [info.get(k) for k in ("vendor_id", "cpu family", "model", "CPU part")],
            "cores": len(cores),
            "logical_cpus": logical,
            "instruction_sets": instruction_sets,
            "caches_bytes": caches,
        }
        found = DeviceFingerprint(
            key=device_key(self.kind, name, facts),
            kind=self.kind,
            name=name,
            architecture=platform.machine(),
            cores=len(cores),
            logical_cpus=logical if quota is None else min(logical, ceil(quota)),
            core_cpus=cores,
            instruction_sets=instruction_sets,
            l1d_bytes=caches.get("l1d"),
            l2_bytes=caches.get("l2"),
            l3_bytes=caches.get("l3"),
            memory_bytes=sysfs.memory_bytes(self.root),
            numa_nodes=sysfs.numa_nodes(self.root),
        )
        return (found,)

    def measured(self, device: DeviceFingerprint) -> DeviceFingerprint:
        """Bandwidth and matrix rates, best of several, about 2 s."""
        from profiler.rates import measure_cpu

        rates = measure_cpu(cores=device.cores, l3_bytes=device.l3_bytes or 32 << 20)
        return replace(
            device,
            memory_bandwidth_gb_per_s=rates.copy_all_gb_per_s,
            core_bandwidth_gb_per_s=rates.copy_core_gb_per_s,
            matrix_gflop_per_s=rates.matrix,
            notes=rates.notes,
        )


def _affinity() -> frozenset[int]:
    try:
        return frozenset(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return frozenset(range(os.cpu_count() or 1))
