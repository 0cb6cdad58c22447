"""Virtual units and the database: measured once, asked once, never lost to a bad file."""

from __future__ import annotations

import errno
import json
import os
import pickle
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from profiler import units
from profiler.units import FingerprintDatabase, replace_file
from tests.profiler.hosts import CountingProfiler


def database(path: Path | None, *profilers: CountingProfiler, **kw: Any) -> FingerprintDatabase:
    return FingerprintDatabase(path, profilers={p.kind: p for p in profilers}, **kw)


def test_one_unit_per_core_and_per_gpu() -> None:
    found = database(None, CountingProfiler("gpu", count=2), CountingProfiler("cpu")).units()
    assert [(u.index, u.kind, u.cores, u.device_index) for u in found] == [
        (0, "cpu", (0, 2), 0),
        (1, "cpu", (1, 3), 0),
        (2, "gpu", (), 0),
        (3, "gpu", (), 1),
    ]
    assert found[0].matrix_gflop_per_s == {"fp32": 90.0}  # a share of what all reach together
    assert found[0].bandwidth_gb_per_s == 20.0
    assert found[3].matrix_gflop_per_s == {"fp32": 180.0}
    assert pickle.loads(pickle.dumps(found)) == found


def test_asking_again_touches_neither_driver_nor_disk(tmp_path: Path) -> None:
    profiler = CountingProfiler()
    path = tmp_path / "devices.json"
    known = database(path, profiler)
    first = known.units()
    path.unlink()
    assert known.units() is first
    assert known.fingerprints() is known.fingerprints()
    assert (profiler.asked, profiler.measures) == (1, 1)
    assert not path.exists()


def test_another_process_does_not_measure_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "devices.json"
    first = database(path, CountingProfiler()).units()
    profiler = CountingProfiler()
    again = database(path, profiler)
    assert again.units() == first
    assert profiler.measures == 0
    assert again.faults == ()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_equal_gpus_are_each_measured_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "devices.json"
    first, again = CountingProfiler("gpu", count=2), CountingProfiler("gpu", count=2)
    database(path, first).units()
    assert [d.index for d in database(path, again).fingerprints()] == [0, 1]
    assert (first.measures, again.measures) == (2, 0)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"version": 9, "devices": {}}', '{"version": 1, "devices": {"a": 1}}',
     '{"version": 1, "devices": {"a": {"version": 1}}}', '{"version": 1, "devices": 3}', "\x00"],
)  # fmt: skip
def test_a_corrupt_file_is_rebuilt_and_said(tmp_path: Path, content: str) -> None:
    path = tmp_path / "devices.json"
    path.write_text(content)
    known = database(path, CountingProfiler())
    assert len(known.units()) == 2
    (fault,) = known.faults
    assert fault.startswith("devices.json could not be read and is rebuilt: ")
    healed = database(path, CountingProfiler())
    healed.units()
    assert healed.faults == ()


def test_a_full_disk_keeps_it_in_memory_and_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "devices.json"
    database(path, CountingProfiler("cpu")).units()
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", lambda *_: full(0))
    known = database(path, CountingProfiler("cpu"), CountingProfiler("gpu"))
    assert len(known.units()) == 3
    assert "could not be written, kept in memory" in known.faults[0]
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["devices.json"]  # no half file left behind
    with pytest.raises(OSError, match="No space left"):
        replace_file(tmp_path / "other.json", "{}", fsync=full)
    assert os.listdir(tmp_path) == ["devices.json"]


def test_hosts_may_share_one_file(tmp_path: Path) -> None:
    path = tmp_path / "devices.json"
    database(path, CountingProfiler("cpu")).units()
    database(path, CountingProfiler("gpu")).units()
    assert len(json.loads(path.read_text())["devices"]) == 2


def test_without_measuring_facts_are_enough_and_rates_are_used_if_known(tmp_path: Path) -> None:
    path = tmp_path / "devices.json"
    profiler = CountingProfiler()
    assert database(path, profiler, measure=False).units()[0].matrix_gflop_per_s == {}
    assert profiler.measures == 0
    database(path, profiler).units()  # unmeasured facts in the file do not count as known
    assert profiler.measures == 1
    assert database(path, profiler, measure=False).units()[0].matrix_gflop_per_s == {"fp32": 90.0}


def test_one_broken_or_absent_profiler_hides_no_other() -> None:
    known = database(
        None,
        CountingProfiler("cpu", fails="measured"),
        CountingProfiler("gpu", fails="devices"),
        CountingProfiler("npu", reason="no driver"),
    )
    assert [u.kind for u in known.units()] == ["cpu", "cpu"]
    assert known.absent == {"npu": "no driver"}
    assert any("measuring cpu-" in fault and "out of memory" in fault for fault in known.faults)
    assert any("profiler gpu failed" in fault for fault in known.faults)


def test_refreshing_measures_again_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "devices.json"
    profiler = CountingProfiler()
    known = database(path, profiler)
    before = known.units()
    assert known.refresh() == before
    assert profiler.measures == 2
    assert known.units() is not before


def test_threads_that_ask_at_once_measure_once() -> None:
    profiler = CountingProfiler()
    known = database(None, profiler)
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(known.units())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (profiler.asked, profiler.measures) == (1, 1)
    assert all(f is found[0] for f in found)


def test_this_machine_without_measuring() -> None:
    known = FingerprintDatabase(measure=False)
    assert known.units()[0].kind == "cpu"
    assert len({u.index for u in known.units()}) == len(known.units())


def test_the_hosts_own_units_are_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    profiler = CountingProfiler()
    known = database(None, profiler)
    monkeypatch.setattr(units, "host_database", lambda: known)
    assert units.units() is units.units()
    assert profiler.asked == 1


def test_the_hosts_database_lies_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import platformdirs

    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name, **_: str(tmp_path / name))
    units.host_database.cache_clear()
    try:
        first = units.host_database()
        assert first is units.host_database()
        assert first.path == tmp_path / "evolve" / "fingerprints.json"
    finally:
        units.host_database.cache_clear()
