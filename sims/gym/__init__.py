"""The load gym: what its episodes are drawn from, its environments for Gymnasium and SB3."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.lazy import lazy_exports

if TYPE_CHECKING:
    from sims.gym.load_gym import REWARD_SCALE, TICK_MS, LoadGym, Stepped, bounds, presets_of
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "load_gym": "LoadGym REWARD_SCALE Stepped TICK_MS bounds presets_of",
        },
    )

__all__ = ["REWARD_SCALE", "TICK_MS", "LoadGym", "Stepped", "bounds", "presets_of"]
