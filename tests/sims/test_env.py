"""The gym: conformance, its reward by hand, and determinism."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import sims
from policies.params import RuleParams
from policies.presets import PRESETS
from policies.tactical import observation_names, observe
from sims.env import LoadDomain, LoadEnv, capacity_per_s
from sims.reference import reference_service
from sims.simulation import Simulation
from sims.traces import poisson

SMALL = LoadDomain(seconds=1.5, workers=(1, 2))


def test_gymnasium_makes_it_and_finds_no_fault() -> None:
    env = gymnasium.make("evolve/Load-v0", domain=SMALL)
    assert isinstance(env.unwrapped, LoadEnv)
    check_env(env.unwrapped)


def test_stable_baselines_finds_no_fault() -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(LoadEnv(SMALL))


def episode(seed: int, actions: list[int]) -> tuple[list[float], list[np.ndarray]]:
    env = LoadEnv(SMALL)
    seen, _ = env.reset(seed=seed)
    rewards, all_seen = [], [seen]
    for action in actions:
        seen, reward, terminated, truncated, info = env.step(np.int64(action))
        assert env.observation_space.contains(seen)
        assert not terminated
        rewards.append(reward)
        all_seen.append(seen)
        assert bool(info) == truncated
        if truncated:
            assert 0 <= info["met_ratio"] <= 1
            break
    return rewards, all_seen


def test_the_default_earns_exactly_nothing_and_seeds_repeat() -> None:
    assert set(episode(0, [0] * 30)[0]) == {0.0}
    first, again = episode(1, [6, 3, 0, 14] * 8), episode(1, [6, 3, 0, 14] * 8)
    assert first[0] == again[0]
    np.testing.assert_array_equal(first[1], again[1])


def test_the_reward_is_the_advantage_over_the_default_from_the_same_state() -> None:
    service, trace = reference_service(workers=1), poisson(500, 1.5, seed=0)
    presets = (PRESETS[0], RuleParams.static(0, 1))
    env = LoadEnv(SMALL, presets)
    env.reset(seed=0, options={"service": service, "trace": trace})
    for _ in range(5):
        env.step(np.int64(0))
    reward = env.step(np.int64(1))[1]

    met = []
    for action in (1, 0):
        twin = Simulation(service, trace)
        twin.advance(500.0, presets[0])
        start = twin.moment()
        twin.advance(600.0, presets[action])
        twin.advance(700.0, presets[0])
        met.append(twin.worth_since(start))
        concerned = start.queue.size + twin.offered - twin.offered_at(start)
    assert reward == pytest.approx(20 * (met[0] - met[1]) / concerned)
    assert reward < 0


def test_the_reward_leaves_no_trace_in_the_episode() -> None:
    """Weighing an action against the default must not change what happens next."""
    service, trace = reference_service(), poisson(600, 1.5, seed=0)
    env = LoadEnv(SMALL)
    env.reset(seed=0, options={"service": service, "trace": trace})
    actions = [6, 3, 0, 14, 9] * 3
    twin = Simulation(service, trace)
    for k, action in enumerate(actions):
        seen = env.step(np.int64(action))[0]
        twin.advance(100.0 * (k + 1), PRESETS[action])
        np.testing.assert_array_equal(seen, observe(twin.signals(), action))


def test_misuse_is_named() -> None:
    env = LoadEnv(SMALL)
    with pytest.raises(RuntimeError, match="step must come after reset"):
        env.step(np.int64(0))
    with pytest.raises(ValueError, match=r"options must be 'service' or 'trace', got \['x'\]"):
        env.reset(options={"x": 1})
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action must be in 0\.\.14, got 15"):
        env.step(np.int64(15))
    with pytest.raises(ValueError, match=r"seconds must be finite and at least 1, got 0\.5"):
        LoadDomain(seconds=0.5)
    with pytest.raises(ValueError, match="load must be"):
        LoadDomain(load=(0.0, 1.0))


def test_the_docstring_specifies_every_entry_and_capacity_is_by_hand() -> None:
    assert LoadEnv().observation_space.shape == (len(observation_names()),) == (53,)
    service = reference_service(workers=3)
    lengths = np.array([16, 16], np.int32)
    cell = service.lengths.tolist().index(16.0)
    best = min(service.cost_ms[p, r, cell] / (r + 1) for p in range(3) for r in range(16))
    assert capacity_per_s(service, lengths) == pytest.approx(3000.0 / best)


def test_the_package_exports_what_it_says() -> None:
    for name in sims.__all__:
        assert getattr(sims, name) is not None
    assert set(sims.__all__) == set(sims._HOME)
    with pytest.raises(AttributeError, match="module 'sims' has no attribute 'nothing'"):
        _ = sims.nothing
