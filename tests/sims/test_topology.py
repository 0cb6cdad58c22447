"""Topologies: the cheapest way by hand, errors by name, and fleets of different devices."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sims.devices import DEVICES, BatchModel, cost_ms
from sims.scenarios.topology import (
    LINKS,
    BadLink,
    Disconnected,
    Edge,
    Fleet,
    Link,
    Topology,
    TopologyError,
    Unit,
    UnknownPlace,
    star,
)

QUICK = Link(bandwidth_gb_per_s=1.0, latency_us=10.0)  # soon there, slow to send much
WIDE = Link(bandwidth_gb_per_s=100.0, latency_us=500.0)
MODEL = BatchModel(gflop_per_token=0.2, weight_mib=200.0, layers=12)


def test_a_link_costs_latency_and_bytes() -> None:
    assert QUICK.cost_ms(0) == pytest.approx(0.01)
    assert QUICK.cost_ms(2e6) == pytest.approx(2.01)
    assert LINKS["same-host"].cost_ms(1e9) == 0.0


def test_the_path_depends_on_the_payload() -> None:
    ways = Topology(
        (Edge("a", "near", QUICK), Edge("near", "b", QUICK), Edge("a", "far", WIDE),
         Edge("far", "b", QUICK), Edge("far", "b", WIDE))
    )  # fmt: skip
    assert ways.path("a", "b", 1e3) == ("a", "near", "b")
    assert ways.link_cost_ms("a", "b", 1e3) == pytest.approx(2 * (0.01 + 0.001))
    # Of the two links between far and b the wide one counts now.
    assert ways.path("a", "b", 1e8) == ("a", "far", "b")
    assert ways.link_cost_ms("a", "b", 1e8) == pytest.approx(2 * (0.5 + 1.0))
    assert ways.link_cost_ms("b", "a", 1e8) == ways.link_cost_ms("a", "b", 1e8)
    assert ways.link_cost_ms("a", "a", 1e8) == 0.0


def test_more_bytes_never_cost_less() -> None:
    ways = Topology((Edge("a", "b", QUICK), Edge("a", "c", WIDE), Edge("c", "b", WIDE)))
    costs = [ways.link_cost_ms("a", "b", payload) for payload in np.geomspace(1, 1e9, 40)]
    assert (np.diff(costs) > 0).all()


def test_errors_have_names() -> None:
    with pytest.raises(BadLink, match="bandwidth_gb_per_s must be greater than 0, got -1"):
        Link(-1.0, 0.0)
    with pytest.raises(BadLink, match="bandwidth_gb_per_s must be greater than 0, got nan"):
        Link(float("nan"), 0.0)
    with pytest.raises(BadLink, match="latency_us must be finite and at least 0, got -5"):
        Link(1.0, -5.0)
    with pytest.raises(BadLink, match="a link must join two places, got 'a' twice"):
        Topology((Edge("a", "a", QUICK),))
    with pytest.raises(TopologyError, match="edges must hold at least one edge, got none"):
        Topology(())
    islands = Topology((Edge("a", "b", QUICK), Edge("c", "d", QUICK)))
    with pytest.raises(Disconnected, match="'a' and 'd' must be connected, got no path; add"):
        islands.link_cost_ms("a", "d", 0)
    with pytest.raises(UnknownPlace, match="place must be one of a, b, c, d, got 'x'"):
        islands.link_cost_ms("a", "x", 0)
    with pytest.raises(ValueError, match="payload_bytes must be finite and at least 0, got -1"):
        islands.link_cost_ms("a", "b", -1)
    assert issubclass(TopologyError, ValueError)


def fleet() -> Fleet:
    rack = Topology(
        (
            Edge("front", "host", LINKS["ethernet-25g"]),
            *star("host", [("gpu0", LINKS["pcie-4-x16"])]).edges,
            Edge("front", "elsewhere", LINKS["ethernet-10g"]),
        )
    )
    units = (Unit("a", DEVICES["a100"], "gpu0"), Unit("t", DEVICES["tpu-v5e"], "elsewhere"))
    return Fleet(units, rack, entry="front")


def test_a_fleet_adds_the_way_to_the_run() -> None:
    mixed, rows, lengths = fleet(), np.array([1, 8]), np.array([16, 64, 256])
    table = mixed.cost_ms(MODEL, rows, lengths, bytes_per_token=1e4)
    assert table.shape == (2, 2, 3)
    for number, unit in enumerate(mixed.units):
        way = table[number] - cost_ms(unit.device, MODEL, rows, lengths)
        assert way[1, 2] == pytest.approx(mixed.transfer_ms(8 * 256 * 1e4)[number])
    assert mixed.nearest(0.0).name == "t"
    assert mixed.nearest(1e7).name == "a"


def test_impossible_fleets_are_refused() -> None:
    mixed = fleet()
    with pytest.raises(ValueError, match="units must be at least one, of different names, got"):
        Fleet((*mixed.units, mixed.units[0]), mixed.topology, "front")
    with pytest.raises(UnknownPlace, match="got 'nowhere'"):
        Fleet((Unit("a", DEVICES["a100"], "nowhere"),), mixed.topology, "front")


def test_networkx_is_imported_when_a_topology_is_made() -> None:
    code = "import sys, sims.scenarios.topology; print('networkx' in sys.modules)"
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
