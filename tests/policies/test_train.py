"""Training: it runs, exports what it learned, and learns where there is something to learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from policies.base import Choice
from policies.presets import DEFAULT, PRESETS
from policies.tactical import TacticalPolicy, observation_names, observe
from policies.train import TrainConfig, train
from tests.policies.observed import signals

pytest.importorskip("stable_baselines3")

FEW = PRESETS[:3]
WIDTH = len(observation_names(len(FEW)))


class Busy(gymnasium.Env[Any, Any]):
    """Preset 2 pays when the queue is long, the default otherwise."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-20, 20, (WIDTH,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(len(FEW))

    def _see(self) -> np.ndarray:
        self._long = bool(self.np_random.integers(2))
        return observe(signals(queue=50 if self._long else 0), 0, len(FEW))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._left = 20
        return self._see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(int(action) == (2 if self._long else 0))
        self._left -= 1
        return self._see(), reward, False, self._left == 0, {}


def test_it_learns_exports_and_reports(tmp_path: Path) -> None:
    config = TrainConfig(
        steps=4096,
        environments=4,
        rollout_steps=128,
        minibatch=64,
        epochs=10,
        learning_rate=3e-3,
        hidden=(16,),
    )
    told: list[tuple[int, int, float]] = []
    trained = train(
        Busy, config, presets=FEW, progress=lambda *a: told.append(a), card={"suite": "busy"}
    )
    assert [t[0] for t in told] == list(range(512, 4097, 512))
    assert told[-1][2] > told[0][2]
    trained.policy.save(tmp_path)
    policy = TacticalPolicy.load(tmp_path)
    assert policy.card["suite"] == "busy"
    assert policy.card["config"]["steps"] == 4096
    start = Choice(DEFAULT, "start")
    assert policy.choose(signals(queue=50), start).params == PRESETS[2]
    assert policy.choose(signals(queue=0), start).params == DEFAULT
    assert "never seen in training" in policy.choose(signals(queue=5000), start).reason


def test_untrained_it_is_the_default_rule() -> None:
    config = TrainConfig(
        steps=2, environments=1, rollout_steps=2, minibatch=2, epochs=1, learning_rate=1e-9
    )
    policy = train(Busy, config, presets=FEW).policy
    for queue in (0, 3, 50):
        logits = policy.network.logits(observe(signals(queue=queue), 0, len(FEW)))
        assert logits.argmax() == 0
    assert policy.choose(signals(queue=50), Choice(DEFAULT, "start")).params == DEFAULT


def test_the_same_seed_trains_the_same_policy() -> None:
    config = TrainConfig(steps=64, environments=2, rollout_steps=16, minibatch=16, epochs=1)
    one, two = (train(Busy, config, presets=FEW) for _ in range(2))
    assert one.rewards == two.rewards
    for (w, b), (v, c) in zip(one.policy.network.layers, two.policy.network.layers, strict=True):
        np.testing.assert_array_equal(w, v)
        np.testing.assert_array_equal(b, c)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"minibatch": 1}, "minibatch and environments"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite and greater than 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        TrainConfig(**changes)
