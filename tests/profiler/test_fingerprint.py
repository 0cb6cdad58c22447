"""Fingerprints: keys, rates, JSON, and the CPU as its /proc and /sys describe it."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from profiler import sysfs
from profiler.cpu import CpuProfiler
from profiler.fingerprint import Bus, DeviceFingerprint, fingerprint, isa_key
from profiler.surface import RooflinePrior
from tests.profiler.hosts import CountingProfiler, write, xeon


def described(root: Path, *cpus: int) -> DeviceFingerprint:
    (device,) = CpuProfiler(root, frozenset(cpus)).devices()
    return device


def test_a_xeon(tmp_path: Path) -> None:
    device = described(xeon(tmp_path), 0, 1, 2, 3)
    assert device.name == "Intel(R) Xeon(R) 8488C"
    assert (device.cores, device.logical_cpus, device.core_cpus) == (2, 4, ((0, 2), (1, 3)))
    assert (device.l1d_bytes, device.l2_bytes, device.l3_bytes) == (48 << 10, 2 << 20, 105 << 20)
    assert (device.memory_bytes, device.numa_nodes) == (16 << 30, 2)
    assert "hypervisor" not in device.instruction_sets
    assert isa_key(device).startswith(
        f"{device.architecture}-avx512f-avx512_vnni-amx_int8-amx_bf16-"
    )
    assert not device.measured


def test_affinity_limits_the_cores(tmp_path: Path) -> None:
    device = described(xeon(tmp_path), 1, 2)
    assert (device.cores, device.logical_cpus, device.core_cpus) == (2, 2, ((1,), (2,)))
    assert described(tmp_path, 0, 2).cores == 1  # both threads of one core


def test_without_topology_every_cpu_is_a_core(tmp_path: Path) -> None:
    assert described(xeon(tmp_path, siblings=False), 0, 1, 2).core_cpus == ((0,), (1,), (2,))


@pytest.mark.parametrize(
    ("files", "cores", "logical"),
    [
        ({"sys/fs/cgroup/box/inner/cpu.max": "max 100000"}, 2, 4),
        ({"sys/fs/cgroup/box/inner/cpu.max": "150000 100000"}, 1, 2),
        ({"sys/fs/cgroup/box/cpu.max": "50000 100000"}, 1, 1),  # a parent's limit binds, too
        ({"sys/fs/cgroup/cpu.max": "800000 100000"}, 2, 4),
        ({"sys/fs/cgroup/cpu.max": "800000 100000",
          "sys/fs/cgroup/box/cpu.max": "100000 100000"}, 1, 1),
        ({"proc/self/cgroup": "4:cpu,cpuacct:/box\n3:memory:/",
          "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "120000",
          "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000"}, 1, 2),
        ({"proc/self/cgroup": "4:cpu,cpuacct:/",
          "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
          "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 2, 4),
    ],
)  # fmt: skip
def test_container_quotas_limit_the_cores(
    tmp_path: Path, files: dict[str, str], cores: int, logical: int
) -> None:
    device = described(write(xeon(tmp_path), files), 0, 1, 2, 3)
    assert (device.cores, device.logical_cpus) == (cores, logical)
    assert len(device.core_cpus) == cores


def test_container_memory_limits_count(tmp_path: Path) -> None:
    write(xeon(tmp_path), {"sys/fs/cgroup/box/memory.max": str(2 << 30)})
    assert described(tmp_path, 0).memory_bytes == 2 << 30


def test_a_host_that_says_nothing_is_still_described(tmp_path: Path) -> None:
    device = described(tmp_path, 0, 1)
    assert (device.cores, device.l3_bytes, device.memory_bytes) == (2, None, None)
    assert device.instruction_sets == ()
    assert device.key.startswith("cpu-")


def test_arm_features_are_read(tmp_path: Path) -> None:
    write(tmp_path, {"proc/cpuinfo": "processor: 0\nFeatures: fp asimd asimddp i8mm evtstrm"})
    assert described(tmp_path, 0).instruction_sets == ("asimd", "asimddp", "fp", "i8mm")


def test_the_key_is_stable_and_tells_machines_apart(tmp_path: Path) -> None:
    first = described(xeon(tmp_path / "a"), 0, 1, 2, 3)
    again = described(xeon(tmp_path / "b"), 0, 1, 2, 3)
    assert first.key == again.key
    assert first.key.startswith("cpu-intel-r-xeon-r-8488c-")
    # Memory grows and flags of the hypervisor come and go without making another device of it.
    write(tmp_path / "b", {"proc/meminfo": "MemTotal: 99 kB"})
    assert described(tmp_path / "b", 0, 1, 2, 3).key == first.key
    assert described(tmp_path / "b", 0, 2).key != first.key
    info = (tmp_path / "b/proc/cpuinfo").read_text().replace(" avx512_vnni", "")
    write(tmp_path / "b", {"proc/cpuinfo": info})
    other = described(tmp_path / "b", 0, 1, 2, 3)
    assert other.key != first.key
    assert isa_key(other) != isa_key(first)


def test_isa_keys_differ_wherever_native_code_could(tmp_path: Path) -> None:
    base = described(xeon(tmp_path), 0)
    more = replace(base, instruction_sets=(*base.instruction_sets, "avx512vbmi"))
    named, _, digest = isa_key(base).rpartition("-")
    assert isa_key(more).startswith(named)
    assert not isa_key(more).endswith(digest)
    avx2 = replace(base, instruction_sets=("avx2", "fma"))
    assert "-avx2-" in isa_key(avx2)


@pytest.mark.parametrize(
    ("spec", "cpus"), [("", ()), ("3", (3,)), ("0-2,7", (0, 1, 2, 7)), ("1,0", (1, 0))]
)
def test_kernel_lists(spec: str, cpus: tuple[int, ...]) -> None:
    assert sysfs.cpu_ranges(spec) == cpus


def measured() -> DeviceFingerprint:
    profiler = CountingProfiler()
    return profiler.measured(profiler.devices()[0])


def test_rates_between_one_and_all_cores_are_linear() -> None:
    device = replace(measured(), cores=5)
    assert device.gflop_per_s("fp32") == 100.0
    assert device.gflop_per_s("fp32", cores=5) == 180.0
    assert device.gflop_per_s("fp32", cores=3) == 140.0
    assert replace(device, cores=1).gflop_per_s("fp32", cores=1) == 100.0


def test_measured_means_all_of_it() -> None:
    device = measured()
    assert device.measured
    assert not replace(device, matrix_gflop_per_s={}).measured
    assert not replace(device, memory_bandwidth_gb_per_s=None).measured


def test_a_rate_that_was_not_measured_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"one that was measured \(fp32\), got 'int8'"):
        measured().gflop_per_s("int8")
    with pytest.raises(ValueError, match=r"call fingerprint\(measure=True\)"):
        CountingProfiler().devices()[0].gflop_per_s("fp32")
    with pytest.raises(ValueError, match="cores must be between 1 and 2, got 3"):
        measured().gflop_per_s("fp32", cores=3)


def test_it_survives_json_and_pickle() -> None:
    device = replace(measured(), bus=Bus(4, 8, 5, 16), notes=("busy",), instruction_sets=("avx2",))
    assert DeviceFingerprint.from_json(json.loads(json.dumps(device.to_json()))) == device
    assert pickle.loads(pickle.dumps(device)) == device
    assert hash(device) == hash(replace(device))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"version": 0}, "must be 1, got 0"), ({"cores": None, "extra": 1}, "broken one")],
)
def test_broken_json_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeviceFingerprint.from_json({**measured().to_json(), **change})


def test_the_roofline_takes_measured_rates_of_the_device() -> None:
    prior = RooflinePrior.of(measured(), flops_per_token=1e6, weight_bytes=1e6, cores=2)
    assert (prior.gflop_per_s, prior.bandwidth_gb_per_s) == (180.0, 40.0)


def test_this_machine() -> None:
    device = fingerprint(measure=False)
    assert device.kind == "cpu"
    assert 1 <= device.cores <= device.logical_cpus
    assert sum(map(len, device.core_cpus)) >= device.logical_cpus
    assert fingerprint("cpu:0", measure=False).key == device.key


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("tpu", r"kind in \['cpu', .*'nvidia'.*\], got 'tpu'"),
        ("cpu:x", "must be a kind or kind:index, got 'cpu:x'"),
        ("cpu:1", "one of the 1 of kind cpu, got 'cpu:1'"),
    ],
)
def test_devices_that_are_not_are_named(device: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fingerprint(device, measure=False)
