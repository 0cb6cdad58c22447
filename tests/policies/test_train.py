"""Training: it runs, exports what it learned, and learns where there is something to learn."""

from __future__ import annotations

import sys
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

vectorised = pytest.importorskip("stable_baselines3.common.vec_env")

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


def busy(environments: int) -> Any:
    return vectorised.DummyVecEnv([Busy] * environments)


def short(**changes: Any) -> TrainConfig:
    """Rollouts of 32 steps, as many as asked for."""
    values = {"environments": 2, "rollout_steps": 16, "minibatch": 16, "epochs": 1, "hidden": (4,)}
    return TrainConfig(**{"steps": 32 * 6, **values, **changes})


class Figures:
    """A validation suite with its answers written down, that keeps what it was shown."""

    def __init__(self, *figures: float) -> None:
        self._figures, self.shown = iter(figures), list[TacticalPolicy]()

    def __call__(self, policy: TacticalPolicy) -> float:
        self.shown.append(policy)
        return next(self._figures)


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
        busy(4), config, presets=FEW, progress=lambda *a: told.append(a), card={"suite": "busy"}
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
    policy = train(busy(1), config, presets=FEW).policy
    for queue in (0, 3, 50):
        logits = policy.network.logits(observe(signals(queue=queue), 0, len(FEW)))
        assert logits.argmax() == 0
    assert policy.choose(signals(queue=50), Choice(DEFAULT, "start")).params == DEFAULT


def test_the_same_seed_trains_the_same_policy() -> None:
    config = short(steps=64)
    one, two = (train(busy(2), config, presets=FEW) for _ in range(2))
    assert one.rewards == two.rewards
    for (w, b), (v, c) in zip(one.policy.network.layers, two.policy.network.layers, strict=True):
        np.testing.assert_array_equal(w, v)
        np.testing.assert_array_equal(b, c)


def test_the_best_on_the_validation_suite_is_kept(tmp_path: Path) -> None:
    suite = Figures(0.1, 0.3, 0.2)
    trained = train(busy(2), short(validate_every=2), presets=FEW, validate=suite)
    assert trained.validated == ((64, 0.1), (128, 0.3), (192, 0.2))
    assert trained.policy is suite.shown[1]
    weights = [policy.network.layers[-1][1] for policy in suite.shown]
    assert (weights[1] != weights[2]).any()  # training went on and did not touch it
    trained.policy.save(tmp_path)
    card = TacticalPolicy.load(tmp_path).card
    assert card["validated"] == [[64, 0.1], [128, 0.3], [192, 0.2]]
    assert card["rewards"] == list(trained.rewards)
    assert len(card["rewards"]) == 6


def test_the_last_rollout_is_validated_whenever_it_comes() -> None:
    trained = train(busy(2), short(steps=96), presets=FEW, validate=Figures(0.5))
    assert trained.validated == ((96, 0.5),)
    assert train(busy(2), short(steps=96), presets=FEW).validated == ()


def test_training_ends_after_so_many_looks_without_a_better_one() -> None:
    figures = (0.2, 0.3, 0.3, 0.1)  # as good is not better
    config = short(steps=32 * 50, validate_every=1, patience=2)
    trained = train(busy(2), config, presets=FEW, validate=Figures(*figures))
    assert trained.validated == tuple(zip((32, 64, 96, 128), figures, strict=True))
    assert len(trained.rewards) == 4


def test_tensorboard_gets_its_event_files(tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = short(validate_every=1, steps=64)
    train(busy(2), config, presets=FEW, validate=Figures(0.25, 0.5), tensorboard=tmp_path)
    (file,) = tmp_path.rglob("events.out.tfevents.*")
    events = loader.EventAccumulator(str(file))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"rollout/mean_reward_per_step", "validation/figure", "train/loss"} <= tags
    assert events.Scalars("validation/figure")[0].value == 0.25


def test_without_stable_baselines_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    envs = busy(1)
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(ImportError, match=r"install evolve-runtime\[train\]"):
        train(envs, short(), presets=FEW)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"minibatch": 1}, "minibatch and environments"),
        ({"environments": 0}, "environments must be at least 1, got 0"),
        ({"environments": 1, "rollout_steps": 1}, "must be at least 2, got 4096 and 1"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite and greater than 0"),
        ({"validate_every": 0}, "validate_every must be at least 1, got 0"),
        ({"patience": -1}, "patience must be at least 0, got -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        TrainConfig(**changes)
