"""Unlike devices behind one queue, beside each device with a queue of its own.

    Fleet (devices, links) ──▶ service() ──▶ pooled()       one queue, free units pull from it
                                         └─▶ partitioned()  arrivals split by capacity

Units are virtual: their costs come from `sims.devices`, whose fits are of language models, so an
image model on them is an extrapolation, and the CPU host's rates are assumed. Sending a batch
occupies the unit that it goes to; transfer is part of the cost table, which the rule knows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sims.devices import DEVICES, BatchModel, DeviceModel, Fit, Specs
from sims.engine.inputs import Setting
from sims.scenarios.topology import LINKS, Edge, Fleet, Topology, Unit
from sims.service import Disturbances, Service, Units
from sims.simulation import Simulation
from sims.traces import Trace

__all__ = ["FleetResult", "mixed_fleet", "own_per_s", "partitioned", "pooled", "service"]

Floats = NDArray[np.float64]

_ASSUMED = "assumed: a server CPU with bf16 matrix units; not measured, no data sheet"
CPU_HOST = DeviceModel(
    "cpu-host", Specs("bf16", 2.0, 200.0, 256.0, _ASSUMED, _ASSUMED, _ASSUMED),
    Fit(1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 200.0), "none", _ASSUMED,
)  # fmt: skip
"""Sustained 2 TFLOP/s and 200 GB/s, without overheads."""

IMAGES = BatchModel(gflop_per_token=35.1, weight_mib=165.0, layers=12)
"""ViT-B/16 at 224 pixels in fp16: torchvision's `vit_b_16` lists 86,567,656 parameters and 17.56
GFLOP (a multiply-add counted once, here twice);
https://pytorch.org/vision/stable/models/generated/torchvision.models.vit_b_16.html."""
IMAGE_BYTES = 3 * 224 * 224.0
"""One image of 8-bit colours as it is sent."""


def mixed_fleet() -> Fleet:
    """Two A100 and the CPU host where requests enter, two H100 and an MI300X over the network.

    >>> [unit.device.name for unit in mixed_fleet().units]
    ['a100', 'a100', 'h100', 'h100', 'mi300x', 'cpu-host']
    """
    near, far = LINKS["pcie-4-x16"], LINKS["pcie-5-x16"]
    topology = Topology((
        Edge("front", "a0", near), Edge("front", "a1", near),
        Edge("front", "host-h", LINKS["ethernet-25g"]), Edge("host-h", "h0", far),
        Edge("host-h", "h1", far),
        Edge("front", "host-m", LINKS["ethernet-25g"]), Edge("host-m", "m0", far),
    ))  # fmt: skip
    kinds = {"a": DEVICES["a100"], "h": DEVICES["h100"], "m": DEVICES["mi300x"]}
    units = [Unit(place, kinds[place[0]], place) for place in ("a0", "a1", "h0", "h1", "m0")]
    return Fleet((*units, Unit("c0", CPU_HOST, "front")), topology, "front")


def service(
    fleet: Fleet,
    model: BatchModel = IMAGES,
    *,
    placement: str = "order",
    slo_times: float = 10.0,
    max_rows: int = 16,
    hidden: Disturbances | None = None,
) -> Service:
    """The fleet as one service of requests of one length, a table and a worker per unit.

    `placement`: see `Units`. `slo_times`: the SLO over the latency of one request alone on the
    slowest unit, so that every unit can be of use.

    >>> service(mixed_fleet()).table("cost_ms").shape
    (6, 1, 16, 1)
    """
    if not (math.isfinite(slo_times) and slo_times > 0):
        raise ValueError(f"slo_times must be finite and greater than 0, got {slo_times}")
    rows, one = np.arange(1, max_rows + 1), np.ones(1, np.int64)
    table = fleet.cost_ms(model, rows, one, IMAGE_BYTES)[:, None]
    count = len(fleet.units)
    units = replace(Units.alike(count), kind=np.arange(count), placement=placement)
    return Service(
        table, np.ones(1), slo_times * float(table[:, 0, 0, 0].max()), count,
        hidden=hidden or Disturbances(), units=units,
    )  # fmt: skip


def own_per_s(service: Service) -> Floats:
    """Requests per s [W] that each unit carries when every batch is as cheap as batches get.

    Their sum is `sims.gym.domain.capacity_per_s`. Raises ValueError for more than one length.

    >>> bool((own_per_s(service(mixed_fleet())) > 0).all())
    True
    """
    if service.lengths.size != 1:
        raise ValueError(f"service must have one length, got {service.lengths.size}")
    units = service.units or Units.alike(service.workers)
    table = service.table("cost_ms")[..., 0]
    per_row_ms = np.nanmin(table / np.arange(1, table.shape[2] + 1), axis=(1, 2))
    return np.asarray(1e3 / (per_row_ms[units.kind] * units.slower))


@dataclass(frozen=True)
class FleetResult:
    """What came of a trace, per unit [W] over the time until the last answer.

    `met`: answers within the SLO over all offered. `busy`: share of the time a unit ran or
    received a batch. `work`: requests it answered over what it carries at best. One queue keeps
    units busy with small batches long before the load reaches their capacity, so a high `busy`
    alone says little. `choice`: share of the batches at whose start more than one unit was free,
    so that the placement mattered; 0 where there is none.
    """

    name: str
    met: float
    busy: Floats
    work: Floats
    choice: float = 0.0

    @property
    def busy_mean(self) -> float:
        """Mean utilisation: of the units' shares, each unit counting the same."""
        return float(self.busy.mean())

    @property
    def busy_spread(self) -> float:
        """Between the busiest and the least busy unit, as a difference of shares."""
        return float(np.ptp(self.busy))

    @property
    def busy_cv(self) -> float:
        """Standard deviation of the units' busy shares over their mean."""
        return float(self.busy.std() / self.busy.mean())

    @property
    def work_mean(self) -> float:
        """Mean share of its own capacity that a unit delivered."""
        return float(self.work.mean())

    @property
    def work_spread(self) -> float:
        """Between the units that delivered the largest and smallest share, as a difference."""
        return float(np.ptp(self.work))


def pooled(service: Service, trace: Trace, setting: Setting) -> FleetResult:
    """All units on one queue under `setting`.

    >>> from policies.presets import DEFAULT
    >>> from sims.traces import poisson
    >>> fleet = service(mixed_fleet())
    >>> trace = poisson(0.5 * own_per_s(fleet).sum(), 1.0, seed=0, lengths=np.ones(1, np.int32))
    >>> pooled(fleet, trace, DEFAULT).met
    1.0
    """
    simulation = Simulation(service, trace)
    simulation.advance(math.inf, setting)
    span_s = max(simulation.now_ms / 1e3, trace.seconds)
    batches = simulation.batches()
    rows = np.bincount(batches["worker"], batches["rows"], service.workers)
    free = np.full(batches.size, service.workers)
    for unit in range(service.workers):  # batches are in order of start
        own = np.flatnonzero(batches["worker"] == unit)
        last = np.searchsorted(own, np.arange(batches.size)) - 1  # of its own, before this one
        if own.size:
            free -= (last >= 0) & (batches["finish_ms"][own[last]] > batches["start_ms"])
    placement = service.units.placement if service.units else "order"
    return FleetResult(
        name=f"{setting.name}, {placement}",
        met=simulation.result().met_ratio,
        busy=simulation.busy_ms / (span_s * 1e3),
        work=rows / (own_per_s(service) * span_s),
        choice=float((free > 1).mean()) if batches.size else 0.0,
    )


def partitioned(service: Service, trace: Trace, setting: Setting, *, seed: int) -> FleetResult:
    """Every unit with its own queue; each arrival goes to one at random, by capacity.

    >>> from policies.presets import DEFAULT
    >>> from sims.traces import poisson
    >>> fleet = service(mixed_fleet())
    >>> trace = poisson(0.5 * own_per_s(fleet).sum(), 1.0, seed=0, lengths=np.ones(1, np.int32))
    >>> partitioned(fleet, trace, DEFAULT, seed=0).name
    'default, own queues'
    """
    units = service.units or Units.alike(service.workers)
    own = own_per_s(service)
    goes_to = np.random.default_rng(seed).choice(own.size, len(trace), p=own / own.sum())
    met, ends_s = 0, trace.seconds
    busy_ms, rows = np.zeros(own.size), np.zeros(own.size)
    for unit in np.unique(goes_to).tolist():
        mine = goes_to == unit
        part = replace(trace, arrivals_s=trace.arrivals_s[mine], lengths=trace.lengths[mine])
        at = slice(unit, unit + 1)
        alone = replace(
            units, kind=units.kind[at], slower=units.slower[at], link_ms=units.link_ms[at],
            lost_ms=units.lost_ms[at],
        )  # fmt: skip
        simulation = Simulation(replace(service, workers=1, units=alone), part)
        simulation.advance(math.inf, setting)
        result = simulation.result()
        met, ends_s = met + result.met, max(ends_s, simulation.now_ms / 1e3)
        busy_ms[unit], rows[unit] = simulation.busy_ms[0], result.served
    return FleetResult(
        f"{setting.name}, own queues", met / len(trace), busy_ms / (ends_s * 1e3),
        rows / (own * ends_s),
    )  # fmt: skip
