"""A contextual bandit over the presets: what a policy can do without looking ahead.

    observation [D] ──▶ standardise, append 1 ──▶ per preset: θ · z + alpha √(z' A⁻¹ z) ──▶ best

LinUCB with disjoint linear models (Li, Chu, Langford and Schapire, "A contextual-bandit approach
to personalized news article recommendation", WWW 2010, Algorithm 1). It learns from the very
rewards that PPO is trained on, so whatever PPO gains over it is worth its machinery.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from policies._experience import checked, checked_presets, checked_seen
from policies.base import Choice
from policies.observation import observe
from policies.params import RuleParams

if TYPE_CHECKING:
    from profiler.signals import Signals

__all__ = ["LinUCB"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_CLIP = 10.0
"""Standardised observations are held within this, as for the networks."""


@dataclass(frozen=True, eq=False)
class LinUCB:
    """One ridge regression of the reward per preset, and how little each is known.

    `presets` [K]; rewards are advantages over the first, whose own is 0 and known: it has neither
    weights nor a bonus. `mean`, `scale` [D] standardise observations. `gram` [K, D + 1, D + 1]
    (the paper's A) and `moment` [K, D + 1] (its b) are the sufficient statistics. `alpha`: width
    of the bonus, in the unit of the reward.

    A value: `update` gives a new one. Made by `LinUCB.fit`:

    >>> import numpy as np
    >>> from policies.observation import observation_names
    >>> from policies.presets import PRESETS
    >>> rng = np.random.default_rng(0)
    >>> seen = rng.normal(size=(400, len(observation_names(2))))
    >>> tried = rng.integers(0, 2, 400)
    >>> policy = LinUCB.fit(seen, tried, tried * seen[:, 22], PRESETS[:2])  # good in long queues
    >>> policy.actions(np.outer([-1.0, 1.0], np.eye(seen.shape[1])[22])).tolist()
    [0, 1]
    """

    presets: tuple[RuleParams, ...]
    mean: Floats
    scale: Floats
    gram: Floats
    moment: Floats
    alpha: float
    weights: Floats = field(init=False, repr=False)
    _inverse: Floats = field(init=False, repr=False)

    name = "linucb"

    def __post_init__(self) -> None:
        inverse = np.linalg.inv(self.gram)
        object.__setattr__(self, "_inverse", inverse)
        object.__setattr__(self, "weights", np.einsum("kij,kj->ki", inverse, self.moment))

    @classmethod
    def fit(
        cls,
        seen: ArrayLike,
        actions: ArrayLike,
        rewards: ArrayLike,
        presets: tuple[RuleParams, ...],
        *,
        ridge: float = 1.0,
        alpha: float = 1.0,
    ) -> LinUCB:
        """The policy after `seen` [N, D], `actions` [N] (preset indices), `rewards` [N].

        `ridge`: what every diagonal of `gram` starts from (1 in the paper); larger trusts single
        rewards less. The scale of the observations is that of this first batch. ValueError names
        an array of the wrong shape or range, and a reward of preset 0 that is not 0.
        """
        if not (math.isfinite(ridge) and ridge > 0.0):
            raise ValueError(f"ridge must be finite and greater than 0, got {ridge}")
        if not (math.isfinite(alpha) and alpha >= 0.0):
            raise ValueError(f"alpha must be finite and at least 0, got {alpha}")
        presets = checked_presets(presets)
        batch = checked(seen, actions, rewards, len(presets))
        mean, scale = batch.seen.mean(axis=0), batch.seen.std(axis=0)
        scale[scale < 1e-9] = 1.0  # constant so far: its weight stays 0
        d = len(mean) + 1
        gram = np.tile(ridge * np.eye(d), (len(presets), 1, 1))
        empty = cls(presets, mean, scale, gram, np.zeros((len(presets), d)), alpha)
        return empty.update(*batch)

    def update(self, seen: ArrayLike, actions: ArrayLike, rewards: ArrayLike) -> LinUCB:
        """The policy after these as well, however few, in whatever order; arrays as in `fit`."""
        batch = checked(seen, actions, rewards, len(self.presets))
        z = self._standardised(batch.seen)
        gram, moment = self.gram.copy(), self.moment.copy()
        for k in range(1, len(self.presets)):
            mine = batch.actions == k
            gram[k] += z[mine].T @ z[mine]
            moment[k] += z[mine].T @ batch.rewards[mine]
        return replace(self, gram=gram, moment=moment)

    def scores(self, seen: ArrayLike, *, explore: bool = False) -> Floats:
        """Expected advantage over preset 0 [E, K] for `seen` [E, D]; explore: its upper bound."""
        z = self._standardised(checked_seen(seen, len(self.presets)))
        expected = z @ self.weights.T
        if explore:
            for k in range(1, len(self.presets)):
                variance = np.einsum("ei,ei->e", z @ self._inverse[k], z)
                expected[:, k] += self.alpha * np.sqrt(np.maximum(variance, 0.0))
        return np.asarray(expected, np.float64)

    def actions(self, seen: ArrayLike, *, explore: bool = False) -> Ints:
        """A preset index [E] for each row of `seen` [E, D], ties to the first.

        explore: by the upper bound, as while learning; else by the expected advantage.
        """
        return np.asarray(self.scores(seen, explore=explore).argmax(axis=1), np.int64)

    def choose(self, signals: Signals, current: Choice) -> Choice:
        """The preset of the highest expected advantage; nothing is explored on live traffic."""
        names = [preset.name for preset in self.presets]
        active = names.index(current.params.name) if current.params.name in names else 0
        seen = observe(signals, active, len(names))
        if not np.isfinite(seen).all():
            return Choice(self.presets[0], f"{names[0]}: an observation is not finite")
        scores = self.scores(seen[None])[0]
        best = int(scores.argmax())
        reason = (
            f"nothing promises more than {names[0]}"
            if best == 0
            else f"{names[best]} promises {scores[best]:.3g} more than {names[0]}"
        )
        return Choice(self.presets[best], reason, dict(zip(names, scores.tolist(), strict=True)))

    def _standardised(self, seen: Floats) -> Floats:
        z = np.clip((seen - self.mean) / self.scale, -_CLIP, _CLIP)
        return np.concatenate([z, np.ones((len(z), 1))], axis=1)
