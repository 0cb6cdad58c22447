"""Profilers that describe devices, by kind: the built-in ones and those of other packages."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, runtime_checkable

from profiler.cpu import CpuProfiler
from profiler.facts import DeviceFingerprint
from profiler.nvidia import NvidiaProfiler

GROUP = "evolve.profilers"
"""Entry-point group. The name of an entry is the kind of device, its object a factory without
arguments that returns a `DeviceProfiler`."""


@runtime_checkable
class DeviceProfiler(Protocol):
    """Describes one kind of device. Neither method may import heavy packages before it is called.

    `unavailable`: None, or in one line why there is nothing to describe, with the remedy.
    `devices`: static facts, fast; called once per process by the database.
    `measured`: the same device with measured rates, within about 2 s; rates that could not be
    measured are left out and a note says why.
    """

    @property
    def kind(self) -> str: ...

    def unavailable(self) -> str | None: ...

    def devices(self) -> tuple[DeviceFingerprint, ...]: ...

    def measured(self, device: DeviceFingerprint) -> DeviceFingerprint: ...


class BrokenProfiler:
    """Stands in for a registered profiler that could not be loaded, and says why."""

    def __init__(self, kind: str, reason: str) -> None:
        self.kind = kind
        self._reason = reason

    def unavailable(self) -> str | None:
        return self._reason

    def devices(self) -> tuple[DeviceFingerprint, ...]:
        return ()

    def measured(self, device: DeviceFingerprint) -> DeviceFingerprint:
        return device


@cache
def profilers() -> dict[str, DeviceProfiler]:
    """All known profilers by kind. A broken one of another package never hides the rest."""
    # The built-in ones do not depend on installed metadata: a source checkout has none.
    found: dict[str, DeviceProfiler] = {"cpu": CpuProfiler(), "nvidia": NvidiaProfiler()}
    for entry in entry_points(group=GROUP):
        if entry.name not in found:
            found[entry.name] = _loaded(entry)
    return found


def profiler_of(kind: str) -> DeviceProfiler:
    known = profilers()
    if kind not in known:
        raise ValueError(f"device must be of a kind in {sorted(known)}, got {kind!r}")
    return known[kind]


def detect(kind: str) -> tuple[DeviceFingerprint, ...]:
    """The devices of `kind`, static facts only; RuntimeError says why there are none."""
    profiler = profiler_of(kind)
    reason = profiler.unavailable()
    if reason is not None:
        raise RuntimeError(f"no {kind} device to describe: {reason}")
    return profiler.devices()


def _loaded(entry: EntryPoint) -> DeviceProfiler:
    try:
        profiler = entry.load()()
    except Exception as error:  # whatever a foreign package does on import, we go on
        return BrokenProfiler(entry.name, f"{entry.value} failed to load: {error!r}")
    if not isinstance(profiler, DeviceProfiler):
        return BrokenProfiler(
            entry.name, f"{entry.value} must be a factory of a DeviceProfiler, got {profiler!r}"
        )
    return profiler
