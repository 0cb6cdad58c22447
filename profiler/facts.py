"""Facts about this machine: those that decide how fast a plan runs, and the rates it reaches."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

_SCHEMA = 1

# What picks a kernel, strongest first within a family; the rest goes into the hash.
_TELLING = (
    *("avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
_WITHOUT_AVX512 = ("avx2", "avx_vnni")


@dataclass(frozen=True, slots=True)
class Rate:
    """Measured matrix-product rates, in 10⁹ operations per second (multiply and add apart).

    `one_core`, `all_cores`: for a GPU both are the whole device. `kernel`: what reached it.
    """

    one_core: float
    all_cores: float
    kernel: str = ""


@dataclass(frozen=True, slots=True)
class Bus:
    """The link to the host: PCIe `generation` and `width` in lanes, as negotiated and at most."""

    generation: int
    width: int
    max_generation: int
    max_width: int


@dataclass(frozen=True)
class DeviceFingerprint:
    """One kind of device as this process may use it.

    `key` depends on the static facts only, never on measurements or host names: two equal
    machines share it. What could not be found out is None (or 0 for the counts `sm_count`
    and `index`), never guessed.

    - `kind`: "cpu", "nvidia", or what a registered profiler calls its own. `index`: which one.
    - `cores`: physical cores usable here, after affinity and container quota. `logical_cpus`:
      hardware threads usable here. `core_cpus`: the logical CPUs of each usable core.
    - `instruction_sets`: those that compilers and kernels select on, sorted.
    - `l1d_bytes`, `l2_bytes`: of one core. `l3_bytes`: of one shared instance.
    - `memory_bytes`: usable, after container limits.
    - `memory_bandwidth_gb_per_s`: measured copy, read and written bytes both counted, all cores;
      `core_bandwidth_gb_per_s`: the same from one core.
    - `peak_bandwidth_gb_per_s`: from the data sheet (clock × bus width), GPUs only.
    - `matrix_gflop_per_s`: measured, by dtype ("fp32", "bf16", "int8").
    - `notes`: what a reader must know about these figures, e.g. that the machine was busy.
    """

    key: str
    kind: str
    name: str
    architecture: str
    cores: int
    logical_cpus: int
    core_cpus: tuple[tuple[int, ...], ...] = ()
    instruction_sets: tuple[str, ...] = ()
    l1d_bytes: int | None = None
    l2_bytes: int | None = None
    l3_bytes: int | None = None
    memory_bytes: int | None = None
    numa_nodes: int = 1
    index: int = 0
    memory_bandwidth_gb_per_s: float | None = None
    core_bandwidth_gb_per_s: float | None = None
    peak_bandwidth_gb_per_s: float | None = None
    matrix_gflop_per_s: Mapping[str, Rate] = field(default_factory=dict, hash=False)
    bus: Bus | None = None
    sm_count: int | None = None
    driver: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def measured(self) -> bool:
        """Whether the rates were measured, not only the facts looked up."""
        return bool(self.matrix_gflop_per_s) and self.memory_bandwidth_gb_per_s is not None

    def gflop_per_s(self, dtype: str = "fp32", *, cores: int = 1) -> float:
        """The measured matrix rate of `cores` cores; between one and all, linear."""
        rate = self.matrix_gflop_per_s.get(dtype)
        if rate is None:
            known = ", ".join(self.matrix_gflop_per_s) or "nothing: call fingerprint(measure=True)"
            raise ValueError(f"dtype must be one that was measured ({known}), got {dtype!r}")
        if not 1 <= cores <= max(1, self.cores):
            raise ValueError(f"cores must be between 1 and {max(1, self.cores)}, got {cores}")
        share = (cores - 1) / (self.cores - 1) if self.cores > 1 else 0.0
        return rate.one_core + share * (rate.all_cores - rate.one_core)

    def with_rates_of(self, other: DeviceFingerprint) -> DeviceFingerprint:
        """These static facts with the rates, and the notes on them, of an earlier measurement."""
        return replace(
            self,
            memory_bandwidth_gb_per_s=other.memory_bandwidth_gb_per_s,
            core_bandwidth_gb_per_s=other.core_bandwidth_gb_per_s,
            matrix_gflop_per_s=other.matrix_gflop_per_s,
            notes=other.notes,
        )

    def to_json(self) -> dict[str, Any]:
        plain = {f: getattr(self, f) for f in self.__dataclass_fields__}
        rates = {dtype: asdict(rate) for dtype, rate in self.matrix_gflop_per_s.items()}
        bus = None if self.bus is None else asdict(self.bus)
        return {"version": _SCHEMA, **plain, "matrix_gflop_per_s": rates, "bus": bus}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DeviceFingerprint:
        """The fingerprint that `to_json` wrote, also after a round trip through JSON text."""
        if data.get("version") != _SCHEMA:
            raise ValueError(
                f"version of a fingerprint must be {_SCHEMA}, got {data.get('version')!r}; "
                "measure again"
            )
        plain = {k: v for k, v in data.items() if k != "version"}
        try:
            rates = {d: Rate(**rate) for d, rate in plain.pop("matrix_gflop_per_s").items()}
            bus = plain.pop("bus")
            plain["core_cpus"] = tuple(tuple(cpus) for cpus in plain["core_cpus"])
            for name in ("instruction_sets", "notes"):
                plain[name] = tuple(plain[name])
            return cls(**plain, matrix_gflop_per_s=rates, bus=None if bus is None else Bus(**bus))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"fingerprint must be what to_json wrote, got a broken one ({error!r}); "
                "measure again"
            ) from error


def device_key(kind: str, name: str, facts: Mapping[str, object]) -> str:
    """A short readable key: `kind`, the device's name, and a hash of its static `facts`.

    >>> device_key("cpu", "AMD EPYC", {"cores": 2})
    'cpu-amd-epyc-8bd18d50'
    """
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:32].strip("-") or "unknown"
    text = json.dumps(facts, sort_keys=True, default=list)
    return f"{kind}-{slug}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def isa_key(fingerprint: DeviceFingerprint) -> str:
    """What compiled code may rely on, as a key for plans and caches.

    The instruction sets that pick kernels are named; a hash of all of them follows, because
    natively compiled code may use any: a Cooper Lake and a Zen 4 agree on every name here, and
    yet a binary of one can die of an illegal instruction on the other.
    """
    present = set(fingerprint.instruction_sets)
    named = [isa for isa in _TELLING if isa in present]
    if "avx512f" not in present:
        named = [*(isa for isa in _WITHOUT_AVX512 if isa in present), *named]
    digest = hashlib.sha256(",".join(sorted(present)).encode()).hexdigest()[:6]
    return "-".join([fingerprint.architecture, *named, digest])
