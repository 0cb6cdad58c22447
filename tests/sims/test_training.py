"""Real training in the gym, measured on episodes it never saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from policies.baselines import RulePolicy
from policies.train import TrainConfig, train
from sims.gym.domain import LoadDomain
from sims.gym.load_gym import LoadGym
from sims.simulation import simulate

if TYPE_CHECKING:
    from policies.base import Policy
    from sims.gym.vec_env import LoadVecEnv

pytest.importorskip("stable_baselines3")


def envs(domain: LoadDomain, config: TrainConfig) -> LoadVecEnv:
    from sims.gym.vec_env import LoadVecEnv

    return LoadVecEnv(LoadGym(domain, config.environments, seed=config.seed))


def test_a_short_training_in_the_gym_ends_with_a_policy() -> None:
    domain = LoadDomain(seconds=1.0, workers=(1, 1))
    config = TrainConfig(steps=64, environments=2, rollout_steps=16, minibatch=16, epochs=1)
    trained = train(envs(domain, config), config)
    assert len(trained.rewards) == 2
    assert np.isfinite(trained.rewards).all()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_trained_it_is_no_worse_than_the_rule_it_starts_from() -> None:
    domain, config = LoadDomain(), TrainConfig(steps=500_000)
    policy = train(envs(domain, config), config).policy

    def utility(policy: Policy) -> np.ndarray:
        episodes = (domain.draw(np.random.default_rng(10_000 + s)) for s in range(60))
        return np.array([simulate(*episode, policy).utility for episode in episodes])

    gain = utility(policy) - utility(RulePolicy())
    assert gain.mean() >= -0.001
    assert gain.min() >= -0.03
