"""Retraining: what goes to the twin, what comes of a verdict, and that it can be killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evolve
from evolve.control_plane.retrain_job import RetrainRequest
from evolve.control_plane.retraining import MIN_TRAFFIC_S
from evolve.monitoring.traffic import HORIZON_S, LEAST_RATIOS, Traffic
from policies.network import Network
from policies.observation import observation_names
from policies.presets import PRESETS
from policies.tactical import TacticalPolicy
from sims.traces import NoArrivals
from supernet.jobs.errors import JobCancelled, JobCrashed
from supernet.jobs.process import Terms
from supernet.plans import PlanState
from supernet.tiers import SUBNET_TIER
from tests.evolve.data_plane.test_recovery import staged_plan

VERDICT = {
    "promoted": True,
    "reason": "promoted: +1.00 points",
    "over_rule": {"mean": 1.0, "low": 0.5, "high": 1.5, "n": 9},
    "over_incumbent": {"mean": 1.0, "low": 0.5, "high": 1.5, "n": 9},
    "worst": ["as seen", 1.0],
}


def exported(folder: Path) -> None:
    width, presets = len(observation_names()), len(PRESETS)
    zeros, ones = np.zeros(width, np.float32), np.ones(width, np.float32)
    layer = (np.zeros((presets, width), np.float32), np.zeros(presets, np.float32))
    TacticalPolicy(Network(zeros, ones, 10.0, -100 * ones, 100 * ones, (layer,))).save(folder)


@pytest.fixture
def runtime(mlp: torch.nn.Module, config: evolve.Config) -> Any:
    with evolve.wrap(mlp, (torch.randn(1, 8),), config=config) as made:
        yield made


def visited(runtime: Any, seconds: float) -> None:
    """Requests at 50/s over that time, up to now."""
    traffic = runtime.parts.controller._stats.traffic
    now = traffic._clock_s()
    for at_s in np.arange(now - seconds, now, 0.02):
        traffic.arrived(float(at_s), 8)


def said(runtime: Any) -> list[Any]:
    return [d for d in runtime.decisions(last=1000) if d.kind == "policy"]


def test_traffic_is_recent_in_order_and_bounded() -> None:
    now = [1000.0]
    traffic = Traffic(lambda: now[0])
    with pytest.raises(NoArrivals):
        traffic.trace()
    for at_s, length in ((1000.0 - HORIZON_S - 1, 1), (990.0, 0), (989.0, 7)):
        traffic.arrived(at_s, length)
    trace = traffic.trace()
    assert trace.arrivals_s.tolist() == [0.0, 1.0]
    assert trace.lengths.tolist() == [7, 1]
    for ratio in (1.5, np.inf, np.nan, 0.0, -1.0):
        traffic.record_batch(ratio)
    assert traffic.ratios(10.0).tolist() == [1.5]
    now[0] += 5.0
    for _ in range(LEAST_RATIOS):
        traffic.record_batch(2.0)
    assert traffic.ratios(1.0).tolist() == [2.0] * LEAST_RATIOS, "of this load alone"
    assert traffic.ratios(5.0).tolist() == [1.5, *[2.0] * LEAST_RATIOS]
    now[0] += 5.0
    traffic.record_batch(3.0)
    assert traffic.ratios(1.0).tolist() == [*[2.0] * (LEAST_RATIOS - 1), 3.0], "one is too few"


def test_every_request_and_batch_is_food_for_the_twin(runtime: Any) -> None:
    for _ in range(5):
        runtime(torch.randn(1, 8))
    twin = runtime.parts.retraining._twin()
    assert len(twin.traffic) == 5
    assert twin.service.slo_ms == runtime.slo.p99_ms
    assert np.isfinite(twin.service.cost_ms).all()


def test_too_little_traffic_is_no_attempt(runtime: Any) -> None:
    retraining = runtime.parts.retraining
    assert not retraining.attempt()
    visited(runtime, MIN_TRAFFIC_S - 10)
    assert not retraining.attempt()
    assert said(runtime) == []


@pytest.mark.parametrize("promoted", [True, False])
def test_a_verdict_is_followed_and_written_down(
    runtime: Any, monkeypatch: pytest.MonkeyPatch, promoted: bool
) -> None:
    def trained(request: RetrainRequest, terms: Terms) -> dict[str, Any]:
        assert (Path(request.folder) / "twin.npz").exists()
        exported(Path(request.folder) / "policy")
        return {**VERDICT, "promoted": promoted}

    monkeypatch.setattr("evolve.control_plane.retraining.run_job", trained)
    visited(runtime, MIN_TRAFFIC_S + 10)
    runtime(torch.randn(1, 8))
    assert runtime.parts.retraining.attempt() is promoted
    assert runtime.parts.controller.policy.name == ("ppo" if promoted else "rule")
    (decision,) = said(runtime)
    assert decision.applied is promoted
    assert decision.reason == VERDICT["reason"]
    assert decision.scores["points_over_rule"] == 1.0
    assert decision.seen["traffic_s"] > MIN_TRAFFIC_S
    assert runtime(torch.randn(1, 8)).shape == (1, 4)


def test_a_training_that_fails_is_said_and_harms_nothing(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(request: RetrainRequest, terms: Terms) -> dict[str, Any]:
        raise JobCrashed("it crashed with SIGSEGV")

    monkeypatch.setattr("evolve.control_plane.retraining.run_job", failed)
    visited(runtime, MIN_TRAFFIC_S + 10)
    runtime(torch.randn(1, 8))
    assert not runtime.parts.retraining.attempt()
    assert said(runtime)[0].reason == "no policy was trained: it crashed with SIGSEGV"
    assert runtime.parts.controller.policy.name == "rule"


def test_of_a_training_that_is_stopped_no_folder_is_left(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []

    def stopped(request: RetrainRequest, terms: Terms) -> dict[str, Any]:
        folders.append(Path(request.folder))
        raise JobCancelled("it was cancelled")

    monkeypatch.setattr("evolve.control_plane.retraining.run_job", stopped)
    visited(runtime, MIN_TRAFFIC_S + 10)
    runtime(torch.randn(1, 8))
    with pytest.raises(JobCancelled):
        runtime.parts.retraining.attempt()
    assert [folder.exists() for folder in folders] == [False]


@pytest.mark.timeout(300)
def test_a_real_process_trains_judges_and_keeps_the_rule_where_nothing_is_to_gain(
    config: evolve.Config,
) -> None:
    pytest.importorskip("stable_baselines3")
    small = config.replace(policy={"retrain_steps": 512})
    wide = torch.nn.Sequential(
        torch.nn.Linear(8, 4096), torch.nn.ReLU(), torch.nn.Linear(4096, 4096)
    ).eval()  # a faster one could serve millions of requests, each of which would be simulated
    with evolve.wrap(wide, (torch.randn(1, 8),), config=small) as runtime:
        visited(runtime, MIN_TRAFFIC_S + 5)
        runtime(torch.randn(1, 8))
        assert not runtime.parts.retraining.attempt()
        (decision,) = said(runtime)
        assert "the rule is kept" in decision.reason, decision.reason
        assert decision.scores["points_over_rule"] <= 0.0


def test_the_twin_values_answers_of_sub_networks_by_their_quality(runtime: Any) -> None:
    visited(runtime, 10.0)
    parts = runtime.parts
    small = replace(staged_plan(), subnet="half", quality=0.9)
    parts.library.put(small)
    parts.library.move(small.key, PlanState.ADMITTED, "its price is known")
    parts.serving.stats.costs.seed(small.key, small.costs_ms)
    parts.controller.refresh()
    service = parts.retraining._twin().service
    assert service.accuracy.tolist() == [1.0, 0.9]
    assert service.tier.tolist() == [0, SUBNET_TIER + 100]
