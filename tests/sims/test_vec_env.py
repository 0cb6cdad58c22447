"""The gym under stable-baselines3: what its own tools expect of a vectorised environment."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from policies.presets import PRESETS
from sims.gym.domain import LoadDomain
from sims.gym.env import LoadEnv
from sims.gym.load_gym import LoadGym

sb3 = pytest.importorskip("stable_baselines3")
from stable_baselines3.common import env_checker  # noqa: E402
from stable_baselines3.common.evaluation import evaluate_policy  # noqa: E402
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize  # noqa: E402

from sims.gym.vec_env import LoadVecEnv  # noqa: E402

SMALL = LoadDomain(seconds=1.5, workers=(1, 2))
E, TICKS = 6, 15


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    """Whatever the libraries' own filters say."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def gym(seed: int = 3) -> LoadGym:
    return LoadGym(SMALL, E, seed=seed, services=4, traces=3)


def actions(ticks: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, len(PRESETS), E) for _ in range(ticks)]


def played(envs: Any, ticks: int = 20) -> list[tuple[Any, ...]]:
    """What each step gave, after a reset."""
    envs.reset()
    return [envs.step(action) for action in actions(ticks)]


def test_it_gives_what_the_gym_gives() -> None:
    plain, envs = gym(), LoadVecEnv(gym())
    np.testing.assert_array_equal(envs.reset(), plain.reset())
    ended = 0
    for action in actions(2 * TICKS):
        expected = plain.step(action)
        seen, reward, done, infos = envs.step(action)
        np.testing.assert_array_equal(seen, expected.seen)
        np.testing.assert_array_equal(reward, expected.reward.astype(np.float32))
        np.testing.assert_array_equal(done, expected.done)
        assert (seen.dtype, reward.dtype, done.dtype) == (np.float32, np.float32, np.bool_)
        assert [bool(info) for info in infos] == done.tolist()
        for e in np.flatnonzero(done):
            np.testing.assert_array_equal(infos[e]["terminal_observation"], expected.last_seen[e])
        ended += int(done.sum())
    assert ended == 2 * E


def test_an_episode_ends_truncated_with_its_return_length_and_figures() -> None:
    plain, envs = gym(), LoadVecEnv(gym())
    plain.reset()
    totals = [plain.step(action).totals for action in actions(TICKS)][-1]
    steps = played(envs, 2 * TICKS)
    for start in (0, TICKS):  # the second episode counts from its own beginning
        piece = steps[start : start + TICKS]
        assert all(info == {} for step in piece[:-1] for info in step[3])
        seen, _, done, infos = piece[-1]
        assert done.all()
        returned = np.sum([step[1] for step in piece], axis=0)
        for e, info in enumerate(infos):
            assert set(info) == {"terminal_observation", "TimeLimit.truncated", "episode"}
            assert info["TimeLimit.truncated"] is True
            assert envs.observation_space.contains(info["terminal_observation"])
            assert (info["terminal_observation"] != seen[e]).any()  # that is the next one's first
            episode = info["episode"]
            assert set(episode) == {"r", "l", "met_ratio", "utility"}
            assert episode["r"] == pytest.approx(float(returned[e]), abs=1e-5)
            assert episode["l"] == TICKS
            assert 0 <= episode["met_ratio"] <= 1
            assert episode["utility"] == pytest.approx(episode["met_ratio"])  # every answer is 1
    for e, info in enumerate(steps[TICKS - 1][3]):
        offered, _, met, worth = totals[e]
        assert info["episode"]["met_ratio"] == met / offered
        assert info["episode"]["utility"] == worth / offered


def test_what_a_step_gave_is_not_touched_by_the_next() -> None:
    envs = LoadVecEnv(gym())
    kept = played(envs, TICKS)[-1]
    copies = [kept[0].copy(), kept[3][0]["terminal_observation"].copy()]
    for action in actions(TICKS):
        envs.step(action)
    np.testing.assert_array_equal(kept[0], copies[0])
    np.testing.assert_array_equal(kept[3][0]["terminal_observation"], copies[1])


def test_ppo_trains_in_it_and_sees_the_episodes() -> None:
    envs = LoadVecEnv(gym())
    model = sb3.PPO("MlpPolicy", envs, n_steps=16, batch_size=48, n_epochs=1, seed=0, device="cpu")
    model.learn(3 * 16 * E)
    assert model.num_timesteps == 3 * 16 * E
    assert len(model.ep_info_buffer) == 3 * E
    assert {info["l"] for info in model.ep_info_buffer} == {TICKS}
    action, _ = model.predict(envs.reset(), deterministic=True)
    assert action.shape == (E,)
    mean, _ = evaluate_policy(model, VecMonitor(envs), n_eval_episodes=E)
    assert np.isfinite(mean)


def test_vec_normalize_and_vec_monitor_wrap_it() -> None:
    plain, envs = LoadVecEnv(gym()), VecNormalize(VecMonitor(LoadVecEnv(gym())), norm_reward=False)
    for expected, got in zip(played(plain), played(envs), strict=True):
        np.testing.assert_array_equal(got[1], expected[1])
        np.testing.assert_array_equal(got[2], expected[2])
        for mine, wrapped in zip(expected[3], got[3], strict=True):
            if mine:
                for key in ("r", "l"):
                    got_there = wrapped["episode"][key]
                    assert got_there == pytest.approx(mine["episode"][key], abs=1e-5)
                assert wrapped["TimeLimit.truncated"] is True
    np.testing.assert_array_equal(envs.get_original_obs(), expected[0])
    assert envs.obs_rms.mean.shape == plain.observation_space.shape
    assert (np.abs(got[0]) <= envs.clip_obs).all()


def test_the_seed_decides_what_comes() -> None:
    envs = LoadVecEnv(gym())
    assert envs.seed(7) == [7] * E
    first = played(envs)
    envs.seed(7)
    for one, again in zip(first, played(envs), strict=True):
        for a, b in zip(one[:3], again[:3], strict=True):
            np.testing.assert_array_equal(a, b)
    envs.seed(8)
    other = played(envs)
    assert any((a[0] != b[0]).any() for a, b in zip(first, other, strict=True))
    rng = envs.gym._all.state.env["random"].copy()
    assert envs.seed() == [None] * E  # no seed: as it is
    np.testing.assert_array_equal(envs.gym._all.state.env["random"], rng)


def test_attributes_are_those_of_the_gym_and_belong_to_all() -> None:
    envs = LoadVecEnv(gym())
    assert envs.render_mode is None
    assert envs.get_attr("domain") == [SMALL] * E
    assert envs.get_attr("environments", indices=[0, 2]) == [E, E]
    assert envs.get_attr("render_mode", 1) == [None]
    assert envs.env_is_wrapped(gymnasium.Wrapper) == [False] * E
    assert (envs.num_envs, int(envs.action_space.n)) == (E, len(PRESETS))
    with pytest.raises(AttributeError, match="nothing"):
        envs.get_attr("nothing")
    with pytest.raises(AttributeError, match="domain must be given to LoadGym"):
        envs.set_attr("domain", SMALL)
    with pytest.raises(AttributeError, match="step must be called on LoadGym"):
        envs.env_method("step", 0)
    with pytest.raises(ValueError, match=r"actions must have shape \(6,\), got \(5,\)"):
        envs.step(np.zeros(5, np.int64))
    envs.close()


def test_the_lone_environment_passes_both_checkers() -> None:
    env = gymnasium.make("evolve/Load-v0", domain=SMALL).unwrapped
    assert isinstance(env, LoadEnv)
    check_env(env)
    env_checker.check_env(env)
