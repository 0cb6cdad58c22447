"""A model that calls a library's own operators gets plans: each process imports the library."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from evolve.workers.process import ProcessWorker
from supernet.building.build import BuildLimits, build_plan
from supernet.cache import ArtifactCache
from supernet.capture.stored import store
from supernet.capture.subject import capture
from supernet.operators import custom_operators
from supernet.plans import PlanState
from tests.supernet.contract import make_spec
from tests.supernet.models import noise

SOURCE = """
import torch

@torch.library.custom_op("evolve_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2

@twice.register_fake
def _(x):
    return torch.empty_like(x)

LIBRARY = torch.library.Library("evolve_tests_old", "DEF")
LIBRARY.define("thrice(Tensor x) -> Tensor")
torch.library.impl(LIBRARY, "thrice", "CompositeExplicitAutograd")(lambda x: x * 3)
torch.library.register_fake("evolve_tests_old::thrice")(lambda x: torch.empty_like(x))
"""
LIMITS = BuildLimits(budget_s=100, measure_s=0.2)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """A module that defines two operators, one in the older way."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "operators_of_a_test.py").write_text(SOURCE)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("operators_of_a_test")
    sys.path.remove(str(folder))


class Six(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.evolve_tests_old.thrice(torch.ops.evolve_tests.twice(x))  # type: ignore[no-any-return]


def test_plans_are_built_and_workers_run_them(library: ModuleType, tmp_path: Path) -> None:
    learned = capture(Six().eval(), (noise(1, 8),), max_rows=4)
    assert learned.program is not None, learned.reason
    assert custom_operators(learned.program) == {
        "evolve_tests::twice": library.__name__,
        "evolve_tests_old::thrice": library.__name__,
    }
    cache = ArtifactCache(tmp_path / "cache")
    plan = build_plan(cache, store(cache, learned), make_spec(learned, "eager"), LIMITS)
    assert (plan.state, plan.error) == (PlanState.VERIFIED, 0.0), plan.reason
    worker = ProcessWorker("w0", threads=1, hang_timeout_s=60.0)
    try:
        worker.load(plan)
        answer = worker.run(plan.key, [torch.arange(8.0)[None]])
        assert torch.equal(answer.leaves[0], 6 * torch.arange(8.0)[None])
    finally:
        worker.close()


def test_what_only_the_main_script_defines_is_told_with_a_remedy(
    library: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library.twice._init_fn, "__module__", "__main__")
    learned = capture(Six().eval(), (noise(1, 8),), max_rows=4)
    cache = ArtifactCache(tmp_path / "cache")
    spec = make_spec(learned, "eager")
    plan = build_plan(cache, store(cache, learned), spec, LIMITS)
    assert plan.state is PlanState.QUARANTINED
    assert plan.reason == (
        "it calls the operator evolve_tests::twice, which the main script defines; define it in a "
        "module of its own, which other processes can import"
    )
    assert not list(cache.reports()), "once it is a module, the plan is built"


def test_a_module_that_is_not_there_is_named(
    library: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library.twice._init_fn, "__module__", "nowhere.to_be_found")
    learned = capture(Six().eval(), (noise(1, 8),), max_rows=4)
    cache = ArtifactCache(tmp_path / "cache")
    plan = build_plan(cache, store(cache, learned), make_spec(learned, "eager"), LIMITS)
    assert "of the module nowhere.to_be_found, which cannot be imported" in plan.reason


def test_torchs_own_operators_need_nobody() -> None:
    learned = capture(nn.Sequential(nn.Linear(8, 4), nn.GELU()).eval(), (noise(1, 8),))
    assert learned.program is not None
    assert custom_operators(learned.program) == {}
