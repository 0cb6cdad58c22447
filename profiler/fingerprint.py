"""The fingerprint of a device of this machine, looked up or measured."""

from __future__ import annotations

from profiler.devices import detect, profiler_of
from profiler.facts import Bus, DeviceFingerprint, Rate, device_key, isa_key

__all__ = ["Bus", "DeviceFingerprint", "Rate", "device_key", "fingerprint", "isa_key"]


def fingerprint(device: str = "cpu", *, measure: bool = True) -> DeviceFingerprint:
    """The fingerprint of one device: "cpu", "nvidia", or "nvidia:1" for the second.

    With `measure` (about 2 s) its bandwidth and matrix rates are measured; without, only static
    facts are looked up (milliseconds). Nothing is cached here: see `FingerprintDatabase`.
    """
    kind, _, position = device.partition(":")
    if position and not position.isdecimal():
        raise ValueError(f"device must be a kind or kind:index, got {device!r}")
    found = detect(kind)
    index = int(position or 0)
    if index >= len(found):
        raise ValueError(f"device must be one of the {len(found)} of kind {kind}, got {device!r}")
    return profiler_of(kind).measured(found[index]) if measure else found[index]
