"""The search keeps to ask and tell: pure, repeatable, never twice, restarted anywhere."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from typing import Any

import numpy as np
import pytest

from policies.strategic import (
    Additive,
    Evaluation,
    Gene,
    Genome,
    Objectives,
    SearchSettings,
    Space,
    StrategicSearch,
)
from policies.strategic.members import neighbours
from tests.policies.strategic.spaces import LAYERS, measured, objectives, transformer

TWO = transformer(2)
QUICK = SearchSettings(population=16, inner_generations=3)


def run(search: StrategicSearch, generations: int, n: int = 8) -> list[list[Genome]]:
    asked = []
    for _ in range(generations):
        asked.append(search.ask(n))
        search.tell(measured(asked[-1], search.weights))
    return asked


def restarted(search: StrategicSearch) -> StrategicSearch:
    return StrategicSearch.from_state(json.loads(json.dumps(search.state(), allow_nan=False)))


def true_front(space: Space) -> set[tuple[float, float, float]]:
    every = [objectives(genome).values for genome in space.members()]
    return {
        a for a in every
        if not any(b != a and all(x <= y for x, y in zip(b, a, strict=True)) for b in every)
    }  # fmt: skip


def test_it_finds_the_front_before_it_has_seen_half() -> None:
    search = StrategicSearch(TWO, seed=1)
    run(search, 12)
    assert len(search.evaluations()) == 96 < TWO.size / 2
    assert {one.objectives.values for one in search.front()} == true_front(TWO)


def test_nothing_is_asked_twice_and_all_in_the_end() -> None:
    search = StrategicSearch(LAYERS, QUICK, seed=2)
    asked = [genome for some in run(search, 14, n=6) for genome in some]
    assert len(set(asked)) == len(asked) == LAYERS.size
    assert search.ask(6) == []
    assert "nothing to ask: all of 81" in search.record().reason
    assert {one.objectives.values for one in search.front()} == true_front(LAYERS)


def test_the_seed_decides_and_global_generators_do_not() -> None:
    runs = []
    for state in (3, 4):
        random.seed(state)
        np.random.seed(state)
        before, legacy = random.getstate(), np.random.get_state()[1].tolist()
        runs.append(run(StrategicSearch(TWO, QUICK, seed=9), 5))
        assert random.getstate() == before
        assert np.random.get_state()[1].tolist() == legacy
    assert runs[0] == runs[1]
    assert run(StrategicSearch(TWO, QUICK, seed=10), 5) != runs[0]


@pytest.mark.parametrize("after", [0, 1, 2, 4])
@pytest.mark.parametrize("table", [None, Additive(7.0, ((-2.0, -1.0, 0.0),) * 6)])
def test_a_restart_goes_on_bit_for_bit(after: int, table: Additive | None) -> None:
    whole = StrategicSearch(TWO, QUICK, seed=5, latency=table)
    run(whole, after)
    other = restarted(whole)
    assert other.state() == whole.state()
    assert run(other, 4) == run(whole, 4)
    assert other.state() == whole.state()
    assert other.record().to_json() == whole.record().to_json()


def test_a_generation_may_be_cut_short_anywhere() -> None:
    search = StrategicSearch(TWO, QUICK, seed=6)
    run(search, 3)
    asked = search.ask(8)
    search.tell(measured(asked[:3]))
    other = restarted(search)
    assert other.record().missing == tuple(asked[3:])
    assert "5 not told" in other.record().reason
    assert {one.genome for one in other.evaluations()} >= set(asked[:3])
    # Either the rest is told yet, or the next generation begins; no score is lost or asked anew.
    again = restarted(other).ask(8)
    assert not set(again) & set(asked[:3])
    record = other.tell(measured(asked[3:]))
    assert record.missing == ()
    assert record.evaluations == 3 * 8 + 8


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (Objectives(math.nan, 1.0, 1.0), "quality_loss must be finite and at most 1e+12, got nan"),
        (Objectives(0.1, math.inf, 1.0), "latency_ms must be finite and at most 1e+12, got inf"),
        (Objectives(0.1, 1.0, -math.inf), "memory_mib must be finite"),
        (Objectives(0.1, 1e300, 1.0), "got 1e+300"),
        (Objectives(0.1, 0.0, 1.0), "latency_ms must be above 0"),
        (Objectives(0.1, 1.0, -1.0), "memory_mib not below it, got 1.0 and -1.0"),
    ],
)
def test_results_that_are_no_numbers_are_refused_and_said(bad: Objectives, told: str) -> None:
    search = StrategicSearch(LAYERS, QUICK, seed=7)
    asked = search.ask(8)
    broken = Evaluation(asked[2], bad, "original")
    record = search.tell([*measured(asked[:2]), broken, *measured(asked[3:])])
    assert [one.genome for one in record.refused] == [asked[2]]
    assert told in record.refused[0].reason
    assert "1 refused" in record.reason
    assert asked[2] not in {one.genome for one in (*search.front(), *search.evaluations())}
    other = restarted(search)
    later = [genome for some in run(other, 20) for genome in some]
    assert asked[2] not in later
    assert len(set(later) | set(asked)) == LAYERS.size
    # A measurement that succeeds after all counts.
    other.tell(measured([asked[2]]))
    assert asked[2] in {one.genome for one in other.evaluations()}


def test_all_results_refused_leaves_a_search_that_goes_on() -> None:
    search = StrategicSearch(LAYERS, QUICK, seed=8)
    asked: list[Genome] = []
    for _ in range(4):
        new = search.ask(8)
        assert not set(new) & set(asked)
        asked += new
        search.tell(Evaluation(g, Objectives(math.nan, 1.0, 1.0), "original") for g in new)
    assert search.front() == ()
    assert len(asked) == 32


def test_equal_results_are_no_obstacle() -> None:
    search = StrategicSearch(LAYERS, QUICK, seed=9)
    for _ in range(6):
        search.tell(Evaluation(g, Objectives(0.1, 2.0, 3.0), "original") for g in search.ask(8))
    assert len(search.front()) == 1
    assert search.record().tau == (None, None, None)
    assert len(search.evaluations()) == 48


@pytest.mark.parametrize(
    "space",
    [
        Space([Gene("a", ("only",), "a")]),
        Space([Gene("a", ("only",), "a"), Gene("b", (0, 1), "b"), Gene("c", (5,), "c")]),
    ],
)
def test_spaces_with_hardly_any_choice(space: Space) -> None:
    search = StrategicSearch(space, QUICK, seed=0)
    asked = search.ask(5)
    assert sorted(asked) == sorted(space.members())
    search.tell(Evaluation(g, Objectives(0.0, 1.0, 1.0), "original") for g in asked)
    assert search.ask(5) == []


def test_moved_weights_make_scores_stale_and_the_old_front_comes_first() -> None:
    search = StrategicSearch(TWO, QUICK, seed=11)
    run(search, 4)
    old = [one.genome for one in search.front()]
    search.move_weights("tuned")
    assert search.front() == ()
    assert search.record().stale == 32
    assert "32 scores are of older weights" in search.record().reason
    search = restarted(search)
    asked = search.ask(1 + len(old))
    assert asked[0] == TWO.original
    assert search.record().asked[0].why.startswith("the original")
    assert set(old) <= set(asked)
    record = search.tell(measured(asked, "tuned"))
    assert {one.weights for one in search.front()} == {"tuned"}
    assert record.evaluations == len(asked)


def test_a_straggler_of_older_weights_replaces_nothing() -> None:
    search = StrategicSearch(LAYERS, QUICK, seed=12, weights="new")
    (first, second, *_) = search.ask(4)
    search.tell(measured([first], "new"))
    wrong = Objectives(-9.0, 0.1, 0.1)
    record = search.tell([Evaluation(first, wrong, "old"), Evaluation(second, wrong, "old")])
    assert [one.genome for one in search.front()] == [first]
    assert search.front()[0].objectives == objectives(first)
    assert (record.evaluations, record.stale) == (1, 1)
    assert second in record.missing
    assert second in search.ask(81)


def test_a_genome_measured_again_takes_the_later_score() -> None:
    search = StrategicSearch(LAYERS, QUICK, seed=13)
    search.tell(measured([LAYERS.original]))
    later = dataclasses.replace(objectives(LAYERS.original), latency_ms=3.25)
    search.tell([Evaluation(LAYERS.original, later, "original")])
    assert [one.objectives.latency_ms for one in search.front()] == [3.25]


def test_what_nobody_asked_for_counts_too() -> None:
    search = StrategicSearch(LAYERS, QUICK, seed=14)
    alone = [LAYERS.original, *neighbours(LAYERS, LAYERS.original)]
    search.tell(measured(alone))
    asked = search.ask(12)
    assert not set(asked) & set(alone)
    why = [proposal.why for proposal in search.record().asked]
    assert any(reason.startswith("best of the additive model within") for reason in why)


def test_latencies_of_a_table_are_taken_as_they_are() -> None:
    table = Additive(20.0, ((-3.0, -1.0, 0.0),) * 4)
    search = StrategicSearch(LAYERS, QUICK, seed=15, latency=table)
    run(search, 3)
    expected = [p for p in search.record().asked if p.expected is not None]
    assert expected
    for proposal in expected:
        assert proposal.expected is not None
        assert proposal.expected[1] == table(proposal.genome)


@pytest.mark.parametrize(
    "effects", [((-1.0, 0.0),) * 4, ((-2.0, -1.0, 0.0),) * 3, ((math.inf, -1.0, 0.0),) * 4]
)
def test_a_table_of_another_space_is_refused(effects: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(ValueError, match="latency must hold a finite effect for every choice"):
        StrategicSearch(LAYERS, QUICK, latency=Additive(5.0, effects))


def test_wrong_genomes_take_nothing_in() -> None:
    search = StrategicSearch(TWO, QUICK)
    good = measured([TWO.original])
    for genome in ((2, 2, 2), (0, 2, 2, 2, 2, 2)):
        with pytest.raises(ValueError, match="genome must be"):
            search.tell([*good, Evaluation(genome, Objectives(0.1, 1.0, 1.0), "original")])
        assert search.evaluations() == ()


def test_the_record_explains_itself_in_json() -> None:
    search = StrategicSearch(TWO, QUICK, seed=16)
    run(search, 4)
    record = search.record()
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.number = 9  # type: ignore[misc]
    told: dict[str, Any] = json.loads(json.dumps(record.to_json(), allow_nan=False))
    assert told["generation"] == 4
    assert told["seed"] == 16
    assert told["evaluations"] == 32
    assert set(told["tau"]) == {"quality_loss", "latency_ms", "memory_mib"}
    assert told["tau"]["latency_ms"] > 0.5
    assert all(one["why"] for one in told["asked"])
    assert len(told["front"]) == len(search.front())
    assert told["front"][0]["words"]
    assert "asked for 8" in told["reason"]
    assert "promising by prediction" in told["reason"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"population": 3}, "population must be at least 4, got 3"),
        ({"inner_generations": 0}, "inner_generations"),
        ({"bounds": 0}, "bounds"),
        ({"initial": 0}, "initial"),
        ({"explore": 1.5}, "explore must be from 0 to 1, got 1.5"),
        ({"explore": math.nan}, "explore"),
    ],
)
def test_settings_have_bounds(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        SearchSettings(**settings)


def test_a_share_is_kept_for_exploration() -> None:
    for explore, kind in ((0.0, 0), (0.25, 2), (1.0, 8)):
        settings = dataclasses.replace(QUICK, explore=explore)
        search = StrategicSearch(TWO, settings, seed=17)
        run(search, 4)
        why = [proposal.why for proposal in search.record().asked]
        assert sum("may be better" in reason for reason in why) == kind


def test_a_state_of_another_version_and_no_questions_are_refused() -> None:
    search = StrategicSearch(LAYERS, QUICK)
    with pytest.raises(ValueError, match="state must be of version 1, got 99"):
        StrategicSearch.from_state(search.state() | {"version": 99})
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        search.ask(0)
