"""Virtual compute units: what a runtime asks for instead of devices."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from profiler.devices import DeviceProfiler, profilers
from profiler.fingerprint import DeviceFingerprint
from profiler.places import storage_folder

_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class VirtualUnit:
    """One place where one plan runs at a time: a physical core, or a whole GPU.

    `index`: position among all units of this host. `device_key`: its fingerprint's key.
    `cores`: the logical CPUs to pin to, empty for a GPU. `device_index`: which GPU.
    `matrix_gflop_per_s`: what the unit reaches when all units of its device are busy, by dtype,
    and `bandwidth_gb_per_s` likewise (None: not measured).
    """

    index: int
    device_key: str
    kind: str
    cores: tuple[int, ...] = ()
    device_index: int = 0
    bandwidth_gb_per_s: float | None = None
    matrix_gflop_per_s: Mapping[str, float] = field(default_factory=dict, hash=False)


class FingerprintDatabase:
    """The devices of this host, measured once and kept in one JSON file.

    The first `units()` or `fingerprints()` asks each profiler once and measures only devices
    that the file does not know; after that both return what is in memory, without touching
    driver or disk. A file that is corrupt or from another version is rebuilt, one that cannot
    be written is done without; `faults` says so.

    `path`: None keeps everything in memory. `profilers`: by kind, None takes all known ones.
    `measure`: False never measures (static facts only, milliseconds).
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        profilers: Mapping[str, DeviceProfiler] | None = None,
        measure: bool = True,
    ) -> None:
        self.path = path
        self._profilers = profilers
        self._measure = measure
        self._lock = threading.Lock()
        self._fingerprints: tuple[DeviceFingerprint, ...] = ()
        self._units: tuple[VirtualUnit, ...] | None = None
        self.faults: tuple[str, ...] = ()
        """What went wrong with the file or with a profiler, one line each."""
        self.absent: Mapping[str, str] = MappingProxyType({})
        """Kinds of devices that are not here, and why, once asked."""

    def units(self) -> tuple[VirtualUnit, ...]:
        """All virtual units of this host, CPU cores first."""
        units = self._units  # one read: a tuple once published is never changed
        return units if units is not None else self._load(refresh=False)

    def fingerprints(self) -> tuple[DeviceFingerprint, ...]:
        """All devices of this host, the CPU first."""
        self.units()
        return self._fingerprints

    def refresh(self) -> tuple[VirtualUnit, ...]:
        """Look and measure again, for instance because the first time the machine was busy."""
        return self._load(refresh=True)

    def _load(self, *, refresh: bool) -> tuple[VirtualUnit, ...]:
        with self._lock:
            if self._units is not None and not refresh:  # another thread was first
                return self._units
            self.faults = ()
            stored = {} if refresh else self._read()
            found = self._detect(stored)
            self._fingerprints = found
            fresh = [device for device in found if device != stored.get(_slot(device))]
            if fresh and self.path is not None:
                self._write(fresh)
            self._units = _units_of(found)
            return self._units

    def _detect(self, stored: Mapping[str, DeviceFingerprint]) -> tuple[DeviceFingerprint, ...]:
        found: list[DeviceFingerprint] = []
        absent: dict[str, str] = {}
        known = profilers() if self._profilers is None else self._profilers
        for kind, profiler in known.items():
            try:
                reason = profiler.unavailable()
                if reason is not None:
                    absent[kind] = reason
                    continue
                for device in profiler.devices():
                    found.append(self._with_rates(profiler, device, stored))
            except Exception as error:  # a driver that fails must not hide the other devices
                self._fault(f"profiler {kind} failed: {error!r}")
        self.absent = MappingProxyType(absent)
        return tuple(sorted(found, key=lambda d: (d.kind != "cpu", d.kind, d.index)))

    def _with_rates(
        self,
        profiler: DeviceProfiler,
        device: DeviceFingerprint,
        stored: Mapping[str, DeviceFingerprint],
    ) -> DeviceFingerprint:
        known = stored.get(_slot(device))
        if known is not None and (known.measured or not self._measure):
            # Rates from the file, facts from now: the same key may sit on other CPU numbers.
            return device.with_rates_of(known)
        if not self._measure:
            return device
        try:
            return profiler.measured(device)
        except Exception as error:  # a device that cannot be measured can still be used
            self._fault(f"measuring {device.key} failed: {error!r}")
            return device

    def _read(self) -> dict[str, DeviceFingerprint]:
        """What the file knows, by slot; empty, with a fault, where it cannot be believed."""
        if self.path is None:
            return {}
        try:
            if not self.path.exists():
                return {}
            data: Any = json.loads(self.path.read_text(encoding="utf-8"))
            if data["version"] != _SCHEMA:
                raise ValueError(f"version must be {_SCHEMA}, got {data['version']!r}")
            return {
                slot: DeviceFingerprint.from_json(device)
                for slot, device in data["devices"].items()
            }
        except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError,
                ValueError) as error:  # fmt: skip
            self._fault(f"{self.path.name} could not be read and is rebuilt: {error!r}")
            return {}

    def _write(self, devices: list[DeviceFingerprint]) -> None:
        """Add `devices` to the file, which may hold those of other hosts that share it."""
        assert self.path is not None
        merged = {**self._read(), **{_slot(device): device for device in devices}}
        plain = {slot: device.to_json() for slot, device in merged.items()}
        try:
            replace_file(self.path, json.dumps({"version": _SCHEMA, "devices": plain}, indent=1))
        except OSError as error:  # a full disk or a read-only home stops nothing
            self._fault(f"{self.path.name} could not be written, kept in memory: {error}")

    def _fault(self, line: str) -> None:
        if line not in self.faults:
            self.faults = (*self.faults, line)


@cache
def host_database() -> FingerprintDatabase:
    """The database of this host, where `storage_folder` says, else in memory; one per process."""
    folder = storage_folder().folder
    return FingerprintDatabase(None if folder is None else folder / "fingerprints.json")


def units() -> tuple[VirtualUnit, ...]:
    """The virtual units of this host. The first call on a new machine measures it, about 2 s."""
    return host_database().units()


def replace_file(path: Path, content: str, *, fsync: Callable[[int], None] = os.fsync) -> None:
    """Put `content` at `path` whole or not at all, readable by its owner only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name itself must survive a power cut, too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            fsync(folder)
        finally:
            os.close(folder)


def _slot(device: DeviceFingerprint) -> str:
    """Where a device is kept: equal GPUs share a key, yet each is measured."""
    return f"{device.key}#{device.index}"


def _units_of(devices: tuple[DeviceFingerprint, ...]) -> tuple[VirtualUnit, ...]:
    units: list[VirtualUnit] = []
    for device in devices:
        places = device.core_cpus if device.kind == "cpu" and device.core_cpus else ((),)
        bandwidth = device.memory_bandwidth_gb_per_s
        rates = {d: rate.all_cores / len(places) for d, rate in device.matrix_gflop_per_s.items()}
        for cpus in places:
            units.append(
                VirtualUnit(
                    index=len(units),
                    device_key=device.key,
                    kind=device.kind,
                    cores=cpus,
                    device_index=device.index,
                    bandwidth_gb_per_s=None if bandwidth is None else bandwidth / len(places),
                    matrix_gflop_per_s=rates,
                )
            )
    return tuple(units)
