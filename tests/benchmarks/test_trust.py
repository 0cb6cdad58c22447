"""The corpus can be answered by its own models, and a small part of it is served right."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from benchmarks.trust import report
from benchmarks.trust.cases import KINDS, Call
from benchmarks.trust.child import Job
from benchmarks.trust.corpus import BACKENDS, Entry, corpus, one_family
from benchmarks.trust.families import FAMILIES
from benchmarks.trust.judge import Raised, asked
from benchmarks.trust.processes import Result, run
from benchmarks.trust.serve import Setting, serve

# Each stands for a kind, most at a seed that was once answered wrong; served by the original,
# since builds take a while.
QUICK = {
    "coupled/alarm, sometimes": 2,
    "coupled/capacity of experts, sometimes": 2,
    "coupled/flag beside": 1,
    "coupled/detections": 1,
    "independent/steps as rows": 1,
    "padded/multiplied, max": 1,
    "padded/amax": 7,
    "padded/recurrent": 7,
    "errors/embedding": 1,
    "errors/raises SystemExit": 1,
    "nonfinite/masked policy": 1,
    "stateful/counter": 1,
    "stateful/latch": 1,
    "stateful/Python's generator": 1,
    "stateful/cache as an argument": 1,
    "moving/state loaded": 1,
}
SERVED = 40


def same(a: object, b: object) -> bool:
    """Whether two calls hold the same."""
    return all(
        np.array_equal(np.asarray(x), np.asarray(y), equal_nan=np.asarray(x).dtype.kind == "f")
        for x, y in zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True)
    )


def test_every_kind_has_families() -> None:
    assert {family.kind for family in FAMILIES.values()} == set(KINDS)
    assert len(FAMILIES) == len({(f.kind, f.name) for f in FAMILIES.values()}) >= 400


@pytest.mark.parametrize("kind", KINDS)
def test_models_take_their_examples(kind: str) -> None:
    """And a request drawn twice from one seed is the same."""
    for name, family in FAMILIES.items():
        if family.kind != kind:
            continue
        case, again = family.case(3, 4), family.case(3, 4)
        assert len(case.requests) == 4, name
        for one, other in zip(case.requests, again.requests, strict=True):
            assert same((one.args, one.kwargs), (other.args, other.kwargs)), name
        twin = copy.deepcopy(case.model)
        for example in case.examples:
            assert not isinstance(asked(twin, example).value, Raised), name


def test_requests_are_hostile() -> None:
    """Lengths of 1 and beyond the examples, ids outside the vocabulary, empty masks."""
    case = FAMILIES["padded/mean of kept"].case(1, 100)
    lengths = {call.kwargs["x"].shape[1] for call in case.requests}
    own = [call.kwargs["x"].shape[1] for call in case.examples]
    assert min(lengths) == 1
    assert max(lengths) > 4 * max(own)
    assert {call.kwargs["x"].shape[0] for call in case.requests} >= {1, 8, 9}
    assert any(not call.kwargs["mask"].any() for call in case.requests)
    outcomes = [asked(case.model, call).value for call in case.requests]
    assert any(isinstance(value, Raised) and value.type == "IndexError" for value in outcomes)


def test_corpus_follows_from_its_seed() -> None:
    first = corpus(40, 0)
    assert first == corpus(40, 0)
    assert [entry.seed for entry in corpus(40, 1)] != [entry.seed for entry in first]
    assert {entry.kind for entry in first} == set(KINDS)
    assert {entry.kind for entry in corpus(10, 0, kinds=("padded",))} == {"padded"}
    assert all(not entry.backends for entry in corpus(40, 0, backends=()))
    assert {entry.backends for entry in corpus(80, 0, backends=("fused",))} == {("fused",)}
    tried = {backend for entry in corpus(80, 0) for backend in entry.backends}
    assert tried == set(BACKENDS)
    (again,) = one_family(first[7].family, 1, first[7].seed)
    assert again == first[7]


@pytest.mark.parametrize(("name", "seed"), QUICK.items(), ids=QUICK)
def test_served_right(name: str, seed: int, tmp_path: Path) -> None:
    outcome = serve(FAMILIES[name].case(seed, SERVED), Setting(tmp_path, ()))
    assert outcome.unserved == ""
    assert outcome.requests == SERVED
    assert outcome.wrong == ()
    assert (outcome.lost, outcome.refused) == (0, 0)


# What a process of the corpus tells: the first model is served, at the second it dies.
_DYING = """
import json, os, sys
job = json.loads(sys.stdin.read())
for entry in job["entries"]:
    print(json.dumps({"began": entry}), flush=True)
    if entry["seed"] == 1:
        print("terminate called", file=sys.stderr, flush=True)
        os.abort()
    outcome = {"requests": 3, "wrong": [], "lost": 0, "refused": 0}
    print(json.dumps({"ended": outcome}), flush=True)
print(json.dumps({"all": 3}), flush=True)
"""


def test_process_that_dies_costs_one_model(tmp_path: Path) -> None:
    entries = [Entry("padded/max", seed, ("eager",), ("fp32",)) for seed in range(3)]
    job = Job(entries, 3, tmp_path, "thread")
    told: list[Result] = []
    program = (sys.executable, "-c", _DYING)
    results = run(job, jobs=1, minutes=1.0, told=told.append, program=program)
    assert [result.entry for result in results] == entries
    assert [result.died for result in results] == [False, True, False]
    assert results[1].status == -6
    assert "terminate called" in results[1].last_words
    assert told == results
    figures = report.figures(results)
    assert not figures["processes lost"].holds
    assert figures["wrong answers in silence"].holds
    assert figures["requests sent"].value == 6
    assert [failure["seed"] for failure in report.failing(results)] == [1]


def test_death_after_the_last_answer_counts(tmp_path: Path) -> None:
    program = (sys.executable, "-c", _DYING + "\nos.abort()")
    job = Job([Entry("padded/max", 0, (), ("fp32",))], 3, tmp_path, "thread")
    (result,) = run(job, jobs=1, minutes=1.0, told=lambda result: None, program=program)
    assert result.died
    assert result.outcome is not None


def test_job_survives_the_way_to_its_process() -> None:
    job = Job(corpus(5, 3), 10, Path("plans"), "process")
    assert Job.from_json(job.to_json()) == job


def test_call_is_copied_whole() -> None:
    call = Call(([torch.zeros(2)],), note="a list")
    call.copy().args[0].append(None)
    assert len(call.args[0]) == 1
