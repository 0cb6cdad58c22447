"""Train a tactical policy with PPO and export it as plain arrays.

Proximal policy optimisation (Schulman et al., 2017) as implemented by stable-baselines3. The
environments come in ready, so this package knows no simulator; in the product they are
`sims.gym.vec_env.LoadVecEnv`. The best static preset starts with a lead: without training the
policy already is the default rule, so it is never worse than that for lack of training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from policies.network import Array, Network
from policies.params import RuleParams
from policies.presets import PRESETS
from policies.tactical import TacticalPolicy

if TYPE_CHECKING:
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecEnv, VecNormalize

__all__ = ["TrainConfig", "Trained", "train"]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run; the defaults are those that worked in the feasibility study.

    `steps`: environment steps in all. `environments` × `rollout_steps`: one batch of experience.
    `learning_rate` falls linearly to 5 %. `default_lead`: added to preset 0's preference before
    training. `validate_every`: rollouts between two looks at the validation suite; training ends
    after `patience` looks without a better one (0: never early).
    """

    steps: int = 1_000_000
    environments: int = 1024
    rollout_steps: int = 16
    minibatch: int = 4096
    epochs: int = 3
    gamma: float = 0.3
    gae_lambda: float = 0.9
    learning_rate: float = 1e-3
    clip_range: float = 0.2
    entropy: float = 0.002
    hidden: tuple[int, ...] = (64, 64)
    default_lead: float = 1.5
    validate_every: int = 10
    patience: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "environments", "rollout_steps", "epochs", "validate_every"):
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
        if self.patience < 0:
            raise ValueError(f"patience must be at least 0, got {self.patience}")


@dataclass(frozen=True)
class Trained:
    """A trained policy and how training went.

    `policy`: the last one, or the best on the validation suite where there was one. `rewards`:
    mean reward per step of each rollout. `validated`: (steps done, figure) of each look.
    """

    policy: TacticalPolicy
    rewards: tuple[float, ...]
    validated: tuple[tuple[int, float], ...] = ()
    config: TrainConfig = field(default_factory=TrainConfig)


def train(
    envs: VecEnv,
    config: TrainConfig | None = None,
    *,
    presets: Sequence[RuleParams] = PRESETS,
    validate: Callable[[TacticalPolicy], float] | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    tensorboard: Path | None = None,
    card: Mapping[str, Any] | None = None,
) -> Trained:
    """Train in vectorised environments whose action k selects presets[k]; they are closed.

    `validate` gives a figure to a policy, more is better. `progress(steps done, steps in all,
    mean reward)` is called after each rollout. `tensorboard`: folder for its event files. `card`:
    what the exported files should say about the training besides its settings. Raises ImportError
    with the remedy when stable-baselines3 is missing.
    """
    try:
        from stable_baselines3 import PPO
        from stable_baselines3.common.vec_env import VecNormalize
    except ImportError as error:
        raise ImportError(
            "training needs stable-baselines3: install evolve-runtime[train]"
        ) from error
    config = replace(config or TrainConfig(), environments=envs.num_envs)
    envs.seed(config.seed)
    normal = VecNormalize(envs, norm_obs=True, norm_reward=False, clip_obs=10.0)
    try:
        model = PPO(
            "MlpPolicy",
            normal,
            n_steps=config.rollout_steps,
            batch_size=min(config.minibatch, envs.num_envs * config.rollout_steps),
            n_epochs=config.epochs,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            learning_rate=lambda left: config.learning_rate * (0.05 + 0.95 * left),
            clip_range=config.clip_range,
            ent_coef=config.entropy,
            policy_kwargs=_network_shape(config),
            tensorboard_log=str(tensorboard) if tensorboard else None,
            seed=config.seed,
            device="cpu",
        )
        _give_default_its_lead(model, config.default_lead)

        def exported(low: Array, high: Array) -> TacticalPolicy:
            told = {"config": asdict(config), **(card or {})}
            return TacticalPolicy(_export(model, normal, low, high), tuple(presets), told)

        watch = _watch(config, exported, validate, progress)
        model.learn(config.steps, callback=watch)
        policy = watch.best or exported(watch.low, watch.high)
    finally:
        normal.close()
    policy.card = {**policy.card, "rewards": watch.rewards, "validated": watch.validated}
    return Trained(policy, tuple(watch.rewards), tuple(watch.validated), config)


def _network_shape(config: TrainConfig) -> dict[str, Any]:
    import torch

    shape = list(config.hidden)
    return {"net_arch": {"pi": shape, "vf": shape}, "activation_fn": torch.nn.Tanh}


def _give_default_its_lead(model: PPO, lead: float) -> None:
    import torch

    with torch.no_grad():
        cast(Any, model.policy).action_net.bias[0] += lead


def _watch(
    config: TrainConfig,
    exported: Callable[[Array, Array], TacticalPolicy],
    validate: Callable[[TacticalPolicy], float] | None,
    progress: Callable[[int, int, float], None] | None,
) -> Any:
    from stable_baselines3.common.callbacks import BaseCallback

    class TrainingMonitor(BaseCallback):
        """Notes the range of raw observations, the mean reward of each rollout, and the policy
        that did best on the validation suite; ends training when that no longer gets better."""

        def __init__(self) -> None:
            super().__init__()
            self.rewards: list[float] = []
            self.validated: list[tuple[int, float]] = []
            self.best: TacticalPolicy | None = None
            self.low: Array | None = None
            self.high: Array | None = None
            self._since_best = 0

        def _on_step(self) -> bool:
            seen = self.training_env.get_original_obs()  # type: ignore[attr-defined]
            low, high = seen.min(axis=0), seen.max(axis=0)
            self.low = low if self.low is None else np.minimum(self.low, low)
            self.high = high if self.high is None else np.maximum(self.high, high)
            return not 0 < config.patience <= self._since_best

        def _on_rollout_end(self) -> None:
            mean = float(cast(Any, self.model).rollout_buffer.rewards.mean())
            self.rewards.append(mean)
            self.logger.record("rollout/mean_reward_per_step", mean)
            if progress is not None:
                progress(min(self.num_timesteps, config.steps), config.steps, mean)
            last = self.num_timesteps >= config.steps
            if validate is not None and (last or len(self.rewards) % config.validate_every == 0):
                self._validate(validate)

        def _validate(self, figure_of: Callable[[TacticalPolicy], float]) -> None:
            assert self.low is not None
            assert self.high is not None
            policy = exported(self.low, self.high)
            figure = figure_of(policy)
            self.logger.record("validation/figure", figure)
            self._since_best += 1
            if not self.validated or figure > max(f for _, f in self.validated):
                self.best, self._since_best = policy, 0
            self.validated.append((self.num_timesteps, figure))

    return TrainingMonitor()


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
