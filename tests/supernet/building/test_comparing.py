"""Close plans take turns: their order is what the turns say, their level what was known before."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from profiler.shapes import Shape
from supernet.backends import base
from supernet.building.build import BuildLimits, build_plan, compare_plans, known_plans
from supernet.building.reports import report_name
from supernet.building.side_by_side import CLOSE, close_plans, compare
from supernet.cache import ArtifactCache
from supernet.capture.stored import store
from supernet.capture.subject import capture
from supernet.errors import BuildFailed
from supernet.plans import Plan, PlanSpec
from supernet.signature import Signature, TensorSpec
from tests.supernet.models import noise

ONE, TWO = Shape(1), Shape(2)
SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("rows", 8)),), (TensorSpec("y", "float32", ("rows", 8)),),
    batchable=True, paddable=False,
)  # fmt: skip
BATCH = [np.ones((1, 8), np.float32)]

names = st.sampled_from("abcde")
tables = st.dictionaries(
    names, st.dictionaries(st.sampled_from([ONE, TWO, Shape(4)]), st.floats(1.0, 3.0), min_size=1),
    min_size=1,
)  # fmt: skip


@given(tables, st.data())
def test_who_meets_is_close_and_nobody_as_accurate_is_clearly_faster(
    costs: dict[str, dict[Shape, float]], data: st.DataObject
) -> None:
    tiers = {name: data.draw(st.integers(0, 2)) for name in costs}
    contests = close_plans(costs, tiers)
    for shape, met in contests.items():
        assert len(met) > 1
        for name in met:
            mine = costs[name][shape]
            assert any(
                max(mine, costs[other][shape]) <= (1 + CLOSE) * min(mine, costs[other][shape])
                for other in met
                if other != name
            )
            rivals = [n for n in costs if shape in costs[n] and tiers[n] <= tiers[name]]
            assert mine <= (1 + CLOSE) * min(costs[n][shape] for n in rivals)


def test_shapes_come_cheapest_first_and_lone_winners_do_not_run() -> None:
    costs = {
        "fast": {ONE: 1.0, TWO: 1.0},
        "near": {ONE: 1.2, TWO: 3.0},
        "far": {ONE: 2.0, TWO: 3.1},
    }
    assert close_plans(costs, dict.fromkeys(costs, 0)) == {ONE: ("fast", "near")}
    # Where only the slower two are accurate, one of them will serve who asks for that.
    assert close_plans(costs, {"fast": 1, "near": 0, "far": 0}) == {
        ONE: ("fast", "near"),
        TWO: ("near", "far"),
    }


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Taking:
    """Takes so many milliseconds per row by the clock; ever more of them as the machine slows."""

    arrays: Literal["numpy"] = "numpy"

    def __init__(self, clock: Clock, ms: float, slower: float = 1.0) -> None:
        self.clock, self.ms, self.slower, self.runs = clock, ms, slower, 0

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        self.runs += 1
        self.clock.now_s += self.ms * len(inputs[0]) * self.slower**self.clock.now_s / 1e3
        return []

    def close(self) -> None:
        pass


def test_turns_decide_the_order_and_keep_the_level() -> None:
    clock = Clock()
    plans = {"a": Taking(clock, 30.0), "b": Taking(clock, 20.0), "c": Taking(clock, 1.0)}
    known = {"a": {ONE: 5.0, TWO: 11.0}, "b": {ONE: 6.0, TWO: 12.0}, "c": {ONE: 9.0}}
    found = compare(
        plans, dict.fromkeys(plans, BATCH), known, {ONE: ("a", "b")}, SIGNATURE,
        budget_s=1e9, clock=clock,
    )  # fmt: skip
    assert found["a"][ONE] / found["b"][ONE] == pytest.approx(1.5)
    assert math.sqrt(found["a"][ONE] * found["b"][ONE]) == pytest.approx(math.sqrt(30.0))
    assert (found["a"][TWO], found["b"][TWO], found["c"]) == (11.0, 12.0, {ONE: 9.0})
    assert plans["c"].runs == 0


def test_a_machine_that_slows_down_treats_all_alike() -> None:
    clock = Clock()
    plans = {name: Taking(clock, ms, slower=1.5) for name, ms in (("a", 30.0), ("b", 31.0))}
    known = {"a": {ONE: 31.0}, "b": {ONE: 30.0}}
    found = compare(
        plans, dict.fromkeys(plans, BATCH), known, {ONE: ("a", "b")}, SIGNATURE,
        budget_s=1e9, clock=clock,
    )  # fmt: skip
    assert found["a"][ONE] / found["b"][ONE] == pytest.approx(30 / 31, rel=0.03)


def test_shapes_beyond_the_budget_keep_what_was_known() -> None:
    clock = Clock()
    plans = {"a": Taking(clock, 100.0), "b": Taking(clock, 90.0)}
    known = {name: {ONE: 100.0, Shape(8): 800.0} for name in plans}
    found = compare(
        plans, dict.fromkeys(plans, BATCH), known,
        dict.fromkeys((ONE, Shape(8)), ("a", "b")), SIGNATURE, budget_s=2.0, clock=clock,
    )  # fmt: skip
    assert found["b"][ONE] < found["a"][ONE]
    assert found["a"][Shape(8)] == found["b"][Shape(8)] == 800.0


LIMITS = BuildLimits(budget_s=60, measure_s=1.0, compare_s=1.0)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Plan]]:
    """A cache with two plans of one model, both held for 1 ms at every shape."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8))
    learned = capture(model.eval(), (noise(1, 8),), max_rows=4)
    cache = ArtifactCache(tmp_path_factory.mktemp("comparing") / "cache")
    folder = store(cache, learned)
    key = learned.graph_hash, learned.weights_version
    specs = [
        PlanSpec(key[0], name, "fp32", 1, key[1], "2", "1", "x86_64")
        for name in ("eager", "onnxruntime")
    ]
    plans = [build_plan(cache, folder, spec, LIMITS) for spec in specs]
    alike = [[shape.rows, shape.length, 1.0] for shape in plans[0].costs_ms]
    for spec in specs:
        report = cache.report(report_name(spec, ""))
        assert report is not None
        cache.put_report(report_name(spec, ""), {**report, "costs_ms": alike})
    return cache.root, [build_plan(cache, folder, spec, LIMITS) for spec in specs]


@pytest.fixture
def cache(built: tuple[Path, list[Plan]], tmp_path: Path) -> ArtifactCache:
    shutil.copytree(built[0], tmp_path / "cache")
    return ArtifactCache(tmp_path / "cache")


def capture_in(cache: ArtifactCache) -> Path:
    (folder,) = (cache.root / "references").iterdir()
    return folder


def test_real_plans_are_compared_once_and_that_is_remembered(
    cache: ArtifactCache, built: tuple[Path, list[Plan]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plans, folder, told = built[1], capture_in(cache), list[str]()
    found = compare_plans(
        cache, folder, plans, LIMITS, on_progress=lambda stage, _: told.append(stage)
    )
    assert "comparing" in told
    for shape in plans[0].costs_ms:
        first, second = (plan.costs_ms[shape] for plan in found)
        assert first != second
        assert math.sqrt(first * second) == pytest.approx(1.0)
    for plan, before in zip(found, plans, strict=True):
        assert plan == replace(before, costs_ms=plan.costs_ms, artifact=plan.artifact)

    monkeypatch.setattr("supernet.building.build.run_job", None)  # not again
    assert compare_plans(cache, folder, plans, LIMITS) == found
    assert set(map(str, known_plans(cache, LIMITS))) == set(map(str, found))
    assert [build_plan(cache, folder, plan.spec, LIMITS) for plan in plans] == list(found)


def test_one_plan_has_nobody_to_meet(
    cache: ArtifactCache, built: tuple[Path, list[Plan]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supernet.building.build.run_job", None)
    (plan,) = compare_plans(cache, capture_in(cache), built[1][:1], LIMITS)
    assert plan.costs_ms == built[1][0].costs_ms


def test_an_engine_that_fails_leaves_everything_as_it_was(
    cache: ArtifactCache, built: tuple[Path, list[Plan]]
) -> None:
    before = known_plans(cache, LIMITS)
    broken = {**base.BACKENDS, "eager": "tests.supernet.building.doubles:SegfaultingRun"}
    with pytest.raises(BuildFailed, match="SIGSEGV"):
        compare_plans(cache, capture_in(cache), built[1], LIMITS, table=broken)
    assert known_plans(cache, LIMITS) == before
