"""The memory pattern of a stored capture: found in a process, remembered, refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from profiler.fingerprint import DeviceFingerprint, Rate
from profiler.patterns import MIB, knots, moved_table
from supernet.building.memory_demand import demand, find_demand
from supernet.cache import ArtifactCache
from supernet.capture.stored import StoredCapture, store
from supernet.capture.subject import capture
from supernet.errors import BuildFailed, BuildInterrupted
from supernet.fusion.graph.memory import extract_memory_pattern
from supernet.fusion.graph.op_graph import OpGraph
from tests.supernet.models import Attention, noise, seeded, text

MACHINE = DeviceFingerprint(
    "cpu-test", "cpu", "test", "x86_64", cores=2, logical_cpus=2, l1d_bytes=4_096,
    l2_bytes=65_536, l3_bytes=1 << 20, memory_bandwidth_gb_per_s=10.0,
    matrix_gflop_per_s={"fp32": Rate(50.0, 100.0, "test")},
)  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache")


def test_every_knot_is_what_the_pattern_of_that_shape_says(cache: ArtifactCache) -> None:
    learned = capture(seeded(Attention), [text(1, 4), text(1, 30)], max_rows=8)
    folder = store(cache, learned)
    found = dict(demand(StoredCapture.read(folder), MACHINE))
    assert set(found) == set(knots(learned.grid))
    assert learned.program is not None
    for shape, one in found.items():
        graph = OpGraph.of(learned.program, learned.signature, shape)
        pattern = extract_memory_pattern(graph, MACHINE)
        assert one.read_mib == pattern.bytes_read / MIB
        assert one.written_mib == pattern.bytes_written / MIB
        assert one.work_mib == pytest.approx(pattern.flops / 10.0 / MIB)  # ridge: 100 / 10
        assert one.memory_mib == pattern.served_by["memory"] * one.read_mib


def test_a_larger_batch_is_less_bound_by_memory(cache: ArtifactCache) -> None:
    learned = capture(nn.Linear(256, 256).eval(), (noise(1, 256),), max_rows=32)
    points = find_demand(cache, store(cache, learned), MACHINE)
    table = moved_table(points, learned.grid)
    assert table.shape == (32, 1, 3)
    balance = table[:, 0, 0]
    assert (balance[1:] > balance[:-1]).all()
    # 1 row: 2 × 256² FLOPs over 4 × (256² + 3 × 256) bytes, bias included
    assert balance[0] == pytest.approx(2 * 256**2 / (4 * (256**2 + 3 * 256)) / 10, rel=0.01)


def test_it_is_found_once(cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch) -> None:
    learned = capture(nn.Linear(4, 2).eval(), (noise(1, 4),))
    folder = store(cache, learned)
    first = find_demand(cache, folder, MACHINE)

    def refused(*args: object) -> None:
        raise AssertionError("no second process")

    monkeypatch.setattr("supernet.building.memory_demand.run_job", refused)
    assert find_demand(cache, folder, MACHINE) == first
    with pytest.raises(AssertionError):  # another machine is asked anew
        find_demand(cache, folder, replace(MACHINE, l3_bytes=None))
    assert list(cache.reports()) == []  # it is about no plan


def test_other_examples_of_the_same_model_ask_nothing_new(
    cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = nn.Linear(4, 2).eval(), noise(1, 4)
    folder, other = (store(cache, capture(model, (inputs,))) for inputs in (x, 2 * x))
    assert folder != other
    first = find_demand(cache, folder, MACHINE)
    monkeypatch.delattr("supernet.building.memory_demand.run_job")
    assert find_demand(cache, other, MACHINE) == first


def test_of_a_machine_that_was_never_measured_the_balance_is_unknown(cache: ArtifactCache) -> None:
    learned = capture(nn.Linear(4, 2).eval(), (noise(1, 4),))
    unmeasured = replace(MACHINE, matrix_gflop_per_s={})
    found = dict(demand(StoredCapture.read(store(cache, learned)), unmeasured))
    assert {one.work_mib for one in found.values()} == {0.0}
    assert all(one.read_mib > 0 for one in found.values())


def test_what_can_not_be_followed_and_what_is_stopped_is_said(cache: ArtifactCache) -> None:
    folder = store(cache, capture(nn.Linear(4, 2).eval(), (noise(1, 4),)))
    with pytest.raises(BuildInterrupted):
        find_demand(cache, folder, MACHINE, cancelled=lambda: True)
    (program,) = (cache.root / "captures").glob("*/program.pt2")
    program.write_bytes(b"")
    with pytest.raises(BuildFailed, match="damaged"):
        find_demand(cache, folder, MACHINE)
