"""The devices and units of a host, for machines (`describe`) and for people (`render`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from profiler.fingerprint import DeviceFingerprint, isa_key
from profiler.units import VirtualUnit

if TYPE_CHECKING:
    from rich.console import RenderableType

_UNKNOWN = "–"


def describe(
    fingerprint: DeviceFingerprint | Sequence[DeviceFingerprint],
    units: Sequence[VirtualUnit],
    *,
    absent: Mapping[str, str] | None = None,
    faults: Sequence[str] = (),
) -> dict[str, Any]:
    """Everything `evolve profile --json` prints, in plain JSON values.

    `absent`: kinds of devices that are not here and why. `faults`: what went wrong on the way.
    """
    return {
        "devices": [
            {**device.to_json(), "isa_key": isa_key(device)} for device in _all(fingerprint)
        ],
        "units": [
            {
                "index": unit.index,
                "device_key": unit.device_key,
                "kind": unit.kind,
                "cores": list(unit.cores),
                "device_index": unit.device_index,
                "bandwidth_gb_per_s": unit.bandwidth_gb_per_s,
                "matrix_gflop_per_s": dict(unit.matrix_gflop_per_s),
            }
            for unit in units
        ],
        "absent": dict(absent or {}),
        "faults": list(faults),
    }


def render(
    fingerprint: DeviceFingerprint | Sequence[DeviceFingerprint],
    units: Sequence[VirtualUnit],
    *,
    absent: Mapping[str, str] | None = None,
    faults: Sequence[str] = (),
) -> RenderableType:
    """The same for a terminal: one table per device, one of units, then what to know."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_device_table(device) for device in _all(fingerprint)]
    parts.append(_unit_table(units))
    for device in _all(fingerprint):
        parts += [Text(f"note: {note}", style="yellow") for note in device.notes]
    parts += [Text(f"fault: {fault}", style="red") for fault in faults]
    parts += [Text(f"no {kind}: {why}", style="dim") for kind, why in (absent or {}).items()]
    return Group(*parts)


def _all(
    fingerprint: DeviceFingerprint | Sequence[DeviceFingerprint],
) -> tuple[DeviceFingerprint, ...]:
    return (fingerprint,) if isinstance(fingerprint, DeviceFingerprint) else tuple(fingerprint)


def _device_table(device: DeviceFingerprint) -> RenderableType:
    from rich.table import Table

    table = Table(title=f"{device.name} ({device.key})", title_justify="left", show_header=False)
    table.add_column("what", style="bold")
    table.add_column("value")
    for what, value in _facts(device):
        table.add_row(what, value)
    return table


def _facts(device: DeviceFingerprint) -> list[tuple[str, str]]:
    rows = [("architecture", device.architecture)]
    if device.kind == "cpu":
        rows += [
            ("cores", f"{device.cores} usable, {device.logical_cpus} logical CPUs"),
            ("NUMA nodes", str(device.numa_nodes)),
            ("instruction sets", isa_key(device)),
            (
                "caches",
                f"L1d {_size(device.l1d_bytes)} and L2 {_size(device.l2_bytes)} per core, "
                f"L3 {_size(device.l3_bytes)}",
            ),
        ]
    else:
        rows += [("multiprocessors", _or_unknown(device.sm_count)), ("bus", _bus(device))]
        rows += [("driver", _or_unknown(device.driver))]
        rows += [("bandwidth, data sheet", _number(device.peak_bandwidth_gb_per_s, "GB/s"))]
    rows.append(("memory", _size(device.memory_bytes)))
    one, everywhere = device.core_bandwidth_gb_per_s, device.memory_bandwidth_gb_per_s
    copy = f"{_number(one, 'GB/s')} one core, {_number(everywhere, 'GB/s')} all"
    rows.append(("bandwidth, measured", copy if device.kind == "cpu" else _number(one, "GB/s")))
    for dtype, rate in device.matrix_gflop_per_s.items():
        unit = "Gop/s" if dtype.startswith("int") else "GFLOP/s"
        figures = f"{rate.one_core:,.0f} {unit} one core, {rate.all_cores:,.0f} all"
        shown = figures if device.kind == "cpu" else f"{rate.all_cores:,.0f} {unit}"
        rows.append((f"{dtype}, measured", f"{shown} ({rate.kernel})"))
    return rows


def _unit_table(units: Sequence[VirtualUnit]) -> RenderableType:
    from rich.table import Table

    table = Table("unit", "kind", "logical CPUs", "device", "fp32 GFLOP/s, all busy")
    for unit in units:
        cpus = ", ".join(map(str, unit.cores)) or _UNKNOWN
        rate = unit.matrix_gflop_per_s.get("fp32")
        table.add_row(str(unit.index), unit.kind, cpus, unit.device_key, _number(rate))
    return table


def _bus(device: DeviceFingerprint) -> str:
    if (bus := device.bus) is None:
        return _UNKNOWN
    return (
        f"PCIe generation {bus.generation} × {bus.width} "
        f"(at most {bus.max_generation} × {bus.max_width})"
    )


def _size(count: int | None) -> str:
    """Bytes in binary units, the largest that leaves at least 1."""
    if count is None:
        return _UNKNOWN
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} GiB"


def _number(value: float | None, unit: str = "") -> str:
    return _UNKNOWN if value is None else f"{value:,.1f} {unit}".rstrip()


def _or_unknown(value: object) -> str:
    return _UNKNOWN if value is None else str(value)
