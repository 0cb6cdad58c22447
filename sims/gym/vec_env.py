"""The load gym for stable-baselines3: natively vectorised, no Python per environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from sims.gym.load_gym import LoadGym

try:
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    raise ImportError("training needs stable-baselines3: install evolve-runtime[train]") from error

__all__ = ["LoadVecEnv"]


class LoadVecEnv(VecEnv):
    """`LoadGym` with the interface of `stable_baselines3.common.vec_env.VecEnv`.

    Observations, actions and rewards are those of `sims.gym.env.LoadEnv`. An episode's end is a
    truncation: its info holds `terminal_observation`, `TimeLimit.truncated` and `episode` (return,
    length in ticks, `met_ratio`, `utility`), as `VecMonitor` would write it.

    >>> from sims.gym.domain import LoadDomain
    >>> envs = LoadVecEnv(LoadGym(LoadDomain(seconds=1.0), 4, services=2, traces=2))
    >>> envs.reset().shape
    (4, 63)
    """

    def __init__(self, gym: LoadGym) -> None:
        self.gym = gym
        super().__init__(
            gym.environments,
            gymnasium.spaces.Box(gym.low, gym.high, dtype=np.float32),
            gymnasium.spaces.Discrete(len(gym.presets)),
        )
        self._quiet: list[dict[str, Any]] = [{} for _ in range(gym.environments)]
        self._returned = np.zeros(gym.environments)
        self._ticks = np.zeros(gym.environments, np.int64)
        self._actions = np.zeros(gym.environments, np.int64)

    def reset(self) -> Any:
        self._returned[:], self._ticks[:] = 0.0, 0
        return self.gym.reset()

    def step_async(self, actions: Any) -> None:
        self._actions = actions

    def step_wait(self) -> Any:
        stepped = self.gym.step(self._actions)
        self._returned += stepped.reward
        self._ticks += 1
        infos = self._quiet
        if stepped.done.any():
            infos = list(self._quiet)
            for e in np.flatnonzero(stepped.done).tolist():
                infos[e] = self._ended(e, stepped.last_seen[e], stepped.totals[e])
            self._returned[stepped.done], self._ticks[stepped.done] = 0.0, 0
        return stepped.seen, stepped.reward.astype(np.float32), stepped.done, infos

    def _ended(self, e: int, last_seen: Any, totals: Any) -> dict[str, Any]:
        offered = max(1.0, float(totals[0]))
        return {
            "terminal_observation": last_seen.copy(),
            "TimeLimit.truncated": True,
            "episode": {
                "r": float(self._returned[e]),
                "l": int(self._ticks[e]),
                "met_ratio": float(totals[2]) / offered,
                "utility": float(totals[3]) / offered,
            },
        }

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        if seed is not None:
            self.gym.seed(seed)
        return [seed] * self.num_envs

    def close(self) -> None:
        self.gym.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.gym, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(
            f"{attr_name} must be given to LoadGym: one gym serves all environments"
        )

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any:
        raise AttributeError(f"{method_name} must be called on LoadGym: it has no single ones")

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper], indices: Any = None
    ) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))
