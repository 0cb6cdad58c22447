"""Plan names, and a library in which a failed verdict is final."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace

import pytest

from supernet.plans import Plan, PlanLibrary, PlanSpec, PlanState

SPEC = PlanSpec("ab" * 32, "onnxruntime", "fp32", 1, "cd" * 32, "2.13.0", "1.31.1", "x86_64-avx2")
VERIFIED = Plan(SPEC, PlanState.VERIFIED, error=1e-6)


def test_keys_are_short_and_tell_plans_apart() -> None:
    assert re.fullmatch(r"onnxruntime-fp32-t1-[0-9a-f]{8}", SPEC.key)
    changes = {
        "graph_hash": "00" * 32, "backend": "openvino", "precision": "int8", "threads": 2,
        "weights_version": "11" * 32, "torch_version": "2.14.0", "backend_version": "2",
        "isa": "arm64",
    }  # fmt: skip
    keys = {SPEC.key} | {replace(SPEC, **{name: value}).key for name, value in changes.items()}
    assert len(keys) == 1 + len(changes)


def test_plans_that_differ_in_threads_share_their_files() -> None:
    assert replace(SPEC, threads=2).artifact_key == SPEC.artifact_key
    assert replace(SPEC, isa="arm64").artifact_key != SPEC.artifact_key
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", SPEC.artifact_key)


def test_specs_survive_json() -> None:
    assert PlanSpec.from_json(json.loads(json.dumps(SPEC.to_json()))) == SPEC
    with pytest.raises(ValueError, match="plan spec must have the fields"):
        PlanSpec.from_json({"backend": "eager"})


def test_threads_must_be_positive() -> None:
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        replace(SPEC, threads=0)


def test_only_admitted_plans_serve() -> None:
    library = PlanLibrary()
    library.put(VERIFIED)
    assert library.admitted() == ()
    library.admit(SPEC.key, "error and cost known")
    assert [plan.state for plan in library.admitted()] == [PlanState.ADMITTED]
    library.quarantine(SPEC.key, "it returned a NaN")
    assert library.admitted() == ()
    assert library.plans()[0].reason == "it returned a NaN"


def test_what_was_never_judged_is_not_admitted() -> None:
    library = PlanLibrary()
    library.put(Plan(SPEC, PlanState.BUILT))
    with pytest.raises(ValueError, match="must be verified before it is admitted"):
        library.admit(SPEC.key, "hopeful")
    library.put(Plan(SPEC, PlanState.VERIFIED, error=None))
    with pytest.raises(ValueError, match="must be verified before it is admitted"):
        library.admit(SPEC.key, "hopeful")


def test_a_quarantine_is_final() -> None:
    library = PlanLibrary()
    library.put(VERIFIED)
    library.quarantine(SPEC.key, "it crashed")
    assert library.put(VERIFIED).state is PlanState.QUARANTINED
    assert library.admit(SPEC.key, "again").reason == "it crashed"
    assert library.quarantine(SPEC.key, "another reason").reason == "it crashed"


def test_unknown_plans_are_named() -> None:
    for change in (PlanLibrary().admit, PlanLibrary().quarantine):
        with pytest.raises(KeyError, match="plan must be in the library, got 'nobody'"):
            change("nobody", "why")


def test_changes_are_told_once_with_before_and_after() -> None:
    told: list[tuple[PlanState | None, PlanState, str]] = []
    library = PlanLibrary(lambda a, b, why: told.append((a and a.state, b.state, why)))
    library.put(VERIFIED)
    library.put(VERIFIED)
    library.admit(SPEC.key, "good")
    library.quarantine(SPEC.key, "bad")
    library.put(VERIFIED)
    assert told == [
        (None, PlanState.VERIFIED, ""),
        (PlanState.VERIFIED, PlanState.ADMITTED, "good"),
        (PlanState.ADMITTED, PlanState.QUARANTINED, "bad"),
    ]


def test_readers_see_whole_values_while_others_write() -> None:
    library = PlanLibrary()
    specs = [replace(SPEC, threads=n) for n in range(1, 60)]
    torn: list[str] = []

    def write(own: list[PlanSpec]) -> None:
        for spec in own:
            library.put(Plan(spec, PlanState.VERIFIED, error=0.0))
            library.admit(spec.key, "good")

    def read() -> None:
        for _ in range(500):
            if any(plan.state is not PlanState.ADMITTED for plan in library.admitted()):
                torn.append("not admitted")

    threads = [threading.Thread(target=write, args=(specs[i::3],)) for i in range(3)]
    threads.append(threading.Thread(target=read))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not torn
    assert {plan.spec for plan in library.admitted()} == set(specs)
