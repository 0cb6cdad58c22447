"""What `evolve profile` prints."""

from __future__ import annotations

import io
import json

from rich.console import Console

from profiler.nvidia import NvidiaProfiler
from profiler.report import describe, render
from profiler.units import FingerprintDatabase
from tests.profiler.hosts import CountingProfiler, FakeNvml


def host() -> FingerprintDatabase:
    return FingerprintDatabase(
        profilers={
            "cpu": CountingProfiler(),
            "nvidia": NvidiaProfiler(FakeNvml()),
            "npu": CountingProfiler("npu", reason="no driver"),
        }
    )


def test_the_description_is_json() -> None:
    known = host()
    plain = describe(
        known.fingerprints(), known.units(), absent=known.absent, faults=("file rebuilt",)
    )
    assert json.loads(json.dumps(plain)) == json.loads(json.dumps(plain, default=str))
    cpu, gpu = plain["devices"]
    assert cpu["matrix_gflop_per_s"]["fp32"] == {
        "one_core": 100.0, "all_cores": 180.0, "kernel": "made up",
    }  # fmt: skip
    assert cpu["isa_key"].startswith("x86_64-")
    assert gpu["bus"]["max_generation"] == 5
    assert [unit["cores"] for unit in plain["units"]] == [[0, 2], [1, 3], []]
    assert plain["absent"] == {"npu": "no driver"}
    assert plain["faults"] == ["file rebuilt"]


def test_one_fingerprint_is_enough() -> None:
    known = host()
    assert len(describe(known.fingerprints()[0], ())["devices"]) == 1


def test_the_table_shows_measured_figures_unknowns_and_reasons() -> None:
    known = host()
    out = io.StringIO()
    Console(file=out, width=160).print(
        render(known.fingerprints(), known.units(), absent=known.absent, faults=("file rebuilt",))
    )
    text = out.getvalue()
    for part in (
        "Made Up", "100 GFLOP/s one core, 180 all (made up)", "30.0 GB/s one core, 40.0 GB/s all",
        "PCIe generation 1 × 16 (at most 5 × 16)", "132", "80 GiB", "550.54.15",
        "fault: file rebuilt", "no npu: no driver", "note: ",
    ):  # fmt: skip
        assert part in text, part
    assert "None" not in text
