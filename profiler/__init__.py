"""What this machine is and what work costs on it. Usable on its own; imports neither torch nor
any other heavy package until something is measured.

Rooms, in the order they build on each other:

- `shapes`: the grid of padded shapes. `surface`: from a few timed shapes to a price for all.
- `quantiles`, `evidence`, `costs`: the cost table, corrected by live batches; drift. `switching`:
  what a change of plan costs beside them.
- `rings`, `signals`: the window of events that a policy observes. `patterns`: what batches of every
  shape ask of the memory, for it to see.
- `facts`, `fingerprint`: what a device is. `sysfs`, `cpu`, `rates`, `nvidia`, `cuda_rates`: how it
  is found out and measured. `devices`: who can describe which kind, other packages included.
- `units`: virtual compute units and the persisted fingerprint database. `places`: where that
  and all else is kept between runs.
- `flops`: FLOPs really executed per request. `report`: all of it, printed.
- `lazy`: how the five packages give their public names without importing anything yet.

Two functions share their names with their rooms and are imported from there:
`profiler.fingerprint.fingerprint` and `profiler.units.units`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.lazy import lazy_exports

if TYPE_CHECKING:
    from profiler.costs import Cost, CostTable, Drift
    from profiler.devices import DeviceProfiler
    from profiler.fingerprint import Bus, DeviceFingerprint, Rate, isa_key
    from profiler.flops import DynamicFlops, FlopModel, FlopsReading, flops_per_row
    from profiler.report import describe, render
    from profiler.shapes import Shape, ShapeGrid
    from profiler.signals import Signals, Window
    from profiler.surface import RooflinePrior
    from profiler.units import FingerprintDatabase, VirtualUnit, host_database
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "costs": "Cost CostTable Drift",
            "devices": "DeviceProfiler",
            "fingerprint": "Bus DeviceFingerprint Rate isa_key",
            "flops": "DynamicFlops FlopModel FlopsReading flops_per_row",
            "report": "describe render",
            "shapes": "Shape ShapeGrid",
            "signals": "Signals Window",
            "surface": "RooflinePrior",
            "units": "FingerprintDatabase VirtualUnit host_database",
        },
    )

__all__ = [
    "Bus",
    "Cost",
    "CostTable",
    "DeviceFingerprint",
    "DeviceProfiler",
    "Drift",
    "DynamicFlops",
    "FingerprintDatabase",
    "FlopModel",
    "FlopsReading",
    "Rate",
    "RooflinePrior",
    "Shape",
    "ShapeGrid",
    "Signals",
    "VirtualUnit",
    "Window",
    "describe",
    "flops_per_row",
    "host_database",
    "isa_key",
    "render",
]
