"""Learned policies against the best fixed setting, in four domains.

Everything is chosen on training seeds: the best fixed setting (which leads the menu, so action 0
earns nothing), the learning rate of the tables, the trained policies. Every figure comes from test
seeds; the unit of replication is the seed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.gym_domains import Domain, best_fixed
from policies.bandit import LinUCB
from policies.table import TablePolicy
from policies.tactical import TacticalPolicy
from policies.train import TrainConfig, train
from sims.evaluation.evaluate import Episode, VectorPolicy, evaluate
from sims.evaluation.promotion_gate import judge
from sims.evaluation.statistics import paired
from sims.evaluation.suite import Cell, Suite
from sims.evaluation.upper_bound import clairvoyant_utility
from sims.gym.load_gym import LoadGym
from sims.gym.vec_env import LoadVecEnv

TEST_SEEDS = tuple(range(10))
TUNING_SEEDS = (1001, 1002)
GATE_SEEDS = (2001, 2002, 2003)
TRAINING_SEEDS = (0, 1, 2)
STEPS = 600_000
Cells = Mapping[Cell, list[Episode]]


def weigh(domain: Domain, suite: Suite, say: Console) -> dict[str, Any]:
    """One domain: train, judge by the gate, and test."""
    best = best_fixed(domain, domain.cells(suite, TUNING_SEEDS))
    domain = domain.led_by(best)
    bandit, table = _rivals(domain)
    policies, seconds = _trained(domain, say)
    gates = [_judged(policy, domain, domain.cells(suite, GATE_SEEDS)) for policy in policies]
    cells = domain.cells(suite, TEST_SEEDS)
    entrants: list[Any] = [*policies, bandit, table, *domain.presets]
    utility = np.stack([evaluate(e, entrants, domain.presets).utility for e in cells.values()])
    bound = np.array([[clairvoyant_utility(*one) for one in e] for e in cells.values()])
    fixed = len(policies) + 2  # the best fixed one is the first preset
    told = {
        "best fixed setting": best.name,
        "its utility": float(utility[:, fixed].mean()),
        "best preset of each episode": float(utility[:, fixed:].max(axis=1).mean()),
        "clairvoyant bound": float(bound.mean()),
        "best fixed on the test seeds": domain.presets[
            int(utility[:, fixed:].mean(axis=(0, 2)).argmax())
        ].name,
        "training s": seconds,
    }
    for row, name in enumerate([*(f"ppo, seed {s}" for s in TRAINING_SEEDS), "linucb", "table"]):
        told[name] = _against(utility[:, row], utility[:, fixed])
    for seed, gate in zip(TRAINING_SEEDS, gates, strict=True):
        told[f"gate, seed {seed}"] = gate
    for row, gate in enumerate(gates):  # what would serve: the policy if promoted, else the rule
        if not gate["promoted"]:
            utility[:, row] = utility[:, fixed]
    told |= {
        f"ppo through the gate, seed {seed}": _against(utility[:, row], utility[:, fixed])
        for row, seed in enumerate(TRAINING_SEEDS)
    }
    mean = utility[:, : len(policies)].mean(axis=1)
    told["ppo through the gate, mean of the seeds"] = _against(mean, utility[:, fixed])
    told["ppo by cell, points"] = {
        f"{cell.regime} {cell.load:g}": float(100 * (mean[i] - utility[i, fixed]).mean())
        for i, cell in enumerate(cells)
    }
    return told


def _against(utility: np.ndarray[Any, Any], fixed: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Points over the best fixed setting [cells, seeds]: paired interval, worst cell, winners."""
    gain = paired(utility, fixed)
    by_cell = 100 * (utility - fixed).mean(axis=1)
    return {
        "points": gain.mean,
        "low": gain.low,
        "high": gain.high,
        "worst cell": float(by_cell.min()),
        "cells better": int((by_cell > 0).sum()),
        "cells": len(by_cell),
    }


def _rivals(domain: Domain) -> tuple[LinUCB, TablePolicy]:
    """Fitted on 60 ticks of 1024 environments under settings drawn at random."""
    gym = LoadGym(domain.draws, 1024, domain.presets, seed=7, services=512, traces=96)
    rng, seen = np.random.default_rng(7), gym.reset()
    looks, actions, rewards = [], [], []
    for _ in range(60):
        chosen = rng.integers(0, len(domain.presets), gym.environments)
        stepped = gym.step(chosen)
        looks.append(seen)
        actions.append(chosen)
        rewards.append(stepped.reward)
        seen = stepped.seen
    gym.close()
    given = np.concatenate(looks), np.concatenate(actions), np.concatenate(rewards)
    return (
        LinUCB.fit(*given, domain.presets, ridge=1.0, alpha=1.0),
        TablePolicy.fit(*given, domain.presets),
    )


def _trained(domain: Domain, say: Console) -> tuple[list[TacticalPolicy], list[float]]:
    policies, seconds = [], []
    for seed in TRAINING_SEEDS:
        began = time.perf_counter()
        gym = LoadGym(domain.draws, 1024, domain.presets, seed=100 + seed, services=512, traces=96)
        config = TrainConfig(steps=STEPS, seed=seed)
        policies.append(train(LoadVecEnv(gym), config, presets=domain.presets).policy)
        seconds.append(time.perf_counter() - began)
        say.print(f"  {domain.name}: seed {seed} trained in {seconds[-1]:.0f} s")
    return policies, seconds


def _judged(policy: VectorPolicy, domain: Domain, cells: Cells) -> dict[str, Any]:
    """The gate on seeds of its own; no cell of the suite may fall."""
    regimes: dict[str, list[Episode]] = {"all": [e for es in cells.values() for e in es]}
    regimes |= {f"{cell.regime} at {cell.load:g}": e for cell, e in cells.items()}
    best = domain.presets[0]
    verdict = judge(policy, best, regimes, rule=best, presets=domain.presets)
    return {"promoted": verdict.promoted, "reason": verdict.reason}
