"""Built-in profilers and those that other packages register."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

from profiler import devices
from profiler.fingerprint import fingerprint
from tests.profiler.hosts import CountingProfiler


class Accelerator(CountingProfiler):
    def __init__(self) -> None:
        super().__init__(kind="npu")


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    entries: list[EntryPoint] = []
    monkeypatch.setattr(devices, "entry_points", lambda group: entries)
    devices.profilers.cache_clear()
    yield entries
    devices.profilers.cache_clear()


def test_the_built_in_ones_need_no_metadata(registered: list[EntryPoint]) -> None:
    assert list(devices.profilers()) == ["cpu", "nvidia"]
    for profiler in devices.profilers().values():
        assert isinstance(profiler, devices.DeviceProfiler)


def test_another_package_adds_a_kind(registered: list[EntryPoint]) -> None:
    registered.append(EntryPoint("npu", f"{__name__}:Accelerator", devices.GROUP))
    assert fingerprint("npu").gflop_per_s("fp32") == 100.0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module:Profiler", "failed to load: ModuleNotFoundError"),
        ("builtins:dict", "must be a factory of a DeviceProfiler, got {}"),
    ],
)
def test_a_broken_one_hides_nothing_and_says_why(
    registered: list[EntryPoint], value: str, message: str
) -> None:
    registered.append(EntryPoint("npu", value, devices.GROUP))
    assert fingerprint("cpu", measure=False).kind == "cpu"
    with pytest.raises(RuntimeError, match=message):
        fingerprint("npu")


def test_a_kind_without_devices_says_why(
    registered: list[EntryPoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(devices.profilers(), "npu", CountingProfiler("npu", reason="no driver"))
    with pytest.raises(RuntimeError, match="no npu device to describe: no driver"):
        fingerprint("npu")
