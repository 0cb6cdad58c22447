"""Whole settings of the rule that a tactical policy may switch between.

Whole presets, not one knob at a time: a policy over factored knobs spent its training on
combinations that are never good (decision 0006).
"""

from __future__ import annotations

from policies.params import RuleParams

__all__ = ["DEFAULT", "PRESETS", "preset_index"]

DEFAULT = RuleParams("default")
"""The strongest single setting known: what runs when no policy knows better."""

PRESETS: tuple[RuleParams, ...] = (
    DEFAULT,
    RuleParams("published", margin=1.0, delta=1.0),  # the constants of the feasibility study
    RuleParams("lenient", delta=0.0),  # drops only the hopeless: short bursts
    RuleParams("mild", delta=0.4),
    RuleParams("strict", delta=1.1),  # lasting overload
    RuleParams("very-strict", delta=1.5),
    RuleParams("wary", margin=0.5, delta=1.0),  # costs are underestimated, spikes
    RuleParams("bold", margin=1.1, delta=0.6),  # costs are overestimated
    RuleParams("broad", spread=3.0),  # few requests of very different lengths
    RuleParams("narrow", spread=1.25),  # many of each length
    RuleParams("quality", beta=0.7, alpha=0.5),  # accurate tiers for longer
    RuleParams("speed", beta=1.5, alpha=1.25),  # cheaper tiers sooner
    RuleParams("surge-ahead", alpha=1.5),
    RuleParams("small", max_rows=4),
    RuleParams("hold", wait_ms=3.0),  # sparse arrivals, batches that pay
)
"""Index 0 is the default. The order is part of an exported policy's file: append, don't insert."""


def preset_index(name: str) -> int:
    """Position of the preset called `name`, or 0 (the default) when there is none."""
    return next((i for i, preset in enumerate(PRESETS) if preset.name == name), 0)
