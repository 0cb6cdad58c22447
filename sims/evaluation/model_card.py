"""A trained policy's model card: what it was trained on, with what, and what came of it.

After M. Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import metadata
from typing import Any

import numpy as np

from policies.tactical import TacticalPolicy
from policies.train import TrainConfig
from sims.evaluation.evaluate import Episode, evaluate
from sims.evaluation.statistics import paired
from sims.gym.domain import LoadDomain

__all__ = ["held_out", "model_card", "to_markdown", "utility"]

PACKAGES = ("evolve-runtime", "stable-baselines3", "torch", "numpy", "numba", "gymnasium")
VALIDATION_SALT, TEST_SALT = 0x5A1D, 0x7E57


def held_out(domain: LoadDomain, episodes: int, seed: int, salt: int) -> list[Episode]:
    """Episodes of a domain that no gym of any seed draws; another `salt` gives others."""
    rng = np.random.default_rng([seed, salt])
    return [domain.draw(rng) for _ in range(episodes)]


def utility(policy: TacticalPolicy, episodes: Sequence[Episode]) -> float:
    """Mean utility of a policy over episodes: the figure that training is stopped by."""
    return float(evaluate(episodes, [policy], policy.presets).utility.mean())


def model_card(
    policy: TacticalPolicy, config: TrainConfig, domain: LoadDomain, *, episodes: int = 200
) -> dict[str, Any]:
    """The card as plain values: settings, seeds, versions, and results on unseen episodes.

    The result is the paired difference to preset 0, the rule, in percentage points of utility
    with a 95 % interval over episodes (each its own draw of service and arrivals).
    """
    test = held_out(domain, episodes, config.seed, TEST_SALT)
    scores = evaluate(test, [policy, policy.presets[0]], policy.presets)
    gain = paired(scores.utility[0], scores.utility[1])
    by_episode = 100.0 * (scores.utility[0] - scores.utility[1])
    ranges = {
        f.name: getattr(domain, f.name)
        for f in fields(LoadDomain)
        if isinstance(getattr(domain, f.name), tuple | float) and f.name != "regimes"
    }
    return {
        "environment": "evolve/Load-v0",
        "domain": {**ranges, "regimes": [_name(regime) for regime in domain.regimes]},
        "seed": config.seed,
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in PACKAGES},
        "results": {
            "episodes": episodes,
            "utility": float(scores.utility[0].mean()),
            "utility of the rule": float(scores.utility[1].mean()),
            "points over the rule": gain.mean,
            "low": gain.low,
            "high": gain.high,
            "worst episode": float(by_episode.min()),
        },
    }


def to_markdown(card: Mapping[str, Any]) -> str:
    """The card for people."""
    results, config = card["results"], card["config"]
    sure = results["low"] > 0.0
    verdict = "better than the rule" if sure else "not shown to be better than the rule"
    lines = [
        "# Tactical policy",
        "",
        f"Chooses among {len(card['presets'])} settings of the dispatch rule every 100 ms; trained "
        f"by PPO in `{card['environment']}` and {verdict} there.",
        "",
        "## Results on episodes never seen in training",
        "",
        "| figure | value |",
        "|---|---|",
        *(f"| {name} | {value:.4g} |" for name, value in results.items()),
        "",
        "Points are percentage points of utility, with a 95 % interval over paired episodes.",
        "",
        "## Trained on",
        "",
        *(f"- {name}: {value}" for name, value in card["domain"].items()),
        "",
        "## Trained with",
        "",
        *(f"- {name}: {value}" for name, value in config.items()),
        "",
        "## Versions",
        "",
        *(f"- {name} {version}" for name, version in card["versions"].items()),
        "",
        "Outside the range of observations seen in training it falls back to the rule and says so.",
    ]
    return "\n".join(lines) + "\n"


def _name(regime: Any) -> str:
    """Of a function, or of one with some arguments given."""
    if hasattr(regime, "func"):
        given = ", ".join(f"{k}={v}" for k, v in regime.keywords.items())
        return f"{regime.func.__name__}({given})"
    return str(getattr(regime, "__name__", type(regime).__name__))
