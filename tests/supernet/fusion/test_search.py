"""The search for fusions: what is tried, what goes on, what is kept."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.shapes import Shape
from supernet.building.build import BuildLimits, build_plan, find_fusions
from supernet.cache import ArtifactCache
from supernet.capture.stored import store
from supernet.capture.subject import Capture, capture
from supernet.errors import BuildFailed
from supernet.fusion.graph.op_graph import OpGraph
from supernet.fusion.kernels import onednn
from supernet.fusion.lowering.lowering import functional, lower
from supernet.fusion.search import NOISE, MeasuredVariant, candidates, halve, pareto, subsets
from supernet.plans import PlanState
from supernet.proposals import FUSION
from tests.supernet.contract import make_spec
from tests.supernet.models import noise, seeded

SMALL, LARGE = Shape(1, 8), Shape(4, 8)


class Clock:
    """Time that passes only when somebody works."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def work(self, ms: float) -> Callable[[], None]:
        noisy = random.Random(ms)

        def run() -> None:
            self.now_s += ms * noisy.uniform(0.99, 1.01) / 1e3

        return run


def race(costs: dict[str, dict[Shape, float]], budget_s: float = 60.0) -> dict[str, list[Shape]]:
    clock = Clock()
    runs = {n: {s: clock.work(ms) for s, ms in shapes.items()} for n, shapes in costs.items()}
    found = halve(runs, budget_s=budget_s, clock=clock)
    return {name: list(ms) for name, ms in found.items()}


def test_whoever_is_fastest_somewhere_goes_on() -> None:
    costs = {
        "small": {SMALL: 1.0, LARGE: 9.0},
        "large": {SMALL: 2.0, LARGE: 5.0},
        **{f"slow {i}": {SMALL: 2.0 + i, LARGE: 9.0 + i} for i in range(6)},
    }
    left = race(costs)
    assert {"small", "large"} <= set(left)
    assert len(left) <= 3


def test_equals_are_not_told_apart_by_noise() -> None:
    assert set(race({name: {SMALL: 1.0} for name in "abc"})) == set("abc")


def test_a_budget_leaves_out_the_costly_shapes() -> None:
    costs = {name: {SMALL: 1.0, LARGE: 5000.0} for name in "ab"}
    assert race(costs, budget_s=0.001) == {"a": [SMALL], "b": [SMALL]}


times = st.fixed_dictionaries({SMALL: st.floats(1.0, 2.0), LARGE: st.floats(1.0, 2.0)})
found = st.lists(
    st.builds(
        MeasuredVariant, st.just(""), times, st.integers(1, 3), st.sampled_from([0.0, 0.001, 0.01])
    ),
    min_size=1,
)


@given(found)
def test_what_is_kept_is_beaten_by_nothing_and_beats_the_rest(tried: list[MeasuredVariant]) -> None:
    named = [replace(one, name=str(i)) for i, one in enumerate(tried)]
    kept = pareto(named)
    assert kept

    def as_good(a: MeasuredVariant, b: MeasuredVariant, slack: float) -> bool:
        fast = all(a.costs_ms[s] <= (1 + slack) * b.costs_ms[s] for s in b.costs_ms)
        return fast and a.memory_bytes <= b.memory_bytes and a.error <= b.error

    for one in named:
        if one in kept:
            assert not any(as_good(k, one, -NOISE) for k in kept if k is not one)
        else:
            assert any(as_good(other, one, NOISE) for other in named if other is not one)


def test_every_choice_of_rules_is_tried() -> None:
    assert list(subsets(("a", "b"))) == [("a", "b"), ("a",), ("b",), ()]


@pytest.mark.skipif(onednn.unavailable() is not None, reason="needs oneDNN")
def test_candidates_differ_in_what_they_run(block: Capture) -> None:
    program = functional(block.program)
    graph = OpGraph.of(program, block.signature, Shape(2, 1))
    ways = candidates(program, graph, FUSION, ("qkv", "activation", "residual", "conv"))
    kernels = [frozenset(lower(program, way.regions).kernels) for way in ways]
    assert len(set(kernels)) == len(ways) == 4  # q/k/v merged or not, the GELU fused or not
    assert ways[0].rules == FUSION
    moved = [way.bytes_moved for way in ways]
    assert moved == sorted(moved)
    assert moved[0] < moved[-1]


@pytest.mark.skipif(onednn.unavailable() is not None, reason="needs oneDNN")
def test_a_search_ends_in_specs_that_can_be_built(block: Capture, tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    stored = store(cache, block)
    isa = "x86_64-avx512f-avx512_vnni-avx512_bf16"
    base = replace(make_spec(block, "fused"), fusion="+".join(FUSION), isa=isa)
    limits = BuildLimits(metric="relative_l2", max_error=0.1, measure_s=0.5)
    stages = []
    found = find_fusions(cache, stored, base, limits, lambda stage, share: stages.append(stage))
    assert stages
    assert {spec.backend for spec in found} == {"fused"}
    assert any(spec.precision == "mixed" for spec in found)
    for spec in found:
        plan = build_plan(cache, stored, spec, limits)
        assert plan.state is PlanState.VERIFIED, plan.reason
    # A second time nothing is searched.
    assert find_fusions(cache, stored, base, limits, stages.clear) == found  # type: ignore[arg-type]
    assert stages


def test_nothing_to_fuse_is_said(tmp_path: Path) -> None:
    from torch import nn

    learned = capture(seeded(lambda: nn.LayerNorm(8)), (noise(2, 8),))
    cache = ArtifactCache(tmp_path)
    base = replace(make_spec(learned, "fused"), fusion="+".join(FUSION))
    with pytest.raises(BuildFailed, match="nothing to fuse"):
        find_fusions(cache, store(cache, learned), base, BuildLimits())


@pytest.mark.skipif(onednn.unavailable() is not None, reason="needs oneDNN")
def test_a_miscompiled_fusion_is_caught_and_quarantined(block: Capture, tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    table = {"fused": "tests.supernet.fusion.miscompiling:Miscompiling"}
    spec = make_spec(block, "fused")
    plan = build_plan(cache, store(cache, block), spec, BuildLimits(measure_s=0.2), table=table)
    assert plan.state is PlanState.QUARANTINED
    assert "is over the limit 0.005" in plan.reason
    # With the fault mended the verdict stands for these weights and this recipe.
    again = build_plan(cache, store(cache, block), spec, BuildLimits(measure_s=0.2))
    assert again.state is PlanState.QUARANTINED
