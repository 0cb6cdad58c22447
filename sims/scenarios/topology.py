"""Topology of a mixed fleet: where its units sit, and what it costs to bring a request to each.

A `Topology` is an undirected graph of places (hosts, switches, units) joined by `Link`s. Sending
costs the latency and the payload over the bandwidth of every link on the cheapest path, one link
after the other: right for small payloads, pessimistic for large ones over several links, which
real switches forward while they still receive.

Errors, all `TopologyError` (a ValueError): `BadLink` for a link that cannot exist, `UnknownPlace`
for a name that no link mentions, `Disconnected` where no path leads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sims.devices.models import BatchModel, cost_ms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sims.devices.model import DeviceModel

Floats = npt.NDArray[np.float64]


class TopologyError(ValueError):
    """Something is wrong with the places or links of a topology."""


class BadLink(TopologyError):
    """A link without bandwidth, with negative latency, or from a place to itself."""


class UnknownPlace(TopologyError):
    """A place that no link of the topology mentions."""


class Disconnected(TopologyError):
    """Two places without a path between them."""


@dataclass(frozen=True, slots=True)
class Link:
    """One hop: GB/s (10⁹) in one direction, one-way microseconds, and where both were read.

    >>> Link(bandwidth_gb_per_s=10.0, latency_us=500.0).cost_ms(payload_bytes=2.5e6)
    0.75
    """

    bandwidth_gb_per_s: float
    latency_us: float
    source: str = ""

    def __post_init__(self) -> None:
        if not self.bandwidth_gb_per_s > 0:
            raise BadLink(
                f"bandwidth_gb_per_s must be greater than 0, got {self.bandwidth_gb_per_s}"
            )
        if not (isfinite(self.latency_us) and self.latency_us >= 0):
            raise BadLink(f"latency_us must be finite and at least 0, got {self.latency_us}")

    def cost_ms(self, payload_bytes: float) -> float:
        """Milliseconds until the last byte has arrived."""
        return self.latency_us * 1e-3 + payload_bytes / (self.bandwidth_gb_per_s * 1e6)


_PCIE = "bandwidth: PCI-SIG, 16 lanes, one direction; latency: assumed, one driver call"
_NVLINK = "bandwidth: published, half of the total of both directions; latency: that of A100"
_TCP = "bandwidth: IEEE 802.3; latency: assumed, one switch, within the 10-30 us of a kernel stack"
_RDMA = "bandwidth: line rate; latency: assumed, half a round trip of about 2 us plus the call"

LINKS: Mapping[str, Link] = MappingProxyType(
    {
        "pcie-4-x16": Link(31.5, 10.0, _PCIE),
        "pcie-5-x16": Link(63.0, 10.0, _PCIE),
        "nvlink-3": Link(300.0, 46.0, _NVLINK),
        "nvlink-4": Link(450.0, 46.0, _NVLINK),
        # python -m sims.devices.checks: all-reduces of two A100 in vidur's tables (MIT).
        "nvlink-a100-measured": Link(171.0, 46.0, "two-device all-reduces, microsoft/vidur"),
        "ethernet-10g": Link(1.25, 30.0, _TCP),
        "ethernet-25g": Link(3.125, 30.0, _TCP),
        "ethernet-100g": Link(12.5, 30.0, _TCP),
        "rdma-100g": Link(12.5, 3.0, _RDMA),
        "infiniband-ndr": Link(50.0, 3.0, _RDMA),
        "same-host": Link(inf, 0.0, "nothing is copied"),
    }
)
"""Common links. Bandwidths are published or measured, latencies partly assumed: see `source`."""


class Edge(NamedTuple):
    """`link` between places `a` and `b`, in both directions."""

    a: str
    b: str
    link: Link


@dataclass(frozen=True)
class Topology:
    """Places and the links between them; of several between the same two the cheapest counts.

    >>> rack = Topology((Edge("front", "host", LINKS["ethernet-25g"]),
    ...                  Edge("host", "gpu0", LINKS["pcie-4-x16"])))
    >>> rack.path("front", "gpu0", payload_bytes=1e6)
    ('front', 'host', 'gpu0')
    >>> round(rack.link_cost_ms("front", "gpu0", payload_bytes=1e6), 3)  # 0.04 + 0.32 + 0.032
    0.392
    """

    edges: tuple[Edge, ...]
    _graph: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        import networkx as nx  # 0.15 s to import, and most simulations have no topology

        if not self.edges:
            raise TopologyError("edges must hold at least one edge, got none")
        graph = nx.MultiGraph()
        for edge in self.edges:
            if edge.a == edge.b:
                raise BadLink(f"a link must join two places, got {edge.a!r} twice")
            graph.add_edge(edge.a, edge.b, link=edge.link)
        object.__setattr__(self, "_graph", graph)

    @property
    def places(self) -> tuple[str, ...]:
        """All places, in the order in which the edges first name them."""
        return tuple(self._graph.nodes)

    def link_cost_ms(self, src: str, dst: str, payload_bytes: float) -> float:
        """Milliseconds to bring `payload_bytes` from `src` to `dst` on the cheapest path.

        0.0 where both are the same place. Raises `UnknownPlace` and `Disconnected`.
        """
        return self._cheapest(src, dst, payload_bytes)[0]

    def path(self, src: str, dst: str, payload_bytes: float) -> tuple[str, ...]:
        """The places on that path, both ends included; it may depend on the payload."""
        return self._cheapest(src, dst, payload_bytes)[1]

    def _cheapest(self, src: str, dst: str, payload_bytes: float) -> tuple[float, tuple[str, ...]]:
        import networkx as nx

        if not (isfinite(payload_bytes) and payload_bytes >= 0):
            raise ValueError(f"payload_bytes must be finite and at least 0, got {payload_bytes}")
        for place in (src, dst):
            if place not in self._graph:
                raise UnknownPlace(f"place must be one of {', '.join(self.places)}, got {place!r}")

        def weight(_a: str, _b: str, parallel: Mapping[int, Mapping[str, Link]]) -> float:
            return min(edge["link"].cost_ms(payload_bytes) for edge in parallel.values())

        try:
            cost, path = nx.single_source_dijkstra(self._graph, src, dst, weight=weight)
        except nx.NetworkXNoPath:
            raise Disconnected(
                f"{src!r} and {dst!r} must be connected, got no path; add the missing link"
            ) from None
        return float(cost), tuple(path)


class Unit(NamedTuple):
    """One virtual unit of a fleet: its name, what it is, and the place where it sits."""

    name: str
    device: DeviceModel
    place: str


@dataclass(frozen=True)
class Fleet:
    """Units of different kinds, reached from the place where requests enter.

    >>> from sims.devices.table import DEVICES
    >>> rack = Topology((Edge("front", "host", LINKS["ethernet-25g"]),
    ...                  Edge("host", "gpu0", LINKS["pcie-4-x16"]),
    ...                  Edge("host", "gpu1", LINKS["pcie-5-x16"])))
    >>> units = (Unit("a", DEVICES["a100"], "gpu0"), Unit("h", DEVICES["h100"], "gpu1"))
    >>> fleet = Fleet(units, rack, entry="front")
    >>> [round(ms, 3) for ms in fleet.transfer_ms(1e6).tolist()]
    [0.392, 0.376]
    >>> fleet.nearest(1e6).name
    'h'
    """

    units: Sequence[Unit]
    topology: Topology
    entry: str

    def __post_init__(self) -> None:
        names = [unit.name for unit in self.units]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"units must be at least one, of different names, got {names}")
        self.transfer_ms(0.0)  # every unit must be reachable, before any simulation starts

    def transfer_ms(self, payload_bytes: float) -> Floats:
        """Milliseconds float64 [U] to bring one payload from the entry to each unit."""
        costs = [
            self.topology.link_cost_ms(self.entry, unit.place, payload_bytes) for unit in self.units
        ]
        return np.array(costs, dtype=np.float64)

    def nearest(self, payload_bytes: float) -> Unit:
        """The unit that the payload reaches first; the first of equals."""
        return self.units[int(self.transfer_ms(payload_bytes).argmin())]

    def cost_ms(
        self,
        model: BatchModel,
        rows: NDArray[np.int64],
        lengths: NDArray[np.int64],
        bytes_per_token: float = 0.0,
    ) -> Floats:
        """Milliseconds float64 [U, R, L] to bring a batch of every shape to a unit and run it.

        `bytes_per_token`: of the request's payload; answers are taken to be small.
        """
        table = np.stack([cost_ms(unit.device, model, rows, lengths) for unit in self.units])
        for i, r in enumerate(rows.tolist()):
            for j, n in enumerate(lengths.tolist()):
                table[:, i, j] += self.transfer_ms(r * n * bytes_per_token)
        return table


def star(centre: str, spokes: Iterable[tuple[str, Link]]) -> Topology:
    """Every spoke linked to `centre` alone: one switch, or one host with its devices.

    >>> star("host", [("gpu0", LINKS["pcie-4-x16"]), ("gpu1", LINKS["pcie-4-x16"])]).places
    ('host', 'gpu0', 'gpu1')
    """
    return Topology(tuple(Edge(centre, place, link) for place, link in spokes))
