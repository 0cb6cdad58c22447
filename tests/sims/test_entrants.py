"""Names of policies: what each stands for, its settings in words, and errors that say what is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from policies.baselines import ThresholdPolicy
from policies.network import Network
from policies.params import RuleParams
from policies.presets import DEFAULT, PRESETS
from policies.rivals import Clockwork, SlackFit
from policies.tactical import PolicyFileError, TacticalPolicy
from sims.evaluation.entrants import RIVALS, described, entrant, entrant_names
from sims.evaluation.evaluate import evaluate
from sims.evaluation.suite import six_tiers, suite

SERVICE = six_tiers()


@pytest.mark.parametrize("name", [*RIVALS, "bold", "threshold"])
def test_every_name_can_be_played(name: str) -> None:
    found = entrant(name, SERVICE)
    small = suite(SERVICE, seconds=1.0)
    episode = small.episodes(next(small.cells()), [0])
    policies = [*([found.default] if found.default else []), *found.grid[:2]]
    utility = evaluate(episode, policies).utility
    assert np.isfinite(utility).all()
    assert all(described(policy) for policy in policies)


@pytest.mark.parametrize("name", [name for name in RIVALS if name != "static"])
def test_a_grid_holds_no_setting_twice_and_the_default(name: str) -> None:
    found = entrant(name, SERVICE)
    told = [described(policy) for policy in found.grid]
    assert len(set(told)) == len(told)
    assert found.default is not None
    assert described(found.default) in told or name == "clipper"


def test_what_the_names_stand_for() -> None:
    assert entrant("rule", SERVICE).default == DEFAULT
    assert entrant("rule", SERVICE).grid == PRESETS
    assert entrant("clockwork", SERVICE).default == Clockwork(0)
    assert entrant("slackfit-drop", SERVICE).default == SlackFit(early_drop=True)
    static = entrant("static", SERVICE)
    assert static.default is None
    assert static.hindsight
    assert {policy.plans for policy in static.grid if isinstance(policy, RuleParams)} == {
        (plan,) for plan in range(6)
    }
    assert set(RIVALS) | {"bold"} <= set(entrant_names())


def test_settings_are_read_from_the_name() -> None:
    found = entrant("clipper:plan=3:step=0.5", SERVICE)
    assert found.name == "clipper:plan=3:step=0.5"
    assert found.grid == ()
    assert found.default is not None
    assert described(found.default) == "plan 3, step 0.5, back off 0.9, max rows 16"
    drop = entrant("slackfit-drop:buckets=4", SERVICE).default
    assert drop == SlackFit(buckets=4, early_drop=True)
    assert (
        entrant("drain-aware:early_drop=false", SERVICE).default
        != entrant("drain-aware", SERVICE).default
    )
    rule = entrant("rule:delta=1.5:max_rows=8", SERVICE).default
    assert isinstance(rule, RuleParams)
    assert (rule.delta, rule.max_rows, rule.margin) == (1.5, 8, DEFAULT.margin)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nope", "policy must be .*slackfit.* or an exported folder, got 'nope'"),
        ("nope:plan=1", "policy must be .* got 'nope:plan=1'"),
        ("clockwork:size=1", "clockwork must be set by plan, max_rows, got 'size=1'"),
        ("clockwork:max_rows=8", "clockwork must be told its plan, got 'clockwork:max_rows=8'"),
        ("clockwork:plan=x", "plan must be a whole number, got 'x'"),
        ("proteus:caution=", "caution must be a number, got ''"),
        ("slackfit:early_drop=maybe", "early_drop must be true or false, got 'maybe'"),
        ("clockwork:plan=-1", "plan must be an index"),
        ("static:plan=1", "policy static takes no settings, got 'static:plan=1'"),
        ("bold:delta=1", "policy bold takes no settings, got 'bold:delta=1'"),
        ("rule:plans=1", "rule must be set by margin, beta"),
    ],
)
def test_wrong_names_are_told(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        entrant(name, SERVICE)


def test_an_exported_folder_plays_with_presets_of_its_own(tmp_path: Path) -> None:
    from policies.observation import observation_names

    presets = (DEFAULT, PRESETS[5])
    width = len(observation_names(2))
    zeros, ones = np.zeros(width, np.float32), np.ones(width, np.float32)
    layer = (np.zeros((2, width), np.float32), np.array([0.0, 1.0], np.float32))
    network = Network(zeros, ones, 10.0, -100 * ones, 100 * ones, (layer,))
    TacticalPolicy(network, presets).save(tmp_path / "mine")
    found = entrant(str(tmp_path / "mine"), SERVICE)
    assert isinstance(found.default, TacticalPolicy)
    assert found.default.presets == presets
    with pytest.raises(PolicyFileError):
        entrant(str(tmp_path), SERVICE)


def test_a_policy_tells_its_marks() -> None:
    assert described(ThresholdPolicy(high_queue=4.0)) == "queue 4 per worker, p99 0.9 of the SLO"
