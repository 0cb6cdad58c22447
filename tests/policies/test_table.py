"""The table on problems whose best answer is known, and experience that no policy takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from policies.bandit import LinUCB
from policies.base import Choice
from policies.observation import Signal, observation_names
from policies.presets import DEFAULT, PRESETS
from policies.table import TablePolicy
from tests.policies.observed import signals

THREE = PRESETS[:3]
WIDTH = len(observation_names(3))
START = Choice(DEFAULT, "start")
Floats = np.ndarray[Any, np.dtype[np.float64]]


def services(
    n: int, *, workers: int = 2, slo_ms: float = 50.0, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """Observations of a service, its arrivals per worker 0..100, its burstiness 0..8."""
    rng = np.random.default_rng(seed)
    load, cv2 = rng.uniform(0, 100, n), rng.uniform(0, 8, n)
    seen = rng.normal(size=(n, WIDTH))
    seen[:, :10] = np.log1p(load * workers / 10)[:, None]
    seen[:, Signal.BURSTINESS] = np.log1p(cv2)
    seen[:, Signal.WORKERS], seen[:, Signal.SLO_MS] = np.log(workers), np.log(slo_ms)
    return seen, load, cv2


def corner(load: Floats, cv2: Floats) -> Any:
    """Preset 1 is best at high load, 2 at low load with bursts, else preset 0."""
    return np.where(load > 50, 1, np.where(cv2 > 4, 2, 0))


def tabled(noise: float = 1.0, **settings: int) -> TablePolicy:
    rng = np.random.default_rng(5)
    seen, load, cv2 = services(6000)
    tried = rng.integers(0, 3, 6000)
    rewards = np.where(tried == corner(load, cv2), 1.0, -1.0) + rng.normal(scale=noise, size=6000)
    return TablePolicy.fit(seen, tried, rewards * (tried > 0), THREE, **settings)


def test_the_table_finds_the_best_preset_of_every_cell() -> None:
    seen, load, cv2 = services(2000, seed=8)
    told = tabled(load_bins=4, cv2_bins=4).actions(seen)
    assert told.dtype == np.int64
    clear = (np.abs(load - 50) > 2) & (np.abs(cv2 - 4) > 0.2)  # quantiles are not exact
    np.testing.assert_array_equal(told[clear], corner(load, cv2)[clear])


def test_another_service_has_a_table_of_its_own() -> None:
    parts = [services(2000), services(2000, workers=4), services(2000, slo_ms=20.0)]
    seen = np.concatenate([part[0] for part in parts])
    tried = np.arange(6000) % 3
    good = np.repeat([1, 2, 0], 2000)
    rewards = np.where(tried == good, 1.0, -1.0) * (tried > 0)
    policy = TablePolicy.fit(seen, tried, rewards, THREE, load_bins=2, cv2_bins=2)
    np.testing.assert_array_equal(policy.actions(seen), good)
    assert not policy.actions(services(50, workers=3)[0]).any()  # never seen: preset 0


def one_cell(rewards: list[float], least: int = 2) -> int:
    """What is chosen after these rewards of preset 1."""
    seen, _, _ = services(len(rewards))
    tried = np.ones(len(rewards), np.int64)
    policy = TablePolicy.fit(
        seen, tried, rewards, THREE, load_bins=1, cv2_bins=1, min_samples=least
    )
    return int(policy.actions(seen[:1])[0])


def test_a_gain_must_be_proven() -> None:
    # Mean 1; of four with deviations ±d the standard error is √(4 d² / 3) / 2 = 0.577 d.
    assert one_cell([1 + 1.7, 1 - 1.7, 1 + 1.7, 1 - 1.7]) == 1  # 0.98
    assert one_cell([1 + 1.8, 1 - 1.8, 1 + 1.8, 1 - 1.8]) == 0  # 1.04
    assert one_cell([1.0] * 9, least=10) == 0
    assert one_cell([1.0] * 10, least=10) == 1
    assert one_cell([-1.0] * 10) == 0


def test_of_several_proven_ones_the_best_is_taken() -> None:
    seen, _, _ = services(300)
    tried = np.arange(300) % 3
    rewards = np.select([tried == 1, tried == 2], [0.5, 0.7], 0.0)
    policy = TablePolicy.fit(seen, tried, rewards, THREE, load_bins=1, cv2_bins=1)
    assert set(policy.actions(seen)) == {2}


def test_the_table_says_where_it_looked() -> None:
    policy = tabled(load_bins=4, cv2_bins=4)
    busy = signals(arrivals_100ms=(16,) * 10, slo_ms=50.0)  # 160 in a second, two workers
    choice = policy.choose(busy, START)
    assert choice.params is THREE[1]
    assert choice.scores["per_worker"] == pytest.approx(80.0, rel=1e-5)
    assert choice.reason.startswith("published was better by 1")
    assert choice.reason.endswith("at 80/s per worker")
    calm = policy.choose(signals(burstiness=0.5, arrivals_100ms=(2,) * 10), START)
    assert calm.params is DEFAULT
    assert calm.reason == "nothing is known to beat default at 10/s per worker"
    new = policy.choose(signals(workers=7), START)
    assert new.reason == "default: 7 workers and 50 ms are new"
    lost = policy.choose(signals(burstiness=float("nan")), START)
    assert lost.reason == "default: an observation is not finite"


def test_settings_out_of_range_are_named() -> None:
    for name, least in (("load_bins", 1), ("cv2_bins", 1), ("min_samples", 2)):
        with pytest.raises(ValueError, match=f"{name} must be at least {least}, got {least - 1}"):
            tabled(**{name: least - 1})


@pytest.mark.parametrize("policy", [LinUCB, TablePolicy])
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"seen": np.zeros((4, 9))},
            r"seen must be \[N, 51\], .* with 3 presets, got shape \[4, 9",
        ),
        ({"actions": [0, 1]}, r"actions must be \[N\], one for each .* shape \[2\] for 4 rows"),
        ({"rewards": [0.0]}, r"rewards must be \[N\], one for each .* shape \[1\] for 4 rows"),
        ({"actions": [0, 1, 2, 3]}, r"actions must be indices of presets below 3, got \[0 1 2 3"),
        ({"actions": [0.0, 1.0, 2.0, 0.0]}, "actions must be indices of presets below 3"),
        ({"rewards": [0, 1, np.nan, 0]}, "rewards must be finite, got nan in row 2; leave it out"),
        (
            {"rewards": [0.5, 1, 1, 0]},
            "rewards must be exactly 0 for preset 0, .*, got 0.5 in row 0",
        ),
        ({"presets": ()}, r"presets must be settings of different names, got \[\]"),
        ({"presets": (DEFAULT, DEFAULT)}, "presets must be settings of different names"),
    ],
)
def test_experience_that_cannot_be_is_named(
    policy: Any, changes: dict[str, Any], text: str
) -> None:
    good = {
        "seen": np.zeros((4, WIDTH)), "actions": [0, 1, 2, 0], "rewards": [0.0, 1.0, 1.0, 0.0],
        "presets": THREE,
    }  # fmt: skip
    policy.fit(**good)
    with pytest.raises(ValueError, match=text):
        policy.fit(**{**good, **changes})
