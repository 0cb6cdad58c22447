"""How fast the gym steps, alone and under stable-baselines3, and how fast a policy decides."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.gym_domains import ONE, Domain
from policies.base import Choice
from policies.presets import DEFAULT, PRESETS
from policies.train import TrainConfig, train
from sims.evaluation.suite import six_tiers
from sims.gym.domain import LoadDomain, capacity_per_s
from sims.gym.load_gym import LoadGym
from sims.gym.vec_env import LoadVecEnv
from sims.reference import reference_service
from sims.simulation import Simulation
from sims.traces import poisson

ROUNDS, TICKS, ENVIRONMENTS = 7, 60, 256


def speed(mixed: Domain) -> dict[str, Any]:
    """Medians over interleaved rounds; 5,000 requests/s, so 500 a step."""
    service = six_tiers()
    load = 5000.0 / capacity_per_s(service, ONE)
    domain = LoadDomain(
        service=service, regimes=(poisson,), load=(load, load), workers=(4, 4), slo_ms=(36.0, 36.0),
        slower=(1.0, 1.0), scatter=(0.0, 0.0), spike_share=(0.0, 0.0), drift=(1.0, 1.0),
    )  # fmt: skip
    gyms = {
        kind: LoadGym(domain, ENVIRONMENTS, traces=16, services=1, against_default=kind != "plain")
        for kind in ("plain", "state reset")
    }
    rng = np.random.default_rng(0)
    rates: dict[str, list[float]] = {}
    requests = 0.0
    for gym in gyms.values():
        gym.reset()
        for _ in range(12):  # past the empty start
            gym.step(np.zeros(ENVIRONMENTS, np.int64))
    for _ in range(ROUNDS):
        for kind, gym in gyms.items():
            for actions in ("the default", "any"):
                began = time.perf_counter()
                for _ in range(TICKS):
                    any_ = rng.integers(0, len(PRESETS), ENVIRONMENTS)
                    stepped = gym.step(any_ if actions == "any" else np.zeros_like(any_))
                took = time.perf_counter() - began
                rates.setdefault(f"{kind}, {actions}", []).append(TICKS * ENVIRONMENTS / took)
                requests = float(np.expm1(stepped.seen[:, 9]).mean())
    told: dict[str, Any] = {
        f"steps per s, {name}": float(np.median(values)) for name, values in rates.items()
    }
    told["requests per step"] = requests
    for gym in gyms.values():
        gym.close()
    return {**told, **_training(mixed), **_deciding()}


def _training(mixed: Domain) -> dict[str, Any]:
    LoadGym(mixed.draws, 64, mixed.presets, services=2, traces=2).reset()  # compiled
    gym = LoadGym(mixed.draws, 1024, mixed.presets, seed=1)
    began = time.perf_counter()
    train(LoadVecEnv(gym), TrainConfig(steps=196_608), presets=mixed.presets)
    return {"steps per s with stable-baselines3, mixed": 196_608 / (time.perf_counter() - began)}


def _deciding() -> dict[str, Any]:
    """One decision of an exported policy on what a simulated encoder under load shows."""
    gym = LoadGym(LoadDomain(seconds=2.0), 64, services=32, traces=16)
    policy = train(LoadVecEnv(gym), TrainConfig(steps=16_384, minibatch=1024)).policy
    simulation = Simulation(reference_service(), poisson(250.0, 10.0, seed=0))
    choice, times = Choice(DEFAULT, "start"), []
    while simulation.now_ms < 9_000.0:
        simulation.advance(simulation.now_ms + 100.0, DEFAULT)
        signals = simulation.signals()
        for _ in range(60):
            began = time.perf_counter()
            told = policy.choose(signals, choice)
            if told.scores:  # else it fell back to the rule without asking the network
                times.append((time.perf_counter() - began) * 1e6)
    return {
        "a decision, us median": float(np.median(times)),
        "a decision, us p99": float(np.quantile(times, 0.99)),
        "decisions timed": len(times),
    }
