"""The control plane may fail in any way; the service goes on and the journal says why."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

import evolve
from evolve.control_plane import plan_builder
from evolve.lifecycle.assembly import _has_room
from profiler.places import StorageFolder
from profiler.units import host_database
from supernet.building.build import BuildLimits
from supernet.building.reports import failed
from supernet.errors import BuildFailed, CacheFull
from supernet.fusion.kernels import onednn
from supernet.jobs.pausing import Pauses
from supernet.plans import Plan, PlanSpec
from tests.evolve.conftest import WAITED_FOR
from tests.waiting import eventually


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for tests of what happens once plans are built, each once for all of them."""
    return tmp_path_factory.mktemp("built")


def test_an_unusable_cache_folder_stops_building_only(mlp: torch.nn.Module, tmp_path: Path) -> None:
    taken = tmp_path / "cache"
    taken.write_text("a file, not a folder")
    config = evolve.Config(capture=WAITED_FOR).replace(plans={"cache_dir": taken})
    with evolve.wrap(mlp, (torch.randn(1, 8),), config=config) as runtime:
        assert runtime.wait_for_plans(60)
        x = torch.randn(2, 8)
        assert torch.allclose(runtime(x), mlp(x))
        (said,) = (d for d in runtime.decisions() if d.kind == "plan")
        assert said.reason.startswith("no more plans are built")
        assert str(taken) in said.reason


def test_without_a_home_plans_are_kept_elsewhere_and_it_is_said(
    mlp: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").write_text("a file")
    host_database.cache_clear()
    try:
        config = evolve.Config().replace(plans={"only": ()})  # the cache alone is of interest
        with evolve.wrap(mlp, (torch.randn(1, 8),), config=config) as runtime:
            assert runtime.wait_for_plans(60)
            x = torch.randn(2, 8)
            assert torch.equal(runtime(x), mlp(x))
            said = [d for d in runtime.decisions(100) if d.after.get("state") == "kept elsewhere"]
    finally:
        host_database.cache_clear()
    (once,) = said
    kept = tmp_path / f"evolve-{os.geteuid()}"
    assert str(kept) in once.reason
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert list((kept / "captures").iterdir())


def test_a_full_disk_stops_building_only(
    mlp: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> None:
        raise CacheFull("no room left for plans/x")

    monkeypatch.setattr("evolve.control_plane.plan_builder.build_plan", full)
    config = evolve.Config(capture=WAITED_FOR).replace(plans={"cache_dir": tmp_path / "cache"})
    with evolve.wrap(mlp, (torch.randn(1, 8),), config=config) as runtime:
        assert runtime.wait_for_plans(60)
        x = torch.randn(2, 8)
        assert torch.allclose(runtime(x), mlp(x))
        assert any("no room left" in d.reason for d in runtime.decisions())


def test_without_building_the_journal_says_who_serves(
    mlp: torch.nn.Module, config: evolve.Config
) -> None:
    with evolve.wrap(mlp, (torch.randn(1, 8),), config=config) as runtime:
        assert runtime.wait_for_plans(60)
        assert [d.reason for d in runtime.decisions() if d.kind == "plan"] == [
            "the original model serves: plans.build is off"
        ]
        assert runtime.plans() == ()


def test_closing_ends_a_build_under_way(mlp: torch.nn.Module, tmp_path: Path) -> None:
    config = evolve.Config(capture=WAITED_FOR).replace(plans={"cache_dir": tmp_path / "cache"})
    runtime = evolve.wrap(mlp, (torch.randn(1, 8),), config=config)
    runtime.close()
    left = [p.name() for p in psutil.Process().children(recursive=True) if p.is_running()]
    assert "build_job" not in left


def test_a_backend_that_cannot_be_used_is_left_out_and_said(
    mlp: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supernet.backends.aoti.AotiBackend.unavailable", lambda self: "no g++")
    config = evolve.Config(capture=WAITED_FOR).replace(
        plans={"cache_dir": tmp_path / "cache", "backends": ("aoti",), "precisions": ("fp32",)}
    )
    with evolve.wrap(mlp, (torch.randn(1, 8),), config=config) as runtime:
        assert runtime.wait_for_plans(60)
        assert runtime.plans() == ()
        (said,) = (d for d in runtime.decisions() if d.kind == "plan")
    assert (said.subject, said.after["state"], said.reason) == ("aoti", "left out", "no g++")


def test_only_the_plans_named_are_built(mlp: torch.nn.Module, built: Path) -> None:
    config = evolve.Config(capture=WAITED_FOR).replace(
        plans={"cache_dir": built, "backends": ("eager", "onnxruntime")}
    )
    example = (torch.randn(1, 8),)
    with evolve.wrap(mlp, example, config=config) as runtime:
        assert runtime.wait_for_plans(120)
        keys = [plan.key for plan in runtime.plans()]
    assert len(keys) > 1
    config = config.replace(plans={"only": (keys[1], "fused-fp32-t1-nowhere")})
    with evolve.wrap(mlp, example, config=config) as runtime:
        assert runtime.wait_for_plans(120)
        assert [plan.key for plan in runtime.plans()] == [keys[1]]
        (said,) = (d for d in runtime.decisions() if d.after.get("state") == "left out")
        assert (said.subject, "plans.only" in said.reason) == ("fused-fp32-t1-nowhere", True)


@pytest.mark.skipif(onednn.unavailable() is not None, reason="needs oneDNN")
@pytest.mark.parametrize("search", [True, False])
def test_a_search_follows_the_builds_and_is_said(
    mlp: torch.nn.Module, built: Path, search: bool
) -> None:
    config = evolve.Config(capture=WAITED_FOR).replace(
        plans={
            "cache_dir": built,
            "backends": ("fused",),
            "search": search,
            "precisions": ("fp32",),
        }
    )
    with evolve.wrap(mlp, (torch.randn(1, 8),), config=config) as runtime:
        assert runtime.wait_for_plans(120)
        said = [d for d in runtime.decisions() if d.subject == "fused"]
        assert [d.after["state"] for d in said] == (["searched"] if search else [])
        assert any(plan.spec.backend == "fused" for plan in runtime.plans())


def test_a_search_that_fails_stops_nothing(
    mlp: torch.nn.Module, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **options: object) -> None:
        raise BuildFailed("it crashed with SIGSEGV")

    monkeypatch.setattr("evolve.control_plane.plan_builder.find_fusions", fails)
    config = evolve.Config(capture=WAITED_FOR).replace(
        plans={
            "cache_dir": built,
            "backends": ("fused",),
            "precisions": ("fp32",),
            "search": True,
        }
    )
    with evolve.wrap(mlp, (torch.randn(1, 8),), config=config) as runtime:
        assert runtime.wait_for_plans(120)
        (said,) = (d for d in runtime.decisions() if d.subject == "fused")
        assert (said.after["state"], said.reason) == ("not searched", "it crashed with SIGSEGV")
        assert torch.allclose(runtime(torch.ones(1, 8)), mlp(torch.ones(1, 8)), atol=1e-5)


@pytest.mark.skipif(onednn.unavailable() is not None, reason="needs oneDNN")
def test_what_only_improves_waits_for_idle_moments(
    mlp: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = threading.Event()
    find = plan_builder.find_fusions

    def found(*args: object, **options: object) -> object:
        began.set()
        return find(*args, **options)

    monkeypatch.setattr("evolve.control_plane.plan_builder.find_fusions", found)
    config = evolve.Config(capture=WAITED_FOR).replace(
        plans={
            "cache_dir": tmp_path / "cache", "backends": ("fused",), "precisions": ("fp32",),
            "search": True,
        },
        workers={"kind": "process", "count": 1},
    )  # fmt: skip
    with evolve.wrap(mlp, (torch.randn(1, 8),), config=config) as runtime:
        lane = None
        while lane is None:  # as a caller in process would: a request is being served
            lane = runtime.parts.serving.scheduler.claim()
        assert runtime.parts.pauses.is_held
        assert began.wait(120), "the usual plans are built while requests are served"
        assert eventually(_is_a_build_stopped), "once it has begun"
        runtime.parts.serving.scheduler.release(lane)
        assert runtime.wait_for_plans(120), "the search goes on by itself"
        assert any(d.after.get("state") == "searched" for d in runtime.decisions())


def test_close_plans_are_compared_and_what_that_found_decides(
    mlp: torch.nn.Module, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped(cache: object, folder: object, plans: Sequence[Plan], *_: object,
                **__: object) -> list[Plan]:  # fmt: skip
        first, second = plans
        prices = second.costs_ms, dict.fromkeys(second.costs_ms, 0.001)
        return [replace(p, costs_ms=ms) for p, ms in zip((first, second), prices, strict=True)]

    monkeypatch.setattr("evolve.control_plane.plan_builder.compare_plans", swapped)
    config = evolve.Config(capture=WAITED_FOR).replace(
        plans={
            "cache_dir": built, "backends": ("eager", "onnxruntime"),
            "precisions": ("fp32",), "search": False,
        }
    )  # fmt: skip
    with evolve.wrap(mlp, (torch.randn(1, 8),), config=config) as runtime:
        assert runtime.wait_for_plans(120)
        said = [d for d in runtime.decisions() if d.after.get("state") == "compared"]
        assert [d.reason[:20] for d in said] == ["2 of 2 were close in"]
        winner = runtime.plans()[1]
        assert runtime.parts.pool.held() == {winner.key}
        shape = next(iter(winner.costs_ms))
        assert winner.costs_ms[shape] == 1e-3
        assert torch.allclose(runtime(torch.ones(1, 8)), mlp(torch.ones(1, 8)), atol=1e-5)


def test_a_comparison_that_fails_stops_nothing(
    mlp: torch.nn.Module, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **options: object) -> None:
        raise BuildFailed("it crashed with SIGSEGV")

    monkeypatch.setattr("evolve.control_plane.plan_builder.compare_plans", fails)
    config = evolve.Config(capture=WAITED_FOR).replace(
        plans={"cache_dir": built, "backends": ("eager", "onnxruntime"),
               "precisions": ("fp32",), "search": False},
    )  # fmt: skip
    with evolve.wrap(mlp, (torch.randn(1, 8),), config=config) as runtime:
        assert runtime.wait_for_plans(120)
        (said,) = (d for d in runtime.decisions() if d.after.get("state") == "not compared")
        assert said.reason == "it crashed with SIGSEGV"
        assert len(runtime.plans()) == 2


def _is_a_build_stopped() -> bool:
    return any(
        child.status() == psutil.STATUS_STOPPED and child.name() == "build_job"
        for child in psutil.Process().children(recursive=True)
    )


def test_without_any_folder_the_model_is_served_and_why_nothing_is_built_is_said(
    mlp: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = StorageFolder(None, "every disk is read-only")
    monkeypatch.setattr(plan_builder, "storage_folder", lambda: nowhere)
    with evolve.wrap(mlp, (torch.randn(1, 8),)) as runtime:
        assert runtime.wait_for_plans(60)
        x = torch.randn(2, 8)
        assert torch.equal(runtime(x), mlp(x))
        reasons = [d.reason for d in runtime.decisions(100)]
    assert any("every disk is read-only; name a folder by plans.cache_dir" in r for r in reasons)


@pytest.mark.parametrize("has_room", [True, False])
def test_two_plans_are_built_at_a_time_where_there_is_room(
    mlp: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_room: bool
) -> None:
    built: list[str] = []
    running, most, lock, both = [0], [0], threading.Lock(), threading.Barrier(2)

    def build(cache: object, folder: object, spec: PlanSpec, limits: BuildLimits, *_: object,
              pauses: Pauses | None, **options: object) -> Plan:  # fmt: skip
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            first = len(built) < 2
            built.append(spec.key)
        if has_room and first:
            both.wait(60)  # nobody is alone
        with lock:
            running[0] -= 1
        return failed(spec, limits.limit, "none of this is real")

    monkeypatch.setattr("evolve.control_plane.plan_builder.build_plan", build)
    monkeypatch.setattr("evolve.lifecycle.assembly._has_room", lambda model, device: has_room)
    config = evolve.Config(capture=WAITED_FOR).replace(
        plans={"cache_dir": tmp_path / "cache", "search": False}, workers={"kind": "process"}
    )
    with evolve.wrap(mlp, (torch.randn(1, 8),), config=config) as runtime:
        assert runtime.wait_for_plans(100)
        known = [plan.key for plan in runtime.plans()]
        assert runtime.progress.done == len(known)
    assert sorted(built) == sorted(known)
    assert len(set(built)) == len(built) > 3
    assert most == [2 if has_room else 1]


def test_the_second_build_stands_still_while_serving_and_never_at_the_end(
    mlp: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    others_done = threading.Event()

    def build(cache: object, folder: object, spec: PlanSpec, limits: BuildLimits, *_: object,
              pauses: Pauses | None, **options: object) -> Plan:  # fmt: skip
        if pauses is None:
            others_done.wait(60)
        else:
            runtime_is_busy.wait(60)
            held.append(pauses.is_held)
            others_done.set()
            assert eventually(lambda: pauses.resume() or not pauses.is_held)
            held.append(pauses.is_held)
        return failed(spec, limits.limit, "none of this is real")

    runtime_is_busy = threading.Event()
    monkeypatch.setattr("evolve.control_plane.plan_builder.build_plan", build)
    monkeypatch.setattr("evolve.lifecycle.assembly._has_room", lambda model, device: True)
    config = evolve.Config(capture=WAITED_FOR).replace(
        plans={"cache_dir": tmp_path / "cache", "search": False}, workers={"kind": "process"}
    )
    with evolve.wrap(mlp, (torch.randn(1, 8),), config=config) as runtime:
        runtime.parts.pauses.hold("serving")  # as while requests are answered, which go on
        runtime_is_busy.set()
        assert runtime.wait_for_plans(100)
    assert held[:2] == [True, False]


@pytest.mark.parametrize(
    ("changes", "weights", "room"),
    [
        ({}, 1 << 20, True),
        ({"cores": 1}, 1 << 20, False),
        ({"kind": "nvidia"}, 1 << 20, False),
        ({"memory_bytes": 4 << 30}, 1 << 20, False),  # a container's limit
        ({}, 4 << 30, False),
    ],
)
def test_there_is_room_for_two_builds_where_cores_and_memory_allow_it(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], weights: int, room: bool
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=16 << 30))
    device = replace(host_database().fingerprints()[0], kind="cpu", cores=2, memory_bytes=16 << 30)
    with torch.device("meta"):
        model = torch.nn.Linear(weights // 4, 1, bias=False)
    assert _has_room(model, replace(device, **changes)) is room
