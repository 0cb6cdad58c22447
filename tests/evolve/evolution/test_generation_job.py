"""Generations of a model of two layers, as jobs in processes of their own."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from evolve.evolution.generation_job import GenerationRequest, limit_s, work
from sims.traces import poisson
from sims.twin import Measured, Twin
from supernet.cache import ArtifactCache
from supernet.capture.stored import store
from supernet.capture.subject import capture
from supernet.elastic.derived import derive
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.trained import name_of
from supernet.jobs.errors import JobCancelled, JobRefused
from supernet.jobs.process import Terms, run_job
from tests.evolve.tiered import EXAMPLES, two_layers


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> GenerationRequest:
    """Of a stored capture, with 400 inputs and a twin whose traffic is too much for the model."""
    folder = tmp_path_factory.mktemp("generations")
    learned = capture(two_layers(), EXAMPLES)
    references = store(ArtifactCache(folder / "cache"), learned)
    save_file(inputs(torch.randn(400, 8).clamp(-2, 2)), folder / "inputs.safetensors")
    for name in ("out", "twin"):
        (folder / name).mkdir()
    busy_twin().save(folder / "twin")
    return GenerationRequest(
        cache=str(folder / "cache"), graph_hash=learned.graph_hash, references=str(references),
        inputs=str(folder / "inputs.safetensors"), state=str(folder / "state"),
        out=str(folder / "out"), twin=str(folder / "twin"), like=("", "", 0), agreement="cosine",
        min_quality=0.9, most_tiers=2, budget_s=8.0, seed=0,
    )  # fmt: skip


def inputs(rows: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"{i}.0": row.clone() for i, row in enumerate(rows.split(1))}


def busy_twin() -> Twin:
    """One worker that answers 200 requests a second, and is sent 260."""
    cost_ms = np.full((1, 4, 1), 5.0) * np.arange(1, 5)[None, :, None]
    measured = Measured(cost_ms, np.ones(1), 40.0, 1, np.zeros(1, np.int64), np.ones(1))
    return Twin.of(measured, poisson(260.0, 10.0, seed=0), ratios=np.ones(1))


def run(request: GenerationRequest, scratch: Path) -> dict[str, Any]:
    scratch.mkdir(exist_ok=True)
    return run_job(request, Terms(scratch, limit_s(request.budget_s)))


@pytest.fixture(scope="module")
def first(base: GenerationRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(base, tmp_path_factory.mktemp("first"))


def test_a_tier_that_is_proposed_can_be_adopted(
    base: GenerationRequest, first: dict[str, Any]
) -> None:
    assert first["generation"] == 1
    assert first["measured"] > 0
    assert first["tiers"], first["reason"]
    assert first["utility"]["with"] > first["utility"]["without"]
    for tier in first["tiers"]:
        spec, path = SubnetSpec.from_json(tier["spec"]), Path(base.out) / tier["weights"]
        assert tier["quality"] >= base.min_quality
        assert tier["speedup"] > 1.0
        assert tier["name"] == name_of(spec, path) == path.stem
    made = derive(ArtifactCache(Path(base.cache)), Path(base.references), spec, path)
    assert made.agreement["cosine"] >= base.min_quality


def test_the_front_has_the_original_and_what_it_is_compared_with(first: dict[str, Any]) -> None:
    roles = [point["role"] for point in first["front"]]
    assert roles.count("original") == 1
    assert roles.count("tier") == len(first["tiers"])
    assert {"front", "uniform"} <= set(roles)
    assert any("left out" in point["describe"] for point in first["front"])


def test_the_next_generation_goes_on_and_an_unchanged_tier_keeps_its_name(
    base: GenerationRequest, first: dict[str, Any], tmp_path: Path
) -> None:
    again = dataclasses.replace(base, out=str(tmp_path / "out"))
    (tmp_path / "out").mkdir()
    second = run(again, tmp_path / "scratch")
    assert second["generation"] == 2
    assert second["measured"] > first["measured"]
    assert {tier["name"] for tier in first["tiers"]} & {tier["name"] for tier in second["tiers"]}


def test_one_that_is_killed_leaves_what_the_one_before_left(
    base: GenerationRequest, first: dict[str, Any], tmp_path: Path
) -> None:
    seen: list[str] = []
    before = sorted(Path(base.state).rglob("*"))
    terms = Terms(
        tmp_path, 300.0, on_progress=lambda stage: seen.append(stage.name),
        cancelled=lambda: "candidates" in seen,
    )  # fmt: skip
    with pytest.raises(JobCancelled):
        run_job(base, terms)
    assert first["generation"] == 1
    assert sorted(Path(base.state).rglob("*")) == before


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (torch.ones(50, 8), "at least 20 different rows.*got 1; .*1 different among 50"),
        (torch.full((50, 8), torch.nan), "got 0; .*50 of 50 inputs hold a NaN"),
        (torch.ones(0, 8), "must hold at least 20 different rows"),
    ],
)
def test_inputs_that_teach_nothing_are_refused_and_the_state_stays(
    base: GenerationRequest, first: dict[str, Any], rows: torch.Tensor, words: str
) -> None:
    handle = os.memfd_create("inputs")
    os.write(handle, save(inputs(rows) if len(rows) else {}))
    before = sorted(Path(base.state).rglob("*"))
    given = f"/proc/{os.getpid()}/fd/{handle}"
    with pytest.raises(JobRefused, match=words):
        work(dataclasses.replace(base, inputs=given), lambda stage, share: None)
    os.close(handle)
    assert first["generation"] == 1
    assert sorted(Path(base.state).rglob("*")) == before
