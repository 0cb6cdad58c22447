"""Train a tactical policy with PPO and export it as plain arrays.

Proximal policy optimisation (Schulman et al., 2017) as implemented by stable-baselines3. The
environments come in as functions, so this package knows no simulator; in the product they are
`sims.LoadEnv`. The best static preset starts with a lead: without training the policy already is
the default rule, so it is never worse than that for lack of training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from policies.params import RuleParams
from policies.presets import PRESETS
from policies.tactical import Array, Network, TacticalPolicy

if TYPE_CHECKING:
    import gymnasium
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecNormalize

__all__ = ["TrainConfig", "Trained", "train"]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run; the defaults are those that worked in the feasibility study.

    `steps`: environment steps in all. `environments` × `rollout_steps`: one batch of experience.
    `default_lead`: added to preset 0's preference before training. `processes`: whether the
    environments run in processes of their own (worth it beyond a few).
    """

    steps: int = 300_000
    environments: int = 64
    rollout_steps: int = 64
    minibatch: int = 1024
    epochs: int = 3
    gamma: float = 0.3
    gae_lambda: float = 0.9
    learning_rate: float = 1e-3
    clip_range: float = 0.2
    entropy: float = 0.002
    hidden: tuple[int, ...] = (64, 64)
    default_lead: float = 1.5
    seed: int = 0
    processes: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "environments", "rollout_steps", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.minibatch < 2 or self.environments * self.rollout_steps < 2:
            raise ValueError(
                "minibatch and environments * rollout_steps must be at least 2, got "
                f"{self.minibatch} and {self.environments * self.rollout_steps}"
            )
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(
                f"learning_rate must be finite and greater than 0, got {self.learning_rate}"
            )


@dataclass(frozen=True)
class Trained:
    """A trained policy and how training went: mean reward per step of each rollout."""

    policy: TacticalPolicy
    rewards: tuple[float, ...]
    config: TrainConfig = field(default_factory=TrainConfig)


def train(
    make_env: Callable[[], gymnasium.Env[Any, Any]],
    config: TrainConfig | None = None,
    *,
    presets: Sequence[RuleParams] = PRESETS,
    progress: Callable[[int, int, float], None] | None = None,
    card: Mapping[str, Any] | None = None,
) -> Trained:
    """Train on environments from `make_env`, whose action k must select presets[k].

    `progress(steps done, steps in all, mean reward)` is called after each rollout. `card`: what
    the exported files should say about the training besides its settings. Raises ImportError
    with the remedy when stable-baselines3 is missing.
    """
    try:
        from stable_baselines3 import PPO
    except ImportError as error:
        raise ImportError(
            "training needs stable-baselines3: install evolve-runtime[train]"
        ) from error
    config = config or TrainConfig()
    envs = _environments(make_env, config)
    try:
        model = PPO(
            "MlpPolicy",
            envs,
            n_steps=config.rollout_steps,
            batch_size=min(config.minibatch, config.environments * config.rollout_steps),
            n_epochs=config.epochs,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            learning_rate=lambda left: config.learning_rate * (0.05 + 0.95 * left),
            clip_range=config.clip_range,
            ent_coef=config.entropy,
            policy_kwargs=_network_shape(config),
            seed=config.seed,
            device="cpu",
        )
        _give_default_its_lead(model, config.default_lead)
        watch = _watch(config.steps, progress)
        model.learn(config.steps, callback=watch)
        described = {"config": asdict(config), "rewards": watch.rewards, **(card or {})}
        network = _export(model, envs, watch.low, watch.high)
    finally:
        envs.close()
    return Trained(TacticalPolicy(network, tuple(presets), described), tuple(watch.rewards), config)


def _environments(
    make_env: Callable[[], gymnasium.Env[Any, Any]], config: TrainConfig
) -> VecNormalize:
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

    makers = [make_env] * config.environments
    kind: Callable[[list[Callable[[], Any]]], VecEnv]
    kind = SubprocVecEnv if config.processes else DummyVecEnv
    envs = kind(cast("list[Callable[[], Any]]", makers))
    envs.seed(config.seed)
    return VecNormalize(envs, norm_obs=True, norm_reward=False, clip_obs=10.0)


def _network_shape(config: TrainConfig) -> dict[str, Any]:
    import torch

    shape = list(config.hidden)
    return {"net_arch": {"pi": shape, "vf": shape}, "activation_fn": torch.nn.Tanh}


def _give_default_its_lead(model: PPO, lead: float) -> None:
    import torch

    with torch.no_grad():
        cast(Any, model.policy).action_net.bias[0] += lead


def _watch(steps: int, progress: Callable[[int, int, float], None] | None) -> Any:
    from stable_baselines3.common.callbacks import BaseCallback

    class Watch(BaseCallback):
        """Notes the range of raw observations and the mean reward of each rollout."""

        def __init__(self) -> None:
            super().__init__()
            self.rewards: list[float] = []
            self.low: Array | None = None
            self.high: Array | None = None

        def _on_step(self) -> bool:
            seen = self.training_env.get_original_obs()  # type: ignore[attr-defined]
            low, high = seen.min(axis=0), seen.max(axis=0)
            self.low = low if self.low is None else np.minimum(self.low, low)
            self.high = high if self.high is None else np.maximum(self.high, high)
            return True

        def _on_rollout_end(self) -> None:
            mean = float(cast(Any, self.model).rollout_buffer.rewards.mean())
            self.rewards.append(mean)
            if progress is not None:
                progress(min(self.num_timesteps, steps), steps, mean)

    return Watch()


def _export(model: PPO, envs: VecNormalize, low: Array, high: Array) -> Network:
    import torch

    policy = cast(Any, model.policy)
    linear = [m for m in policy.mlp_extractor.policy_net if isinstance(m, torch.nn.Linear)]
    layers = tuple(
        (m.weight.detach().numpy().copy(), m.bias.detach().numpy().copy())
        for m in (*linear, policy.action_net)
    )
    norm = cast(Any, envs.obs_rms)
    presets = layers[-1][1].shape[0]
    low, high = low.copy(), high.copy()
    low[-presets:], high[-presets:] = 0.0, 1.0  # any preset may be active, tried often or not
    return Network(
        np.asarray(norm.mean, np.float32),
        np.asarray(norm.var, np.float32),
        float(envs.clip_obs),
        np.asarray(low, np.float32),
        np.asarray(high, np.float32),
        layers,
    )
