"""LinUCB on problems whose best answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from policies.bandit import LinUCB
from policies.base import Choice
from policies.observation import Signal, observation_names
from policies.presets import DEFAULT, PRESETS
from tests.policies.observed import signals

THREE = PRESETS[:3]
WIDTH = len(observation_names(3))
START = Choice(DEFAULT, "start")
Floats = np.ndarray[Any, np.dtype[np.float64]]


def plane(n: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Observations of unequal scales, and the two directions that matter, standardised."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, WIDTH))
    return 5.0 + 3.0 * z, z[:, [Signal.QUEUE, Signal.BURSTINESS]]


def worth(z: Floats, tried: Any, noise: Any = 0.0) -> Floats:
    """Preset 1 is worth the queue, 2 the burstiness; 0 is worth exactly 0."""
    advantages = np.concatenate([np.zeros((len(z), 1)), z], axis=1)
    return np.asarray(advantages[np.arange(len(z)), tried] + (tried > 0) * noise)


def fitted(n: int = 4000, **settings: float) -> LinUCB:
    seen, z = plane(n)
    rng = np.random.default_rng(1)
    tried = rng.integers(0, 3, n)
    return LinUCB.fit(seen, tried, worth(z, tried, rng.normal(size=n)), THREE, **settings)


def test_linucb_finds_the_best_preset_of_a_linear_problem() -> None:
    seen, z = plane(2000, seed=7)
    best = np.concatenate([np.zeros((2000, 1)), z], axis=1)
    told = fitted().actions(seen)
    assert told.dtype == np.int64
    # Where the best leads by half a standard deviation it must be found; a tie may go either way.
    clear = np.sort(best, axis=1)[:, -1] - np.sort(best, axis=1)[:, -2] > 0.5
    assert (told == best.argmax(axis=1))[clear].mean() > 0.99
    assert set(told) == {0, 1, 2}


def test_linucb_weights_are_those_of_ridge_regression() -> None:
    seen, z = plane(300)
    tried = np.ones(300, np.int64)
    rewards = worth(z, tried)
    policy = LinUCB.fit(seen, tried, rewards, THREE, ridge=2.0)
    x = np.c_[(seen - seen.mean(0)) / seen.std(0), np.ones(300)]
    expected = np.linalg.solve(x.T @ x + 2.0 * np.eye(WIDTH + 1), x.T @ rewards)
    np.testing.assert_allclose(policy.weights[1], expected, atol=1e-10)
    assert not policy.weights[[0, 2]].any()


def test_linucb_bonus_is_of_what_is_not_known() -> None:
    """The bound is expected + alpha · √(z' A⁻¹ z); with nothing seen A = I, z' z = |z|² + 1."""
    seen, z = plane(500)
    tried = np.ones(500, np.int64)
    policy = LinUCB.fit(seen, tried, worth(z, tried) - 9.0, THREE, alpha=0.5)
    x = np.clip((seen - seen.mean(0)) / seen.std(0), -10, 10)
    extra = policy.scores(seen, explore=True) - policy.scores(seen)
    np.testing.assert_allclose(extra[:, 2], 0.5 * np.sqrt((x**2).sum(1) + 1.0))
    assert (extra[:, 1] < extra[:, 2]).all()
    assert not extra[:, 0].any()  # what preset 0 is worth is known
    assert set(policy.actions(seen, explore=True)) == {2}
    assert set(policy.actions(seen)) == {0}


def test_linucb_updated_bit_by_bit_is_linucb_fitted_at_once() -> None:
    seen, z = plane(900)
    tried = np.arange(900) % 3
    rewards = worth(z, tried)
    first = LinUCB.fit(seen[:600], tried[:600], rewards[:600], THREE)
    before = first.weights.copy()
    bits = first
    for k in range(600, 900, 50):
        bits = bits.update(*(a[k : k + 50] for a in (seen, tried, rewards)))
    at_once = first.update(seen[600:], tried[600:], rewards[600:])
    np.testing.assert_allclose(bits.weights, at_once.weights, atol=1e-10)
    np.testing.assert_array_equal(first.weights, before)  # a value: nothing changed
    assert np.abs(bits.weights - before).max() > 1e-4


def test_linucb_learns_by_exploring() -> None:
    """From its own trials alone."""
    seen, _ = plane(50, seed=99)  # preset 0 only: nothing but the scale of the observations
    policy = LinUCB.fit(seen, np.zeros(50, np.int64), np.zeros(50), THREE, alpha=2.0)
    for k in range(40):
        seen, z = plane(50, seed=100 + k)
        tried = policy.actions(seen, explore=True)
        policy = policy.update(seen, tried, worth(z, tried))
    seen, z = plane(1000, seed=7)
    lost = np.maximum(z.max(axis=1), 0.0) - worth(z, policy.actions(seen))
    assert lost.mean() < 0.02


def test_linucb_ignores_what_never_varied_and_holds_what_is_far() -> None:
    seen, z = plane(600)
    seen[:, 3] = 7.0
    tried = np.arange(600) % 3
    policy = LinUCB.fit(seen, tried, worth(z, tried), THREE)
    odd = seen[:5].copy()
    odd[:, 3] = 1e9
    np.testing.assert_allclose(policy.scores(odd), policy.scores(seen[:5]))
    odd[:, Signal.QUEUE] = 1e30
    assert np.abs(policy.scores(odd)).max() < 20.0
    assert policy.scores(odd)[:, 1] == pytest.approx(10.0, abs=5.0)


def test_linucb_says_what_a_preset_promises() -> None:
    choice = fitted().choose(signals(queue=10**6), START)
    assert choice.reason.startswith(f"{choice.params.name} promises")
    assert set(choice.scores) == {preset.name for preset in THREE}
    assert choice.params is THREE[int(np.argmax(list(choice.scores.values())))]
    nothing = LinUCB.fit(plane(9)[0], np.zeros(9, int), np.zeros(9), THREE)
    assert nothing.choose(signals(), START).reason == "nothing promises more than default"
    lost = fitted().choose(signals(queue=float("nan")), START)
    assert lost.params is DEFAULT
    assert lost.reason == "default: an observation is not finite"


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="ridge must be finite and greater than 0, got 0"):
        fitted(9, ridge=0.0)
    with pytest.raises(ValueError, match="alpha must be finite and at least 0, got -1"):
        fitted(9, alpha=-1.0)
