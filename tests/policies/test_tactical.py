"""The exported policy: evaluation, fallbacks, and files that must not be trusted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies.base import Choice
from policies.network import Network
from policies.observation import Signal
from policies.presets import DEFAULT, PRESETS
from policies.tactical import (
    PolicyFileError,
    TacticalPolicy,
    observation_names,
    observe,
)
from tests.policies.observed import QUIET, signals

START = Choice(DEFAULT, "start")
WIDTH = len(observation_names())


def network(preset: int = 0, seed: int = 0) -> Network:
    """A random network that prefers `preset` by a wide lead, trained around quiet signals."""
    rng = np.random.default_rng(seed)
    usual = observe(QUIET, 0)
    layers = []
    for out, width in ((8, WIDTH), (len(PRESETS), 8)):
        weight = (rng.normal(size=(out, width)) * 0.1).astype(np.float32)
        layers.append((weight, np.zeros(out, np.float32)))
    layers[-1][1][preset] = 50.0
    low, high = usual - 2.0, usual + 2.0
    return Network(usual, np.ones(WIDTH, np.float32), 10.0, low, high, tuple(layers))


def test_names_and_values_line_up() -> None:
    names = observation_names()
    assert len(names) == len(set(names)) == 48 + len(PRESETS)
    seen = dict(zip(names, observe(signals(queue=7, p99_ms=5000.0), 3).tolist(), strict=True))
    assert seen["log_queue"] == pytest.approx(np.log(8))
    assert seen["log_arrivals_100ms_0"] == pytest.approx(np.log(5))
    assert seen["p99_over_slo"] == 10.0  # capped
    assert seen["head_slack_over_slo"] == 1.0
    assert [k for k, v in seen.items() if k.startswith("active") and v] == ["active_3"]


def test_the_network_is_what_its_docstring_says() -> None:
    net = network(seed=3)
    seen = observe(signals(queue=3), 2)
    z = np.clip((seen - net.mean) / np.sqrt(net.var + 1e-8), -10, 10)
    (w0, b0), (w1, b1) = net.layers
    np.testing.assert_allclose(net.logits(seen), w1 @ np.tanh(w0 @ z + b0) + b1, rtol=1e-6)


def test_the_preferred_preset_is_chosen_and_said() -> None:
    choice = TacticalPolicy(network(preset=4)).choose(QUIET, START)
    assert choice.params is PRESETS[4]
    assert choice.reason.startswith(f"prefers {PRESETS[4].name} by")
    assert set(choice.scores) == {p.name for p in PRESETS}


def poisoned(net: Network, value: float) -> Network:
    (w0, b0), last = net.layers
    w0 = w0.copy()
    w0[0, 0] = value
    return replace(net, layers=((w0, b0), last))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_leave_the_default_rule(value: float, tmp_path: Path) -> None:
    policy = TacticalPolicy(poisoned(network(preset=4), value))
    policy.save(tmp_path)
    for one in (policy, TacticalPolicy.load(tmp_path)):
        choice = one.choose(QUIET, START)
        assert choice.params is DEFAULT
        assert choice.reason == "default rule: the policy holds numbers that are not finite"


@pytest.mark.parametrize("queue", [100_000, float("nan")])
def test_what_was_never_seen_in_training_leaves_the_default_rule(queue: float) -> None:
    choice = TacticalPolicy(network(preset=4)).choose(signals(queue=queue), START)
    assert choice.params is DEFAULT
    assert "log_queue" in choice.reason
    assert "never seen in training" in choice.reason


def test_a_saved_policy_chooses_the_same(tmp_path: Path) -> None:
    policy = TacticalPolicy(network(preset=2, seed=5), card={"note": "test"})
    policy.save(tmp_path)
    again = TacticalPolicy.load(tmp_path)
    assert again.card == {"note": "test"}
    for queue in (0, 2, 5):
        seen = signals(queue=queue)
        assert again.choose(seen, START) == policy.choose(seen, START)


def edit(folder: Path, **changes: object) -> None:
    header = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps({**header, **changes}))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kind": "other"}, "must be of kind 'evolve-tactical-policy'"),
        ({"schema": 2}, "schema must be 3, got 2; train and export the policy again"),
        ({"schema": 4}, "schema must be 3, got 4; train and export the policy again"),
        ({"observations": ["x"]}, "observations must be those of this version"),
        ({"presets": []}, "presets must be a list of settings"),
        ({"presets": [{"name": "x"}]}, "params must have exactly the entries"),
        ({"sha256": "0"}, "must have the sha256 that policy.json states"),
        ({"layers": 3}, "the policy is incomplete: KeyError"),
        ({"layers": 0}, "the network must rank 15 presets"),
        ({"clip": None}, "the policy is incomplete: TypeError"),
    ],
)
def test_foreign_newer_and_damaged_files_are_named(
    changes: dict[str, object], text: str, tmp_path: Path
) -> None:
    TacticalPolicy(network()).save(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(PolicyFileError, match=text):
        TacticalPolicy.load(tmp_path)


def test_missing_and_torn_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match=r"must hold policy\.json and policy\.safetensors"):
        TacticalPolicy.load(tmp_path / "nowhere")
    TacticalPolicy(network()).save(tmp_path)
    blob = (tmp_path / "policy.safetensors").read_bytes()
    (tmp_path / "policy.safetensors").write_bytes(blob[:-8])
    with pytest.raises(PolicyFileError, match="sha256"):
        TacticalPolicy.load(tmp_path)
    (tmp_path / "policy.json").write_text("{")
    with pytest.raises(PolicyFileError, match=r"policy\.json must be JSON"):
        TacticalPolicy.load(tmp_path)


def pattern_of(net: Network, low: float, high: float) -> Network:
    """The network had it seen the memory pattern within (low, high) in training."""
    lows, highs = net.low.copy(), net.high.copy()
    lows[Signal.BALANCE : Signal.FUSED + 1], highs[Signal.BALANCE : Signal.FUSED + 1] = low, high
    return replace(net, low=lows, high=highs)


def test_the_memory_pattern_is_seen_unless_none_was_known_in_training() -> None:
    known = signals(balance=1.5, memory_share=0.5, moved_mib=60.0, fused=1.0)
    named = dict(zip(observation_names(), observe(known, 0).tolist(), strict=True))
    assert named["log_balance"] == pytest.approx(np.log(2.5))
    assert (named["memory_share"], named["fused"]) == (0.5, 1.0)
    assert named["log_moved_mib"] == pytest.approx(np.log(61.0))

    blind = TacticalPolicy(pattern_of(network(preset=4), 0.0, 0.0))
    assert blind.choose(known, START) == blind.choose(QUIET, START)
    seen = np.stack([observe(known, 0), observe(QUIET, 0)])
    assert blind.actions(seen).tolist() == [4, 4]
    assert seen[0, Signal.FUSED] == 1.0  # the caller's own observation is left alone

    seeing = TacticalPolicy(pattern_of(network(preset=4), 0.0, 1.0))
    assert seeing.choose(QUIET, START).params is PRESETS[4]
    assert "log_moved_mib = 4.11 was never seen" in seeing.choose(known, START).reason
    assert seeing.actions(seen).tolist() == [0, 4]


def test_a_policy_that_never_knew_what_switching_costs_is_not_shown_it() -> None:
    net = network(preset=4)
    lows, highs = net.low.copy(), net.high.copy()
    lows[Signal.SWITCH_MS] = highs[Signal.SWITCH_MS] = 0.0
    charged = signals(switch_ms=2.0)
    unknowing = TacticalPolicy(replace(net, low=lows, high=highs))
    assert unknowing.choose(charged, START) == unknowing.choose(QUIET, START)
    highs = highs.copy()
    highs[Signal.SWITCH_MS] = 0.01
    knowing = TacticalPolicy(replace(net, low=lows, high=highs))
    assert "switch_over_slo = 0.04 was never seen" in knowing.choose(charged, START).reason


def test_a_network_of_the_wrong_width_is_refused() -> None:
    net = network()
    with pytest.raises(PolicyFileError, match="the normalisation must have 63 entries"):
        TacticalPolicy(replace(net, mean=net.mean[:5]))
    with pytest.raises(PolicyFileError, match="a layer must map 63 values, got weight"):
        TacticalPolicy(replace(net, layers=net.layers[::-1]))
