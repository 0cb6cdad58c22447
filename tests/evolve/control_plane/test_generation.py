"""The strategic loop in virtual time: when it begins, what it adopts, what it remembers."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import evolve
from evolve.control_plane.adoption import Adoptions
from evolve.control_plane.generations.evolving import Evolving, why_not
from evolve.control_plane.generations.findings import MOST_POINTS
from evolve.control_plane.generations.generation import Generations
from evolve.control_plane.generations.state import GenerationState
from evolve.control_plane.tiers import Tier
from evolve.evolution.generation_job import GenerationRequest
from evolve.journal.decision import Decision
from evolve.journal.explain import explain
from evolve.journal.journal import Journal
from evolve.monitoring.reservoir import Reservoir
from supernet.cache import ArtifactCache
from supernet.elastic.subnet import LayerSpec, SubnetSpec
from supernet.elastic.trained import write_weights
from supernet.errors import CacheFull
from supernet.jobs.errors import (
    JobCancelled,
    JobCrashed,
    JobKilled,
    JobOutOfDisk,
    JobOutOfMemory,
    JobRefused,
)
from supernet.jobs.pausing import Pauses
from supernet.jobs.process import Terms
from supernet.plans import PlanLibrary, PlanState
from tests.evolve.data_plane.test_recovery import staged_plan

GRAPH = "a1" * 32
MINUTES = 60.0


class FakeTiers:
    """What becomes of adoptions, as a test says; `full` where it says nothing."""

    def __init__(self, adoptions: Adoptions) -> None:
        self._adoptions = adoptions
        self.states: dict[str, str] = {}
        self.dismissed: dict[str, str] = {}
        self.settled = True

    def tiers(self) -> tuple[Tier, ...]:
        return tuple(
            Tier(one.name, self.states.get(one.name, "full"), reason="as a test says")  # type: ignore[arg-type]
            for one in self._adoptions.all()
        )

    def wait(self, timeout_s: float | None) -> bool:
        return self.settled

    def dismiss(self, name: str, why: str) -> None:
        self._adoptions.remove(name)
        self.dismissed[name] = why


@dataclass
class World:
    """A service in which time passes only while its loop waits or a job runs."""

    root: Path
    slo: evolve.SLO = field(default_factory=lambda: evolve.SLO(min_quality=0.9))
    settings: dict[str, Any] = field(default_factory=lambda: {"min_inputs": 4})
    now_s: float = 0.0
    end_s: float = 60 * MINUTES
    at: dict[float, Callable[[], object]] = field(default_factory=dict)
    answers: list[Any] = field(default_factory=list)
    took_s: float = 30.0
    asked: list[GenerationRequest] = field(default_factory=list)
    asked_at_s: list[float] = field(default_factory=list)
    version: int = 0

    def __post_init__(self) -> None:
        self.adoptions, self.library = Adoptions(), PlanLibrary()
        self.tiers = FakeTiers(self.adoptions)
        self.journal = Journal(None, device="cpu", clock=lambda: self.now_s, wall=lambda: 0.0)
        self.reservoir = Reservoir(16, 1.0, random.Random(0))
        for value in range(8):
            self.reservoir.offer([[torch.full((1, 2), float(value))]])
        self.config = evolve.Config(seed=5).replace(evolution=self.settings)
        self.loop = self.restarted()

    def restarted(self) -> Generations:
        setup = SimpleNamespace(
            capture=SimpleNamespace(graph_hash=GRAPH, exported=True, reason=""),
            slo=self.slo, open_cache=lambda heard: ArtifactCache(self.root, heard),
            store=lambda cache: self.root / "references" / "own", threads=2,
        )  # fmt: skip
        on: Any = SimpleNamespace(wait=lambda timeout_s: True)
        evolving = Evolving(
            self.config, setup, self.reservoir, self.library, on, self.tiers, self.adoptions,  # type: ignore[arg-type]
            self.journal, Pauses(), lambda: None, lambda: self.version, self.job,
        )  # fmt: skip
        self.loop = Generations(evolving, clock=lambda: self.now_s, wait=self.wait)
        return self.loop

    def wait(self, seconds: float) -> bool:
        until_s = self.now_s + seconds
        for due_s in sorted(self.at):
            if due_s <= until_s:
                self.now_s = max(self.now_s, due_s)
                self.at.pop(due_s)()
        self.now_s = until_s
        return self.now_s > self.end_s

    def job(self, request: GenerationRequest, terms: Terms) -> Mapping[str, Any]:
        self.asked.append(request)
        self.asked_at_s.append(self.now_s)
        self.now_s += self.took_s
        answer = self.answers.pop(0) if self.answers else result()
        if callable(answer):
            answer = answer(request, terms)
        if isinstance(answer, Exception):
            raise answer
        for row in answer.get("tiers", ()):
            if tensors := row.pop("tensors", None):
                write_weights(tensors, Path(request.out) / row["weights"])
        return answer

    def run(self) -> list[Decision]:
        self.loop.run()
        return [d for d in self.journal.last(1000) if d.kind == "generation"]

    @property
    def served(self) -> list[str]:
        return [one.name for one in self.adoptions.all()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def tier(name: str, width: int = 8, quality: float = 0.95, speedup: float = 2.0) -> dict[str, Any]:
    return {
        "name": name, "spec": SubnetSpec((LayerSpec("layer", widths=(width,)),)).to_json(),
        "weights": f"{name}.safetensors", "quality": quality, "speedup": speedup,
        "reason": f"{name} is twice as fast", "tensors": {"w": torch.full((2,), quality)},
    }  # fmt: skip


def result(*tiers: dict[str, Any], front: int = 1) -> dict[str, Any]:
    points = [
        {"describe": f"{n} channels", "quality_loss": 0.01, "latency_ms": 1.0, "memory_mib": 1.0,
         "role": role}
        for role in ("uniform", "front", "original", "tier") for n in range(front)
    ]  # fmt: skip
    return {
        "tiers": list(tiers), "reason": "24 were measured", "generation": 1, "measured": 24,
        "front": points, "utility": {"without": 0.6, "with": 0.8}, "notes": [], "seconds": 30.0,
    }  # fmt: skip


def test_in_an_hour_there_are_twelve_and_none_is_late(world: World) -> None:
    decisions = world.run()
    assert world.asked_at_s == [300.0 * n for n in range(1, 13)]
    assert [d.subject for d in decisions] == [str(n) for n in range(1, 13)]
    assert [request.seed for request in world.asked[:3]] == [6, 7, 8]


def test_a_late_one_is_passed_over_and_said(world: World) -> None:
    world.took_s, world.end_s = 700.0, 30 * MINUTES
    decisions = world.run()
    assert world.asked_at_s == [300.0, 1200.0]
    assert "skipped 2: the one before was under way for 700 s" in [d.reason for d in decisions]


def test_what_the_job_is_given(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = staged_plan()
    fast = replace(
        slow, spec=replace(slow.spec, backend="onnxruntime", threads=2),
        costs_ms={shape: cost_ms / 2 for shape, cost_ms in slow.costs_ms.items()},
    )  # fmt: skip
    for plan in (slow, fast):
        world.library.put(plan)
        world.library.move(plan.key, PlanState.ADMITTED, "its price is known")
    seen: dict[str, Any] = {}

    def look(request: GenerationRequest, terms: Terms) -> Mapping[str, Any]:
        seen.update(load_file(request.inputs))
        assert Path(request.state).is_relative_to(world.root / "evolution")
        assert not list(Path(request.out).iterdir())
        assert terms.threads == 1
        assert not terms.cancelled()
        return result()

    world.answers, world.end_s = [look], 6 * MINUTES
    world.run()
    (asked,) = world.asked
    assert sorted(seen) == [f"{n}.0" for n in range(8)]
    assert not os.path.exists(asked.inputs), "freed afterwards"
    assert (asked.graph_hash, asked.agreement, asked.min_quality) == (GRAPH, "cosine", 0.9)
    assert (asked.most_tiers, asked.budget_s, asked.twin) == (2, 120.0, "")
    assert asked.like == ("onnxruntime", fast.spec.precision, 2)
    json.dumps(asked.like)


def building(world: World) -> None:
    world.tiers.settled = False


def starving(world: World) -> None:
    world.reservoir._kept.clear()


def shared(world: World) -> None:
    state = GenerationState(ArtifactCache(world.root), f"{GRAPH[:24]}-cosine")
    lock = state.locked()
    lock.__enter__()
    world.at[world.end_s] = lambda: lock.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("obstacle", "words"),
    [
        (building, "skipped: plans are still being built"),
        (starving, "skipped: 0 inputs were kept so far, 4 are needed"),
        (shared, "skipped: another process is at it"),
    ],
)
def test_it_waits_for_its_turn(world: World, obstacle: Callable[[World], None], words: str) -> None:
    obstacle(world)
    world.end_s = 6 * MINUTES
    (decision,) = world.run()
    assert (decision.reason, decision.applied) == (words, False)
    assert world.asked == []
    assert world.loop.status()["generations"] == 0


def test_what_replaces_others_serves_before_they_go(world: World) -> None:
    world.adoptions.add(SubnetSpec((LayerSpec("own"),)), None, "users")
    world.answers = [result(tier("one", 8), tier("two", 4)), result(tier("one", 8), tier("new", 2))]
    world.tiers.states["new"] = "shadow"
    world.end_s = 14 * MINUTES
    world.at[330.0] = lambda: seen.append(world.served)
    world.at[700.0] = lambda: seen.append(world.served)
    world.at[701.0] = lambda: world.tiers.states.pop("new")
    seen: list[list[str]] = []
    first, second = world.run()
    assert seen == [["users", "one", "two"], ["users", "one", "two", "new"]]
    assert world.served == ["users", "one", "new"]
    assert world.tiers.dismissed == {"two": "others that were found since serve in its place"}
    assert set(first.after["tiers"]) == {"one", "two"}
    assert set(second.before["tiers"]) == {"one", "two"}
    weights = next(one.weights for one in world.adoptions.all() if one.name == "new")
    assert weights is not None
    assert load_file(weights)["w"].tolist() == pytest.approx([0.95, 0.95])


def test_one_that_never_came_to_serve_goes_at_once(world: World) -> None:
    world.answers = [result(tier("one", 8)), result(tier("new", 2))]
    world.tiers.states |= {"one": "shadow", "new": "shadow"}
    world.end_s = 12 * MINUTES
    world.run()
    assert world.served == ["new"]


def test_where_nothing_is_chosen_what_serves_stays(world: World) -> None:
    world.answers, world.end_s = [result(tier("one")), result()], 12 * MINUTES
    world.run()
    assert world.served == ["one"]


def test_the_same_with_weights_hardly_better_begins_no_trial_anew(world: World) -> None:
    world.answers = [
        result(tier("one", 8, quality=0.95)),
        result(tier("more", 8, quality=0.9505)),
        result(tier("much", 8, quality=0.96)),
    ]
    world.end_s = 17 * MINUTES
    second = world.run()[1]
    assert "one stays: more is it with weights hardly better" in second.reason
    assert world.served == ["much"]


@pytest.mark.parametrize("state", ["rolled back", "refused"])
def test_what_was_refuted_is_not_proposed_again(world: World, state: str) -> None:
    world.answers = [
        result(tier("bad", 8, quality=0.95)),
        result(tier("bad", 8), tier("worse", 8, quality=0.94)),
    ]
    world.at[400.0] = lambda: world.tiers.states.update(bad=state)
    world.tiers.states["bad"], world.end_s = "shadow", 12 * MINUTES
    second = world.run()[1]
    assert world.served == []
    assert "it is not proposed again for these weights" in world.tiers.dismissed["bad"]
    assert "bad is left out: it was tried before: as a test says" in second.reason
    assert "worse is left out" in second.reason
    assert not second.applied

    world.restarted()
    world.answers, world.end_s = (
        [result(tier("bad")), result(tier("better", 8, 0.97))],
        30 * MINUTES,
    )
    world.run()
    assert world.served == ["better"], (
        "the first is remembered after a restart; weights that promise more may try"
    )


def test_less_strict_users_may_have_what_was_refused(world: World) -> None:
    world.answers, world.end_s = [result(tier("bad"))], 7 * MINUTES
    world.tiers.states["bad"] = "rolled back"
    world.run()
    world.slo = replace(world.slo, min_quality=0.5)
    world.tiers.states.clear()
    world.restarted()
    world.answers, world.end_s = [result(tier("bad"))], 16 * MINUTES
    world.run()
    assert world.served == ["bad"]


def test_what_its_user_dismissed_stays_away(world: World) -> None:
    world.answers = [result(tier("one")), result(tier("one"))]
    world.at[400.0] = lambda: world.adoptions.remove("one")
    world.tiers.states["one"], world.end_s = "shadow", 12 * MINUTES
    second = world.run()[1]
    assert world.served == []
    assert "its user dismissed it" in second.reason


def test_what_its_user_adopted_is_his(world: World) -> None:
    world.adoptions.add(SubnetSpec((LayerSpec("layer", widths=(8,)),)), None, "one")
    world.answers, world.end_s = [result(tier("one")), result(tier("two", 4))], 12 * MINUTES
    first = world.run()[0]
    assert "one is left out: its user adopted it" in first.reason
    assert world.served == ["one", "two"]
    assert world.loop.status()["tiers"] == ["two"]


def test_after_a_restart_they_serve_again_without_a_search(tmp_path: Path) -> None:
    first = World(tmp_path, end_s=6 * MINUTES, answers=[result(tier("one"), tier("two", 4))])
    first.run()
    second = World(tmp_path, end_s=1 * MINUTES)
    (decision,) = second.run()
    assert second.served == ["one", "two"]
    assert second.asked == []
    assert "adopted again" in decision.reason
    (path,) = [one.weights for one in second.adoptions.all() if one.name == "one"]
    assert path is not None
    assert load_file(path)["w"].tolist() == pytest.approx([0.95, 0.95])


def test_damaged_weights_are_not_adopted_again(tmp_path: Path) -> None:
    World(tmp_path, end_s=6 * MINUTES, answers=[result(tier("one"), tier("two", 4))]).run()
    (kept,) = tmp_path.glob("evolution/*/tiers/one.safetensors")
    kept.write_bytes(kept.read_bytes()[:-1] + b"!")
    second = World(tmp_path, end_s=1 * MINUTES)
    second.run()
    assert second.served == ["two"]


def test_for_other_weights_nothing_is_adopted(world: World) -> None:
    def moved(request: GenerationRequest, terms: Terms) -> Mapping[str, Any]:
        world.version += 1
        return result(tier("one"))

    world.answers, world.end_s = [moved], 6 * MINUTES
    (decision,) = world.run()
    assert world.served == []
    assert "the model's weights moved meanwhile" in decision.reason


def test_it_ends_at_once_when_all_ends(world: World) -> None:
    def stopped(request: GenerationRequest, terms: Terms) -> Mapping[str, Any]:
        world.loop.stop()
        assert terms.cancelled()
        raise JobCancelled("it was cancelled")

    world.answers, world.end_s = [stopped], 6 * MINUTES
    (decision,) = world.run()
    assert not decision.applied
    assert len(world.asked) == 1


BAD = [
    {}, {**result(), "front": [{}]}, {**result(), "utility": {"with": "much"}},
    result({**tier("two"), "spec": {"v": 99}}), result({**tier("two"), "quality": None}),
    result({**tier("two"), "weights": "../x"}), result({**tier("two"), "name": "../x"}),
    result(tier("two", 4), {**tier("lost", 2), "tensors": {}}),
]  # fmt: skip
FAULTS = [
    JobCrashed("it crashed with SIGSEGV"), JobKilled("its process was killed (SIGKILL)"),
    JobOutOfMemory("MemoryError"), JobOutOfDisk("no room"), CacheFull("no room left"),
    OSError(28, "No space left on device"), JobRefused("there is nothing to shrink"),
]  # fmt: skip


@pytest.mark.parametrize("fault", [*FAULTS, *BAD])
def test_after_a_fault_what_serves_goes_on_and_the_next_comes(world: World, fault: Any) -> None:
    world.answers = [result(tier("one")), fault, result(tier("one"), tier("two", 4))]
    world.end_s = 17 * MINUTES
    _, second, third = world.run()
    assert not second.applied
    assert second.reason.startswith(("came to nothing: ", "refused: "))
    assert set(second.after["tiers"]) == {"one"}
    assert third.applied
    assert world.served == ["one", "two"]


def test_all_are_adopted_or_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    add, calls = world.adoptions.add, [0]

    def full(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError(28, "No space left on device")
        return add(*args, **options)

    monkeypatch.setattr(world.adoptions, "add", full)
    world.answers, world.end_s = [result(tier("one"), tier("two", 4))], 6 * MINUTES
    (decision,) = world.run()
    assert world.served == []
    assert "No space left" in decision.reason
    assert World(world.root, end_s=1.0).run() == [], "nor on record"


def test_after_three_in_a_row_they_come_less_often_up_to_an_hour(world: World) -> None:
    world.answers = [JobCrashed("it crashed")] * 9 + [result()] * 2
    world.took_s, world.end_s = 0.0, 6 * 60 * MINUTES
    world.run()
    between = [b - a for a, b in zip(world.asked_at_s, world.asked_at_s[1:], strict=False)]
    assert between[:6] == [300.0, 300.0, 600.0, 1200.0, 2400.0, 3600.0]
    assert between[8:10] == [3600.0, 300.0], "and as before once one succeeds"


def test_the_decision_tells_what_was_seen_found_and_why(world: World) -> None:
    world.answers, world.end_s = [result(tier("one"), front=20)], 6 * MINUTES
    (decision,) = world.run()
    roles = [point["role"] for point in decision.after["front"]]
    assert len(roles) == MOST_POINTS
    assert roles.count("tier") == 20, "those that count are kept where there are too many"
    assert decision.seen == {"inputs": 8.0}
    assert decision.scores == {"utility without": 0.6, "utility with": 0.8}
    words = explain(decision)
    assert "one (quality 0.95, 2 × as fast): one is twice as fast" in words
    assert "0.6" in words
    assert "0.8" in words


def test_its_status_is_plain(world: World) -> None:
    world.answers, world.end_s = [result(tier("one"))], 6 * MINUTES
    assert world.loop.status()["next_in_s"] == 300.0
    world.run()
    status = json.loads(json.dumps(world.loop.status()))
    assert status["state"] == "waiting"
    assert (status["generations"], status["inputs"], status["tiers"]) == (1, 8, ["one"])
    assert status["last"] == "24 were measured"
    assert 0 <= status["next_in_s"] <= 300


@pytest.mark.parametrize(
    ("slo", "changes", "words"),
    [
        (evolve.SLO(), {}, "min_quality is 1"),
        (None, {"evolution": {"every_s": 0}}, "evolution.every_s is 0"),
        (None, {"evolution": {"reservoir": 0}}, "evolution.reservoir is 0"),
        (None, {"plans": {"build": False}}, "plans.build is off"),
        (None, {}, "it was not exported"),
    ],
)
def test_without_consent_or_a_program_there_is_none(
    slo: evolve.SLO | None, changes: dict[str, Any], words: str
) -> None:
    capture: Any = SimpleNamespace(exported=False, reason="it was not exported")
    why = why_not(slo or evolve.SLO(min_quality=0.9), evolve.Config().replace(**changes), capture)
    assert words in str(why)


def test_states_of_few_models_are_kept(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    for n in range(9):
        state = GenerationState(ArtifactCache(tmp_path), f"model-{n}")
        os.utime(state.folder, (n, n))
        del state
    held = GenerationState(cache, "held")
    for n in range(9, 18):
        GenerationState(ArtifactCache(tmp_path), f"model-{n}")
    names = {path.name for path in (tmp_path / "evolution").iterdir()}
    assert held.folder.name in names
    assert len(names) <= 6
