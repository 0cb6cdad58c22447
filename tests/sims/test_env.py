"""The gym: conformance, its reward by hand, and determinism."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import sims
from policies.observation import observation_names, observe
from policies.params import RuleParams
from policies.presets import PRESETS
from sims.engine.state import WAITING
from sims.gym.domain import LoadDomain, capacity_per_s
from sims.gym.env import LoadEnv
from sims.gym.load_gym import LoadGym
from sims.reference import reference_service
from sims.simulation import Simulation
from sims.traces import Trace, poisson

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

    utility = []
    for action in (1, 0):
        twin = Simulation(service, trace)
        twin.advance(500.0, presets[0])
        waiting = int((twin.outcome[: twin.offered] == WAITING).sum())
        before, arrived = twin.utility_sum, twin.offered
        twin.advance(600.0, presets[action])
        twin.advance(700.0, presets[0])
        utility.append(twin.utility_sum - before)
        concerned = waiting + twin.offered - arrived
    assert reward == pytest.approx(20 * (utility[0] - utility[1]) / concerned)
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
        np.testing.assert_array_equal(
            seen, observe(twin.signals(), action).clip(env._bounds.low, env._bounds.high)
        )


def test_the_memory_pattern_is_part_of_the_observation() -> None:
    base, trace = reference_service(), poisson(200, 1.5, seed=0)
    known = replace(base, pattern=np.full((*base.cost_ms.shape[1:], 4), 0.5))
    names = observation_names()
    for service, expected in ((known, (np.log(1.5), 0.5, np.log(1.5), 0.5)), (base, (0,) * 4)):
        env = LoadEnv(SMALL)
        env.reset(seed=0, options={"service": service, "trace": trace})
        for _ in range(5):
            seen = dict(zip(names, env.step(np.int64(0))[0].tolist(), strict=True))
        got = [seen[n] for n in ("log_balance", "memory_share", "log_moved_mib", "fused")]
        assert got == pytest.approx(expected)


def played(threads: int, environments: int = 24) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    gym = LoadGym(SMALL, environments, seed=3, services=5, traces=3, threads=threads)
    rng, rewards, done = np.random.default_rng(0), [], []
    seen = [gym.reset()]
    for _ in range(40):
        stepped = gym.step(rng.integers(0, len(PRESETS), environments))
        assert (stepped.seen >= gym.low).all()
        assert (stepped.seen <= gym.high).all()
        seen.append(stepped.seen)
        rewards.append(stepped.reward)
        done.append(stepped.done)
    gym.close()
    return np.array(seen), np.array(rewards), np.array(done)


def test_many_at_once_play_the_same_whatever_the_threads() -> None:
    one, two = played(1), played(3)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    assert one[2].sum(axis=0).tolist() == [2] * 24  # 4 s in episodes of 1.5 s
    assert np.abs(one[1]).max() > 0


def test_an_environment_among_many_is_the_one_alone() -> None:
    """Same service, same piece of the same trace: same observations and rewards."""
    gym = LoadGym(SMALL, 2, services=1, traces=1, seed=5)
    seen = gym.reset()[0]
    env, inputs = gym._all.state.env[0], gym._all.inputs
    at_ms = (inputs.at_ms[env["start"] : env["last"]] - env["origin_ms"]) * env["stretch"]
    rng = np.random.default_rng(5)
    service = SMALL.draw_service(rng)
    trace = Trace(at_ms / 1e3, inputs.length[env["start"] : env["last"]].copy(), "piece")
    alone = LoadEnv(SMALL)
    first, _ = alone.reset(seed=0, options={"service": service, "trace": trace})
    np.testing.assert_allclose(seen, first)
    for action in [3, 0, 6, 14, 9, 1, 11]:
        stepped = gym.step(np.array([action, 0]))
        seen, reward, *_ = alone.step(np.int64(action))
        np.testing.assert_allclose(stepped.seen[0], seen, rtol=1e-5, atol=1e-6)
        assert stepped.reward[0] == pytest.approx(reward)


@pytest.mark.parametrize(
    "form",
    [int, float, np.int64, np.uint8, np.array, lambda k: np.array([k]), lambda k: np.array([[k]]),
     lambda k: [k], lambda k: np.array([float(k)], np.float32)],
)  # fmt: skip
def test_an_action_may_come_in_any_form(form: Any) -> None:
    """Agents give 1-element and 0-d arrays; each is the same step as the plain number."""
    plain, env = LoadEnv(SMALL), LoadEnv(SMALL)
    plain.reset(seed=3)
    env.reset(seed=3)
    for action in (3, 0, 14, 9):
        want, got = plain.step(np.int64(action)), env.step(form(action))
        np.testing.assert_array_equal(got[0], want[0])
        assert got[1:] == want[1:]


def test_actions_may_stand_in_a_column() -> None:
    rows, column = (LoadGym(SMALL, 2, services=1, traces=1, seed=5) for _ in range(2))
    rows.reset()
    column.reset()
    for actions in ([3, 0], [14, 9]):
        want, got = rows.step(np.array(actions)), column.step(np.array(actions, np.int32)[:, None])
        np.testing.assert_array_equal(got.seen, want.seen)
        np.testing.assert_array_equal(got.reward, want.reward)


def test_misuse_is_named() -> None:
    env = LoadEnv(SMALL)
    with pytest.raises(RuntimeError, match="step must come after reset"):
        env.step(np.int64(0))
    with pytest.raises(ValueError, match=r"options must be 'service' or 'trace', got \['x'\]"):
        env.reset(options={"x": 1})
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action must be in 0\.\.14, got 15"):
        env.step(np.int64(15))
    for fraction in (2.5, np.array([2.5]), np.float32(1e-9)):
        with pytest.raises(ValueError, match="action must be a whole number, got "):
            env.step(fraction)
    for outside in (-1, 15, np.array([1e30]), float("nan"), np.uint64(2**63 + 1)):
        with pytest.raises(ValueError, match=r"action must be in 0\.\.14, got "):
            env.step(outside)
    for no_number in (True, "3", None):
        with pytest.raises(ValueError, match="action must be a whole number, got "):
            env.step(no_number)
    with pytest.raises(ValueError, match=r"actions must have shape \(1,\), got \(2,\)"):
        env.step(np.zeros(2, np.int64))
    gym = LoadGym(SMALL, 2, services=1, traces=1)
    gym.reset()
    with pytest.raises(ValueError, match=r"action must be a whole number, got 0\.5"):
        gym.step(np.array([0, 0.5]))
    with pytest.raises(ValueError, match=r"actions must have shape \(2,\), got \(3,\)"):
        gym.step(np.zeros(3, np.int64))
    with pytest.raises(ValueError, match=r"action must be in 0\.\.14, got -1"):
        gym.step(np.array([0, -1]))
    with pytest.raises(ValueError, match=r"environments must be at least 1, got 0"):
        LoadGym(SMALL, 0)
    with pytest.raises(ValueError, match=r"seconds must be finite and at least 1, got 0\.5"):
        LoadDomain(seconds=0.5)
    with pytest.raises(ValueError, match="load must be"):
        LoadDomain(load=(0.0, 1.0))


def test_the_docstring_specifies_every_entry_and_capacity_is_by_hand() -> None:
    assert LoadEnv().observation_space.shape == (len(observation_names()),) == (63,)
    service = reference_service(workers=3)
    lengths = np.array([16, 16], np.int32)
    bucket = service.lengths.tolist().index(16.0)
    best = min(service.cost_ms[p, r, bucket] / (r + 1) for p in range(3) for r in range(16))
    assert capacity_per_s(service, lengths) == pytest.approx(3000.0 / best)


def test_the_package_exports_what_it_says() -> None:
    for name in sims.__all__:
        assert getattr(sims, name) is not None
    assert set(sims.__all__) == set(dir(sims))
    with pytest.raises(AttributeError, match="module 'sims' has no attribute 'nothing'"):
        _ = sims.nothing
