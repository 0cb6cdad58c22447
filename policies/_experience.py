"""Experience to fit a policy to: observations, presets tried and what each was worth; checked."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from policies.observation import observation_names
from policies.params import RuleParams

__all__ = ["Experience", "checked", "checked_presets", "checked_seen"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Experience(NamedTuple):
    """`seen` [N, D] (`observe`), `actions` [N] preset indices, `rewards` [N] over preset 0."""

    seen: Floats
    actions: Ints
    rewards: Floats


def checked_presets(presets: tuple[RuleParams, ...]) -> tuple[RuleParams, ...]:
    """The presets as a tuple; ValueError when there are none or names repeat."""
    names = [preset.name for preset in presets]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"presets must be settings of different names, got {names}")
    return tuple(presets)


def checked_seen(seen: ArrayLike, presets: int) -> Floats:
    """Observations [N, D] as float64; ValueError when they are not those of so many presets."""
    array = np.asarray(seen, np.float64)
    width = len(observation_names(presets))
    if array.ndim != 2 or array.shape[1] != width:
        raise ValueError(
            f"seen must be [N, {width}], the observations with {presets} presets, "
            f"got shape {list(array.shape)}"
        )
    return array


def checked(seen: ArrayLike, actions: ArrayLike, rewards: ArrayLike, presets: int) -> Experience:
    """The three arrays; ValueError names the one that is out of shape, range or not finite."""
    rows = checked_seen(seen, presets)
    tried: NDArray[Any] = np.asarray(actions)
    worth = np.asarray(rewards, np.float64)
    for name, array in (("actions", tried), ("rewards", worth)):
        if array.shape != rows.shape[:1] or not len(rows):
            raise ValueError(
                f"{name} must be [N], one for each of the N >= 1 rows of seen, "
                f"got shape {list(array.shape)} for {len(rows)} rows"
            )
    if tried.dtype.kind not in "iu" or tried.min() < 0 or tried.max() >= presets:
        raise ValueError(f"actions must be indices of presets below {presets}, got {tried}")
    for name, array in (("seen", rows), ("rewards", worth)):
        if not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise ValueError(f"{name} must be finite, got {array[row]} in row {row}; leave it out")
    wrong = np.flatnonzero((tried == 0) & (worth != 0.0))
    if wrong.size:
        raise ValueError(
            "rewards must be exactly 0 for preset 0, being advantages over it, "
            f"got {worth[wrong[0]]} in row {wrong[0]}; subtract what preset 0 would have got"
        )
    return Experience(rows, tried.astype(np.int64), worth)
