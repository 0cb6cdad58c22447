"""The load gym: what its episodes are drawn from, its environments for Gymnasium and SB3."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sims.gym.load_gym import REWARD_SCALE, TICK_MS, LoadGym, Stepped, bounds, presets_of

__all__ = ["REWARD_SCALE", "TICK_MS", "LoadGym", "Stepped", "bounds", "presets_of"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.load_gym"), name)
    globals()[name] = value
    return value
