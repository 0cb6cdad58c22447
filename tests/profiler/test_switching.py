"""What a change of plan costs is told from what the machine is slower at anyway."""

from __future__ import annotations

import numpy as np
import pytest

from profiler.switching import SwitchCost


def after(changed_ms: float, others_ms: float, batches: int = 64, seed: int = 0) -> SwitchCost:
    """Batches of 5 ms that take so much more, with noise and rare outliers."""
    rng = np.random.default_rng(seed)
    switching = SwitchCost()
    for _ in range(batches):
        for changed, more_ms in ((True, changed_ms), (False, others_ms)):
            noise = rng.normal(0.0, 0.05) + 100.0 * (rng.random() < 0.02)
            switching.record_batch(5.0 + more_ms + noise, predicted_ms=5.0, changed=changed)
    return switching


def test_only_what_exceeds_the_others_is_charged() -> None:
    assert after(1.5, 0.0).ms == pytest.approx(1.5, abs=0.05)
    assert after(2.0, 0.5).ms == pytest.approx(1.5, abs=0.05)


def test_a_change_never_costs_less_than_nothing() -> None:
    assert after(-1.0, 0.5).ms == 0.0


def test_a_few_batches_say_nothing() -> None:
    assert after(1.5, 0.0, batches=15).ms == 0.0
    assert after(1.5, 0.0, batches=16).ms > 1.0


def test_what_was_never_predicted_or_timed_says_nothing() -> None:
    switching = after(1.5, 0.0)
    before = switching.ms
    for elapsed_ms, predicted_ms in ((90.0, 0.0), (float("nan"), 5.0), (90.0, float("inf"))):
        switching.record_batch(elapsed_ms, predicted_ms=predicted_ms, changed=True)
    assert switching.ms == before


def test_the_plan_keeps_at_least_half_of_its_batch() -> None:
    switching = after(1.5, 0.0)
    assert switching.without(6.0) == pytest.approx(4.5, abs=0.05)
    assert switching.without(2.0) == 1.0
