"""Comparisons: tuned on other seeds, the same episodes for all, differences in pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies.base import Choice, Policy
from policies.baselines import RulePolicy, ThresholdPolicy
from policies.presets import DEFAULT, PRESETS
from policies.rivals import BentoML, SlackFit
from profiler.signals import Signals
from sims.evaluation import compare as room
from sims.evaluation.compare import FIRST_TRAINING_SEED, compare
from sims.evaluation.entrants import Entrant, entrant
from sims.evaluation.evaluate import VectorPolicy, evaluate
from sims.evaluation.statistics import paired
from sims.evaluation.suite import Suite, suite
from sims.evaluation.timeline import timeline
from sims.evaluation.upper_bound import clairvoyant_utility
from sims.simulation import simulate


@pytest.fixture(scope="module")
def small() -> Suite:
    whole = suite(seconds=1.0)
    regimes = {name: whole.regimes[name] for name in ("poisson", "surge")}
    return replace(whole, regimes=regimes, loads=(0.5, 1.2))


def test_rows_are_the_contest_s_own(small: Suite) -> None:
    found = compare(small, [Entrant("slow", BentoML(0))], 2, training_seeds=0)
    assert [row.label for row in found.rows] == ["rule", "slow"]
    for c, cell in enumerate(small.cells()):
        episodes = small.episodes(cell, [0, 1])
        scores = evaluate(episodes, [DEFAULT, BentoML(0)])
        for row, utility, met in zip(found.rows, scores.utility, scores.met, strict=True):
            assert row.utility[c].tolist() == utility.tolist()
            assert row.met[c].tolist() == met.tolist()
        assert found.bound[c].tolist() == [clairvoyant_utility(*one) for one in episodes]


def test_figures_follow_from_the_rows(small: Suite) -> None:
    found = compare(small, [Entrant("slow", BentoML(0))], 3, training_seeds=0)
    rule, slow = found.rows
    assert found.difference(rule).mean == 0.0
    assert found.difference(slow) == paired(slow.utility, rule.utility)
    surge = found.where(regime="surge")
    assert surge.tolist() == [2, 3]
    assert found.where(load=1.2).tolist() == [1, 3]
    assert found.regret(slow, regime="surge") == paired(found.bound[surge], slow.utility[surge])
    points, cell = found.worst(slow)
    each = 100.0 * (slow.utility - rule.utility).mean(axis=1)
    assert points == pytest.approx(each.min())
    assert cell == found.cells[int(each.argmin())]
    assert found.regret(rule).mean > 0.0
    assert found.to_json()["policies"]["slow"]["met_ratio"]["n"] == 3


def test_tuning_sees_other_seeds_and_takes_the_best(
    small: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []
    episodes = Suite.episodes

    def noted(self: Suite, cell: object, seeds: tuple[int, ...]) -> object:
        asked.append(tuple(seeds))
        return episodes(self, cell, seeds)  # type: ignore[arg-type]

    monkeypatch.setattr(Suite, "episodes", noted)
    grid = tuple(BentoML(plan) for plan in (0, 5, 3))
    found = compare(small, [Entrant("bentoml", grid[0], grid)], 2, training_seeds=2)
    training = (FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + 1)
    assert set(asked) == {training, (0, 1)}
    assert (found.training_seeds, found.seeds) == (training, (0, 1))
    assert not set(found.training_seeds) & set(found.seeds)
    mean = np.zeros(3)
    for cell in small.cells():
        mean += evaluate(episodes(small, cell, training), grid).utility.mean(axis=1)
    tuned = found.rows[2]
    assert (tuned.label, tuned.pool) == ("bentoml, tuned", (grid[int(mean.argmax())],))
    assert tuned.setting == "plan 5, max rows 16"


def test_hindsight_is_the_best_of_the_grid_trace_by_trace(small: Suite) -> None:
    grid = (BentoML(0), BentoML(3), BentoML(5))
    entrants = [Entrant("all", None, grid, hindsight=True)]
    found = compare(small, entrants, 2, training_seeds=0)
    row = found.rows[1]
    for c, cell in enumerate(small.cells()):
        utility = evaluate(small.episodes(cell, [0, 1]), grid).utility
        assert row.utility[c].tolist() == utility.max(axis=0).tolist()
        assert row.policy(c, 1) == grid[int(utility[:, 1].argmax())]
    assert row.setting.endswith("settings")


def test_the_rule_is_always_there_and_first(small: Suite) -> None:
    one = replace(small, loads=(0.5,), regimes={"poisson": small.regimes["poisson"]})
    named = [entrant("bold", one.service), entrant("rule", one.service)]
    found = compare(one, named, 1, training_seeds=1)
    assert [row.label for row in found.rows] == ["rule", "rule, tuned", "bold"]
    assert found.rows[0].pool == (DEFAULT,)


def test_progress_ends_where_it_said(small: Suite) -> None:
    told: list[tuple[int, int]] = []
    entrants = [entrant("clockwork", small.service), entrant("static", small.service)]
    some = [replace(one, grid=one.grid[:3]) for one in entrants]
    compare(small, some, 1, training_seeds=1, progress=lambda *at: told.append(at))
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_wrong_seeds_are_told(small: Suite) -> None:
    with pytest.raises(
        ValueError, match=r"seeds must be in 1\.\.100000 and training_seeds at least"
    ):
        compare(small, [], 0)
    assert room.REFERENCE == "rule"


# -- policies evaluated ----------------------------------------------------------------------


class Restless:
    """Invents a setting every tick."""

    name = "restless"

    def choose(self, signals: Signals, current: Choice) -> Choice:
        margin = 0.5 + 0.001 * signals.at_s + 1e-4 * (signals.queue % 7)
        return Choice(replace(DEFAULT, name=f"m{margin}", margin=margin), "restless")


def asked_one_by_one(policy: Policy) -> Policy:
    """The same policy without its batch method."""

    class Bare:
        name = "bare"

        def choose(self, signals: Signals, current: Choice) -> Choice:
            return policy.choose(signals, current)

    return Bare()


@pytest.mark.parametrize("policy", [RulePolicy(), ThresholdPolicy(), Restless()])
def test_a_policy_does_beside_others_what_it_does_alone(small: Suite, policy: Policy) -> None:
    assert not isinstance(policy, VectorPolicy)
    for cell in small.cells():
        episodes = small.episodes(cell, [0, 1])
        utility = evaluate(episodes, [policy]).utility[0]
        alone = [simulate(service, trace, policy).utility for service, trace in episodes]
        # Where the traces end at different ticks a policy is asked on while the others go on.
        assert utility.tolist() == pytest.approx(alone, abs=1e-3)
        one = evaluate(episodes[:1], [policy]).utility[0, 0]
        assert one == pytest.approx(alone[0], abs=1e-12)


def test_a_chooser_asked_one_by_one_does_the_same(small: Suite) -> None:
    from policies.observation import observation_names
    from policies.table import TablePolicy

    rng = np.random.default_rng(0)
    seen = np.abs(rng.normal(4.0, 2.0, (400, len(observation_names()))))
    seen[:, 34:36] = np.log([4.0, 36.0])  # workers and SLO of the suite
    tried = rng.integers(0, len(PRESETS), 400)
    policy = TablePolicy.fit(
        seen, tried, np.where(tried > 0, rng.normal(size=400), 0.0), PRESETS, min_samples=2
    )
    episodes = [one for cell in small.cells() for one in small.episodes(cell, [0])]
    both = evaluate(episodes, [policy, asked_one_by_one(policy)])
    assert both.utility[0] == pytest.approx(both.utility[1], abs=1e-9)
    assert (both.utility[0] != evaluate(episodes, [DEFAULT]).utility[0]).any()


def test_a_policy_may_invent_more_settings_than_are_kept(
    small: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sims.evaluation import evaluate as ring

    episodes = small.episodes(next(small.cells()), [0, 1])
    expected = evaluate(episodes, [Restless()]).utility
    monkeypatch.setattr(ring, "_MOST_KNOWN", 2)
    assert evaluate(episodes, [Restless()]).utility.tolist() == expected.tolist()


# -- an episode over time -----------------------------------------------------------------------


def test_a_timeline_adds_up(small: Suite) -> None:
    service, trace = small.episodes(list(small.cells())[3], [0])[0]  # surge at 1.2
    for policy in (DEFAULT, SlackFit(early_drop=True), ThresholdPolicy()):
        seen = timeline(service, trace, policy)
        result = simulate(service, trace, policy)
        per_slot = seen.arrivals_per_s * seen.slot_ms / 1e3
        assert per_slot.sum() == pytest.approx(len(trace))
        assert (seen.refused * per_slot).sum() == pytest.approx(result.refused)
        assert (seen.by_plan * per_slot).sum() == pytest.approx(result.served)
        assert (seen.p50_ms <= seen.p99_ms).all()
        assert seen.utility == result.utility


def test_a_timeline_has_gaps_where_nobody_came() -> None:
    from sims.evaluation.suite import six_tiers
    from sims.traces import Trace

    trace = Trace(np.array([0.01, 0.35]), np.ones(2, np.int32), "two")
    seen = timeline(six_tiers(), trace, DEFAULT)
    assert np.isnan(seen.p50_ms).tolist() == [False, True, True, False]
    assert seen.refused.tolist() == [0.0, 0.0, 0.0, 0.0]
    assert seen.at_s == pytest.approx([0.0, 0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="slot_ms must be greater than 0, got 0"):
        timeline(six_tiers(), trace, DEFAULT, slot_ms=0.0)


def test_a_chooser_that_is_no_policy_has_no_timeline() -> None:
    from sims.evaluation.suite import six_tiers
    from sims.traces import Trace

    class Batch:
        name = "batch"

        def actions(self, seen: object) -> object:
            raise AssertionError

    trace = Trace(np.array([0.01]), np.ones(1, np.int32), "one")
    with pytest.raises(ValueError, match="must be a setting or a Policy, got the chooser 'batch'"):
        timeline(six_tiers(), trace, Batch())  # type: ignore[arg-type]


def test_static_grids_leave_out_what_is_the_same(tmp_path: Path) -> None:
    from sims.evaluation.static_sweep import static_grid
    from sims.evaluation.suite import six_tiers

    grid = static_grid(six_tiers(max_rows=8), caps=(1, 8, 16), waits_ms=(0.0, 5.0), deltas=(0.0,))
    assert len(grid) == 6 * (1 + 2)
    assert {params.max_rows for params in grid} == {1, 8}
