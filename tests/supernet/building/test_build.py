"""A build may fail in any way it likes: the plan is quarantined, and nobody else notices."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from supernet.backends import base
from supernet.backends.eager import load_program, save_program
from supernet.building.build import BuildLimits, build_plan, known_plans
from supernet.cache import ArtifactCache
from supernet.capture.stored import StoredCapture, find, store
from supernet.capture.subject import capture
from supernet.errors import BuildFailed, BuildInterrupted, CacheFull
from supernet.plans import Plan, PlanSpec, PlanState
from tests.supernet.building import doubles
from tests.supernet.models import noise

TABLE = {
    cls.__name__: f"tests.supernet.building.doubles:{cls.__name__}"
    for cls in vars(doubles).values()
    if isinstance(cls, type) and issubclass(cls, doubles.Doubling)
}
LIMITS = BuildLimits(budget_s=60, measure_s=0.2)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A cache that holds the capture of a model that doubles, and the capture's folder."""
    model = nn.Linear(8, 8, bias=False).eval()
    with torch.no_grad():
        model.weight.copy_(2 * torch.eye(8))
    cache = ArtifactCache(tmp_path_factory.mktemp("build") / "cache")
    return cache.root, store(cache, capture(model, (noise(1, 8),), max_rows=4))


@pytest.fixture
def cache(stored: tuple[Path, Path], tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache")


Build = Callable[..., Plan]


@pytest.fixture
def build(cache: ArtifactCache, stored: tuple[Path, Path], tmp_path: Path,
          monkeypatch: pytest.MonkeyPatch) -> Build:  # fmt: skip
    monkeypatch.setenv("DOUBLES_PLACE", str(tmp_path))

    def run(name: str, limits: BuildLimits = LIMITS, **kwargs: object) -> Plan:
        return build_plan(cache, stored[1], spec(name), limits, table=TABLE, **kwargs)  # type: ignore[arg-type]

    return run


def spec(name: str) -> PlanSpec:
    return PlanSpec("ab" * 32, name, "fp32", 1, "cd" * 32, "2", "1", "x86_64")


def leftovers(cache: ArtifactCache) -> list[Path]:
    return [*cache.root.glob(".tmp*"), *(cache.root / "plans").glob("*")]


def test_a_good_plan_is_admitted_with_its_evidence(
    build: Build, cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, float]] = []
    plan = build("Doubling", on_progress=lambda stage, share: told.append((stage, share)))
    assert (plan.state, plan.error) == (PlanState.VERIFIED, 0.0)
    assert plan.reason == "relative_l2 error 0 is within the limit 0.005"
    assert {(shape.rows, shape.length) for shape in plan.costs_ms} == {(1, 1), (2, 1), (4, 1)}
    assert all(cost > 0 for cost in plan.costs_ms.values())
    assert plan.artifact == cache.entry("plans", plan.spec.artifact_key)
    assert plan.artifact is not None
    assert int((plan.artifact / "niceness").read_text()) >= 10
    stages = list(dict.fromkeys(stage for stage, _ in told))
    assert stages == ["building", "loading", "verifying", "measuring"]
    assert all(0 <= share <= 1 for _, share in told)
    assert told[-1] == ("measuring", 1.0)
    assert not list(cache.root.glob(".tmp*"))

    monkeypatch.setattr("supernet.building.build.run_job", None)  # a second start must not need it
    assert build("Doubling") == plan
    assert known_plans(cache, LIMITS) == (plan,)


def test_measurements_of_another_device_do_not_count(build: Build) -> None:
    build("Doubling", device="here")
    told: list[str] = []
    plan = build("Doubling", device="there", on_progress=lambda stage, _: told.append(stage))
    assert plan.state is PlanState.VERIFIED
    assert "measuring" in told
    assert "building" not in told  # the files serve there, too


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Miscompiling", r"relative_l2 error 0\.0\d+ is over the limit 0\.005"),
        ("Overwriting", r"relative_l2 error \S+ is over the limit 0\.005"),
        ("NotANumber", "relative_l2 error inf is over"),
        ("OtherDtype", "relative_l2 error inf is over"),
        ("Raising", r"it cannot run 1 × 1: RuntimeError: no kernel for this shape$"),
        ("Segfaulting", "it crashed with SIGSEGV"),
        ("SegfaultingRun", "it crashed with SIGSEGV"),
        ("Refusing", "^nothing to quantise$"),
    ],
)
def test_a_bad_plan_is_quarantined_for_good(
    build: Build, cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:

    plan = build(name)
    assert plan.state is PlanState.QUARANTINED
    assert re.search(reason, plan.reason), plan.reason
    assert (plan.artifact, dict(plan.costs_ms)) == (None, {})
    assert leftovers(cache) == []
    monkeypatch.setattr("supernet.building.build.run_job", None)
    again = build(name)
    assert (again.state, again.reason) == (plan.state, plan.reason)


def test_an_engines_own_mistake_is_tried_once_more_at_the_next_start(
    build: Build, cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build("Broken")
    assert first.state is PlanState.QUARANTINED
    assert first.reason == 'KeyError: "an engine\'s own mistake"'
    told: list[str] = []
    build("Broken", on_progress=lambda stage, _: told.append(stage))
    assert told == ["building"]
    with monkeypatch.context() as patch:
        patch.setattr(
            "supernet.building.build.run_job", None
        )  # the same twice: it would be so again
        assert build("Broken") == first
    assert known_plans(cache, LIMITS) == ()
    monkeypatch.setattr("supernet.building.mistakes.version", lambda package: "another")
    build("Broken", on_progress=lambda stage, _: told.append(stage))
    assert told == ["building", "building"], "what takes part in it is another"


def test_mistakes_that_differ_are_tried_on(build: Build, tmp_path: Path) -> None:
    told: list[str] = []
    for number in range(3):
        (tmp_path / "words").write_text(f"attempt {number}")
        plan = build("Babbling", on_progress=lambda stage, _: told.append(stage))
        assert plan.reason == f"ValueError: attempt {number}"
    assert len(told) == 3


def test_a_looser_limit_builds_again_what_a_tighter_one_refused(build: Build) -> None:
    assert build("Miscompiling").state is PlanState.QUARANTINED
    assert build("Miscompiling", replace(LIMITS, max_error=0.1)).state is PlanState.VERIFIED
    assert build("Miscompiling").state is PlanState.QUARANTINED


def test_other_metrics_judge_otherwise(build: Build) -> None:
    assert build("Miscompiling", replace(LIMITS, metric="cosine")).state is PlanState.VERIFIED
    assert build("NotANumber", replace(LIMITS, metric="top1")).state is PlanState.QUARANTINED


def test_a_killed_build_is_tried_once_more(build: Build, tmp_path: Path) -> None:
    (tmp_path / "kills").write_text("1")
    assert build("Killed").state is PlanState.VERIFIED


def test_a_build_killed_twice_is_quarantined_but_not_for_ever(
    build: Build, cache: ArtifactCache, tmp_path: Path
) -> None:
    (tmp_path / "kills").write_text("2")
    plan = build("Killed")
    assert plan.state is PlanState.QUARANTINED
    assert plan.reason == "its process was killed (SIGKILL), 2 times (out of memory?)"
    assert leftovers(cache) == []
    assert build("Killed").state is PlanState.VERIFIED


def test_a_build_that_hangs_is_ended_with_all_it_started(
    build: Build, cache: ArtifactCache, tmp_path: Path
) -> None:
    plan = build("Hanging", replace(LIMITS, budget_s=3.0))
    assert plan.state is PlanState.QUARANTINED
    assert plan.reason == "it took longer than 3 s"
    assert leftovers(cache) == []
    for pid in (tmp_path / "pids").read_text().split():
        assert _gone(int(pid))


def test_a_cancelled_build_ends_at_once(build: Build, cache: ArtifactCache, tmp_path: Path) -> None:
    with pytest.raises(BuildInterrupted, match="cancelled"):
        build("Hanging", cancelled=(tmp_path / "pids").exists)
    for pid in (tmp_path / "pids").read_text().split():
        assert _gone(int(pid))
    assert leftovers(cache) == []


def test_too_little_memory_is_not_the_plans_fault(build: Build, cache: ArtifactCache) -> None:
    for _ in range(2):
        told: list[str] = []
        plan = build("Starving", on_progress=lambda stage, _, told=told: told.append(stage))
        assert plan.state is PlanState.QUARANTINED
        assert plan.reason.startswith("RuntimeError: DefaultCPUAllocator: can't allocate memory")
        assert "verifying" in told, "it is tried again at every start"
    assert known_plans(cache, LIMITS) == ()


def test_a_full_disk_is_not_the_plans_fault(build: Build, cache: ArtifactCache) -> None:
    with pytest.raises(CacheFull, match="no room left for"):
        build("Filling")
    assert leftovers(cache) == []
    assert known_plans(cache, LIMITS) == ()


def test_a_higher_limit_times_again_and_a_lower_one_does_not(build: Build) -> None:
    short = build("Doubling", replace(LIMITS, up_to_ms=1e-9))
    assert len(short.costs_ms) == 1, "the first shape alone: it was over"
    told: list[str] = []
    longer = build("Doubling", LIMITS, on_progress=lambda stage, _: told.append(stage))
    assert len(longer.costs_ms) == 3
    assert "measuring" in told
    assert "building" not in told
    told.clear()
    again = build("Doubling", replace(LIMITS, up_to_ms=1.0), on_progress=lambda *a: told.append(""))
    assert again.costs_ms == longer.costs_ms
    assert not told


class Clipped(nn.Module):
    """Doubles, but for a narrow band that neither small examples nor invented extremes meet."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where((x > 100) & (x < 140), -x, 2 * x)


def stored_examples(cache: ArtifactCache, *examples: Tensor, max_rows: int = 4) -> Path:
    return store(cache, capture(Clipped(), [(x,) for x in examples], max_rows=max_rows))


SMALL, LARGE = torch.linspace(-1, 1, 8)[None], torch.linspace(-1, 120, 8)[None]


def test_a_verdict_holds_for_the_examples_it_was_reached_on(
    cache: ArtifactCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOUBLES_PLACE", str(tmp_path))
    few = build_plan(cache, stored_examples(cache, SMALL), spec("Doubling"), LIMITS, table=TABLE)
    assert (few.state, few.error) == (PlanState.VERIFIED, 0.0)
    told: list[str] = []
    wider = build_plan(
        cache, stored_examples(cache, LARGE), spec("Doubling"), LIMITS,
        lambda stage, _: told.append(stage), table=TABLE,
    )  # fmt: skip
    assert "verifying" in told
    assert "building" not in told, "the files are the same"
    assert "measuring" not in told, "nor do other numbers take other time"
    assert wider.state is PlanState.QUARANTINED
    assert wider.error is not None
    assert wider.error > 1.0, "it answers 2x where the model answers -x"
    monkeypatch.setattr("supernet.building.build.run_job", None)  # what failed once, failed
    again = build_plan(cache, stored_examples(cache, SMALL), spec("Doubling"), LIMITS, table=TABLE)
    assert (again.state, again.reason) == (wider.state, wider.reason)


def test_every_set_of_examples_is_judged_once(
    cache: ArtifactCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOUBLES_PLACE", str(tmp_path))
    folders = [stored_examples(cache, SMALL), stored_examples(cache, 50 * SMALL)]
    assert folders[0] != folders[1]
    assert len(list((cache.root / "captures").iterdir())) == 1, "one program"
    plans = [build_plan(cache, one, spec("Doubling"), LIMITS, table=TABLE) for one in folders]
    assert [plan.state for plan in plans] == 2 * [PlanState.VERIFIED]
    assert plans[0].costs_ms == plans[1].costs_ms
    monkeypatch.setattr("supernet.building.build.run_job", None)
    assert folders == [stored_examples(cache, SMALL), stored_examples(cache, 50 * SMALL)]
    again = [build_plan(cache, one, spec("Doubling"), LIMITS, table=TABLE) for one in folders]
    assert again == [plans[1], plans[1]]


def test_of_the_examples_of_a_graph_those_of_late_are_kept(
    cache: ArtifactCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOUBLES_PLACE", str(tmp_path))
    learned = capture(Clipped(), (SMALL,), max_rows=4)
    first = store(cache, learned)
    plan = build_plan(cache, first, spec("Doubling"), LIMITS, table=TABLE)
    later = ArtifactCache(cache.root)
    others = [store(later, capture(Clipped(), (n * SMALL,), max_rows=4)) for n in range(2, 12)]
    assert set((cache.root / "references").iterdir()) == {first, *others}, "all are in use"
    del later
    last = stored_examples(ArtifactCache(cache.root), 20 * SMALL)
    left = set((cache.root / "references").iterdir())
    assert left == {first, *others[-7:], last}, "eight, and what is in use"

    again = ArtifactCache(cache.root)
    shutil.rmtree(first)
    assert store(again, learned) == first
    with monkeypatch.context() as patch:
        patch.setattr("supernet.building.build.run_job", None)  # it was judged on the very same
        assert build_plan(again, first, spec("Doubling"), LIMITS, table=TABLE) == plan

    shutil.rmtree(first)
    opposite = tuple(replace(r, outputs=(-r.outputs[0],)) for r in learned.references)
    assert store(again, replace(learned, references=opposite)) == first
    judged = build_plan(again, first, spec("Doubling"), LIMITS, table=TABLE)
    assert judged.state is PlanState.QUARANTINED, "to the same inputs the model says otherwise now"


def test_a_larger_grid_is_timed_and_a_smaller_one_is_known(
    cache: ArtifactCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOUBLES_PLACE", str(tmp_path))

    def build(max_rows: int) -> set[int]:
        folder = stored_examples(cache, SMALL, max_rows=max_rows)
        costs = build_plan(cache, folder, spec("Doubling"), LIMITS, table=TABLE).costs_ms
        return {shape.rows for shape in costs}

    assert build(2) == {1, 2}
    assert build(8) == {1, 2, 4, 8}
    assert build(2) == {1, 2, 4, 8}
    monkeypatch.setattr("supernet.building.build.run_job", None)
    assert build(8) == build(2) == {1, 2, 4, 8}


def test_other_answers_to_the_same_examples_are_another_capture(cache: ArtifactCache) -> None:
    learned = capture(Clipped(), (LARGE,), max_rows=4)
    folder = store(cache, learned)
    off = replace(
        learned,
        references=tuple(
            replace(one, outputs=tuple(-answer for answer in one.outputs))
            for one in learned.references
        ),
    )
    noisy = replace(
        learned,
        references=tuple(
            replace(one, outputs=tuple(answer * (1 + 1e-7) for answer in one.outputs))
            for one in learned.references
        ),
    )
    assert find(cache, off) is None
    other = store(cache, off)
    assert other != folder
    assert (find(cache, off), find(cache, learned), find(cache, noisy)) == (other, folder, folder)
    told = StoredCapture.read(other).batches("torch")
    assert torch.equal(told[0].outputs[0], -learned.references[0].outputs[0])


def test_a_mix_is_chosen_again_where_other_examples_go_over_the_limit(
    cache: ArtifactCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOUBLES_PLACE", str(tmp_path))
    mix = replace(spec("Fitting"), precision="mixed", limit="relative_l2<=0.005")
    for examples in (SMALL, 50 * SMALL):
        told: list[str] = []
        plan = build_plan(
            cache, stored_examples(cache, examples), mix, LIMITS,
            lambda stage, _, told=told: told.append(stage), table=TABLE,
        )  # fmt: skip
        assert plan.state is PlanState.VERIFIED, plan.reason
        assert "building" in told


def test_a_damaged_artifact_is_built_again(build: Build, cache: ArtifactCache) -> None:
    plan = build("Doubling")
    assert plan.artifact is not None
    (plan.artifact / "niceness").write_text("")
    told: list[str] = []
    again = build("Doubling", on_progress=lambda stage, _: told.append(stage))
    assert again.state is PlanState.VERIFIED
    assert "building" in told


def test_the_build_process_ends_with_its_parent(
    cache: ArtifactCache, stored: tuple[Path, Path], tmp_path: Path
) -> None:
    request = {
        "step": "build", "cache": str(cache.root), "capture": str(stored[1]),
        "spec": spec("Hanging").to_json(), "table": TABLE,
        "measure_s": 1.0, "up_to_ms": 10.0, "metric": "relative_l2", "max_error": 0.005,
    }  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps({"request": request, "keep": None}))
    root = Path(base.__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-m", "supernet.building.build_job", str(tmp_path / "job.json")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(root), "DOUBLES_PLACE": str(tmp_path)},
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        started = threading.Event()
        while not started.is_set():
            started.wait(0.05)
            if (tmp_path / "pids").exists() or process.poll() is not None:
                started.set()
        process.stdin.close()  # what the parent's death does
        assert process.wait(timeout=30) == -signal.SIGKILL
    for pid in (tmp_path / "pids").read_text().split():
        assert _gone(int(pid))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"metric": "l3"}, "metric must be one of"),
        ({"budget_s": 0.0}, "budget_s must be positive, got 0.0"),
        ({"max_error": -1.0}, "max_error must be at least 0, got -1.0"),
        ({"max_error": float("nan")}, "max_error must be at least 0, got nan"),
    ],
)
def test_limits_are_checked(change: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        BuildLimits(**change)  # type: ignore[arg-type]


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match=r"backend must be one of \['aoti', 'eager'.*got 'tvm'"):
        base.backend("tvm")


def _gone(pid: int) -> bool:
    """Whether the process has ended (one that only waits to be reaped has)."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        threading.Event().wait(0.05)
    return False


@pytest.mark.parametrize(
    "wrong",
    [
        {"errors": {}}, {"errors": [1, 2]}, {"costs_ms": [[1]]}, {"costs_ms": [["a", 1, 1.0]]},
        {"memory_mib": None}, {"microbatches": {"parts": 3}}, {"rows": {"leaves": 7}},
        {"spec": {}}, {"failure": ["a", "list"]}, {"shapes": [[1, 2, 3]]},
    ],
)  # fmt: skip
def test_a_report_that_says_something_else_is_as_good_as_none(
    build: Build, cache: ArtifactCache, wrong: dict[str, Any]
) -> None:
    plan = build("Doubling")
    (path,) = (cache.root / "reports").glob("Doubling*.json")
    report = cache.report(path.stem)
    assert report is not None
    cache.put_report(path.stem, report | wrong)
    assert known_plans(cache, LIMITS) == ()
    assert build("Doubling").state is plan.state
    assert len(known_plans(cache, LIMITS)) == 1


def test_a_program_that_needs_unpickling_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "program.pt2"
    learned = capture(Clipped(), (LARGE,), max_rows=4)
    assert learned.program is not None
    save_program(learned.program, path)
    load_program(path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    pickled = b'{"config": {"weight": {"path_name": "weight_0", "use_pickle": true}}}'
    changes: list[dict[str, bytes | None]] = [
        {"program/data/weights/model_weights_config.json": pickled},
        {"program/data/constants/model_constants_config.json": pickled},
        {"program/data/weights/model.pt": b"a pickle"},
        {"program/archive_format": None, "version": b"8.14"},
    ]
    for change in changes:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in {**files, **change}.items():
                if content is not None:
                    archive.writestr(name, content)
        with pytest.raises(BuildFailed, match=r"pickle|PT2 archive of this version"):
            load_program(path)
    path.write_bytes(b"no archive")
    with pytest.raises(BuildFailed, match="damaged"):
        load_program(path)
