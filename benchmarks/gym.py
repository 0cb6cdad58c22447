"""Is a learned policy worth having? The gym's speed, the suite, and PPO against the best rule.

`python -m benchmarks gym` (about 25 minutes) prints tables and saves out/bench/gym-*.json; recorded
regimes are included where EVOLVE_DATA names the folder of traces.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.gym_domains import domains
from benchmarks.gym_policies import STEPS, TEST_SEEDS, TRAINING_SEEDS, TUNING_SEEDS, weigh
from benchmarks.gym_speed import speed
from benchmarks.harness import publish
from sims.evaluation.suite import suite


def main() -> None:
    say = Console()
    given = os.environ.get("EVOLVE_DATA")
    if given is None:
        say.print("EVOLVE_DATA is not set: the three recorded regimes are left out.")
    cases = suite(data=Path(given) if given else None)
    settings: dict[str, Any] = {
        "regimes": list(cases.regimes), "loads": cases.loads, "test seeds": TEST_SEEDS,
        "tuning seeds": TUNING_SEEDS, "training seeds": TRAINING_SEEDS, "steps": STEPS,
    }  # fmt: skip
    weighed = domains(cases)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are trying to run PPO on the GPU")
        publish("gym-speed", "How fast does the gym step?", speed(weighed[-1]))
        for domain in weighed:
            told = weigh(domain, cases, say)
            publish(
                f"gym-{domain.name.replace(', ', '-')}",
                f"PPO over the best fixed setting, {domain.name}",
                _flat(told), **settings, detail=told,
            )  # fmt: skip


def _flat(told: dict[str, Any]) -> dict[str, Any]:
    """One line per figure."""
    lines: dict[str, Any] = {}
    for name, value in told.items():
        if isinstance(value, dict) and "points" in value:
            lines[name] = (
                f"{value['points']:+.3f} points ({value['low']:+.3f} to {value['high']:+.3f}), "
                f"worst cell {value['worst cell']:+.2f}, "
                f"{value['cells better']} of {value['cells']} cells better"
            )
        elif isinstance(value, dict) and "reason" in value:
            lines[name] = value["reason"]
        elif isinstance(value, list):
            lines[name] = ", ".join(f"{item:.0f}" for item in value)
        elif not isinstance(value, dict):
            lines[name] = value
    return lines
