"""Static facts about a Linux host, read from /proc and /sys under a given root.

Every function returns None (or an empty tuple) where the host does not say; none raises. The
root is an argument so that tests can describe machines that are not here.
"""

from __future__ import annotations

import re
from pathlib import Path

# Flags that compilers and kernel libraries select on. Others (power, bugs, virtualisation) come
# and go with kernels and hypervisors and must not change a key.
_X86 = re.compile(
    r"(sse\w*|ssse3|avx\w*|fma|f16c|bmi[12]|popcnt|movbe|abm|adx|aes|vaes|gfni|vpclmulqdq"
    r"|pclmulqdq|sha_ni|amx_\w+)"
)
_ARM = re.compile(r"(asimd\w*|fphp|sve\w*|sme\w*|bf16|i8mm|fp|atomics|crc32|aes|sha[123]|sha512)")


def text(path: Path) -> str | None:
    """The stripped content, None where the file is absent or unreadable."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def cpu_ranges(spec: str) -> tuple[int, ...]:
    """The CPUs in a kernel list.

    >>> cpu_ranges("0-2,8")
    (0, 1, 2, 8)
    """
    cpus: list[int] = []
    for part in filter(None, spec.split(",")):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return tuple(cpus)


def cpuinfo(root: Path) -> dict[str, str]:
    """The first block of /proc/cpuinfo."""
    block = (text(root / "proc/cpuinfo") or "").split("\n\n")[0]
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def instruction_sets(info: dict[str, str]) -> tuple[str, ...]:
    """Those of x86 ("flags") or Arm ("Features"), sorted."""
    flags = info.get("flags")
    pattern = _X86 if flags is not None else _ARM
    names = (flags if flags is not None else info.get("Features", "")).split()
    return tuple(sorted({name for name in names if pattern.fullmatch(name)}))


def caches_bytes(root: Path, cpu: int) -> dict[str, int]:
    """Bytes by "l1d", "l2", "l3" as seen from one logical CPU."""
    found = {}
    for index in (root / f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index*"):
        level, kind, size = (text(index / name) for name in ("level", "type", "size"))
        if kind not in ("Data", "Unified") or not level or not size:
            continue
        found["l1d" if level == "1" else f"l{level}"] = _bytes(size)
    return found


def core_cpus(root: Path, allowed: frozenset[int]) -> tuple[tuple[int, ...], ...]:
    """`allowed` logical CPUs grouped by the physical core they share, in order."""
    cores = set()
    for cpu in allowed:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        spec = text(topology / "core_cpus_list") or text(topology / "thread_siblings_list")
        siblings = allowed.intersection(cpu_ranges(spec)) if spec else frozenset((cpu,))
        cores.add(tuple(sorted(siblings)))
    return tuple(sorted(cores))


def numa_nodes(root: Path) -> int:
    return len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) or 1


def cpu_quota(root: Path) -> float | None:
    """CPUs' worth of time that the control groups grant; None: no limit."""
    limits = []
    for folder in _cgroups(root, "cpu"):
        if spec := text(folder / "cpu.max"):  # version 2: "max 100000" or "150000 100000"
            quota, _, period = spec.partition(" ")
            limits.append(_ratio(quota, period))
        elif quota_us := text(folder / "cpu.cfs_quota_us"):  # version 1: -1 is no limit
            limits.append(_ratio(quota_us, text(folder / "cpu.cfs_period_us") or ""))
    granted = [limit for limit in limits if limit is not None]
    return min(granted, default=None)


def memory_bytes(root: Path) -> int | None:
    """Usable memory: the machine's, or what the control groups grant if that is less."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", text(root / "proc/meminfo") or "", re.MULTILINE)
    sizes = [int(found[1]) * 1024] if found else []
    for folder in _cgroups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = text(folder / name)
            if limit and limit.isdecimal():  # "max" is no limit; version 1 has a huge number
                sizes.append(int(limit))
    return min(sizes, default=None)


def _cgroups(root: Path, controller: str) -> list[Path]:
    """This process's group and all its parents, for either version of control groups."""
    folders = []
    for line in (text(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            base = root / "sys/fs/cgroup"
        elif controller in names.split(","):
            base = root / "sys/fs/cgroup" / controller
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        # Inside a container the path may be the host's: the base alone then holds the limit.
        folders += [base.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
    return folders


def _ratio(quota: str, period: str) -> float | None:
    if quota.isdecimal() and period.isdecimal() and int(period) > 0:
        return int(quota) / int(period)
    return None


def _bytes(size: str) -> int:
    """Bytes in a sysfs size such as "48K"."""
    factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(size[-1:].upper())
    digits = size[:-1] if factor else size
    return int(digits) * (factor or 1) if digits.isdecimal() else 0
