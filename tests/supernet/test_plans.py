"""Plan names, and a library in which a failed verdict is final."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace

import pytest

from supernet.plans import Plan, PlanLibrary, PlanSpec, PlanState, moved
from supernet.tiers import plan_tier

SPEC = PlanSpec("ab" * 32, "onnxruntime", "fp32", 1, "cd" * 32, "2.13.0", "1.31.1", "x86_64-avx2")
BUILT = Plan(SPEC, PlanState.BUILT, error=1e-6)
VERIFIED = replace(BUILT, state=PlanState.VERIFIED)
WALK = (PlanState.BUILT, PlanState.VERIFIED, PlanState.ADMITTED, PlanState.RESIDENT)


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


def library_with(state: PlanState) -> PlanLibrary:
    """A library whose only plan walked to `state`."""
    library = PlanLibrary()
    library.put(BUILT)
    for step in WALK[: WALK.index(state)]:
        library.move(SPEC.key, WALK[WALK.index(step) + 1], "next")
    return library


def test_a_plan_walks_from_built_to_resident_and_back_to_admitted() -> None:
    library = library_with(PlanState.RESIDENT)
    assert library.move(SPEC.key, PlanState.ADMITTED, "superfluous").happened
    assert library.move(SPEC.key, PlanState.RESIDENT, "worth it again").happened
    found = library.get(SPEC.key)
    assert found is not None
    assert (found.state, found.reason) == (PlanState.RESIDENT, "worth it again")


LEGAL = {
    (PlanState.BUILT, PlanState.VERIFIED), (PlanState.BUILT, PlanState.QUARANTINED),
    (PlanState.VERIFIED, PlanState.ADMITTED), (PlanState.VERIFIED, PlanState.QUARANTINED),
    (PlanState.ADMITTED, PlanState.RESIDENT), (PlanState.ADMITTED, PlanState.QUARANTINED),
    (PlanState.RESIDENT, PlanState.ADMITTED), (PlanState.RESIDENT, PlanState.QUARANTINED),
}  # fmt: skip


@pytest.mark.parametrize("before", PlanState)
@pytest.mark.parametrize("to", PlanState)
def test_only_the_next_state_follows_and_others_are_refused_by_name(
    before: PlanState, to: PlanState
) -> None:
    plan = replace(BUILT, state=before)
    if (before, to) in LEGAL:
        assert moved(plan, to, "why") == replace(plan, state=to, reason="why")
        return
    with pytest.raises(ValueError, match=rf"state of plan .* after {before.value}, got {to.value}"):
        moved(plan, to, "why")


@pytest.mark.parametrize("before", WALK)
@pytest.mark.parametrize("to", WALK)
def test_a_library_refuses_what_the_table_does_and_keeps_what_it_has(
    before: PlanState, to: PlanState
) -> None:
    library = library_with(before)
    held = library.plans()
    if (before, to) in LEGAL:
        assert library.move(SPEC.key, to, "why").before is before
    elif before is to:
        assert not library.move(SPEC.key, to, "again").happened
        assert library.plans() == held
    else:
        with pytest.raises(ValueError, match=f"after {before.value}, got {to.value}"):
            library.move(SPEC.key, to, "why")
        assert library.plans() == held


@pytest.mark.parametrize("state", [PlanState.ADMITTED, PlanState.RESIDENT])
def test_no_plan_enters_a_library_beyond_verified(state: PlanState) -> None:
    with pytest.raises(ValueError, match=f"verified or quarantined at first, got {state.value}"):
        PlanLibrary().put(replace(BUILT, state=state))


def test_only_admitted_plans_serve_resident_or_not() -> None:
    library = library_with(PlanState.VERIFIED)
    assert library.admitted() == ()
    library.move(SPEC.key, PlanState.ADMITTED, "its price is known")
    assert [plan.state for plan in library.admitted()] == [PlanState.ADMITTED]
    library.move(SPEC.key, PlanState.RESIDENT, "loaded")
    assert [plan.state for plan in library.admitted()] == [PlanState.RESIDENT]
    assert library.quarantined() == frozenset()
    library.move(SPEC.key, PlanState.QUARANTINED, "it returned a NaN")
    assert library.admitted() == ()
    assert library.quarantined() == {SPEC.key}
    assert library.plans()[0].reason == "it returned a NaN"


def test_what_was_never_judged_is_not_verified_or_admitted() -> None:
    with pytest.raises(
        ValueError, match=r"error of plan .* must be known to be verified, got None"
    ):
        moved(replace(BUILT, error=None), PlanState.VERIFIED, "hopeful")
    library = PlanLibrary()
    library.put(replace(VERIFIED, error=None))
    with pytest.raises(
        ValueError, match=r"error of plan .* must be known to be admitted, got None"
    ):
        library.move(SPEC.key, PlanState.ADMITTED, "hopeful")


def test_a_quarantine_is_final() -> None:
    library = library_with(PlanState.RESIDENT)
    assert library.move(SPEC.key, PlanState.QUARANTINED, "it crashed").happened
    for state in PlanState:
        late = library.move(SPEC.key, state, "another reason")
        assert (late.happened, late.plan.reason) == (False, "it crashed")
    assert library.put(VERIFIED).state is PlanState.QUARANTINED
    assert library.learn(VERIFIED).state is PlanState.QUARANTINED


def test_of_two_who_take_a_plan_out_one_is_told_that_it_did() -> None:
    library, ready = library_with(PlanState.RESIDENT), threading.Barrier(8)
    told: list[bool] = []

    def take_out() -> None:
        ready.wait(60)
        told.append(library.move(SPEC.key, PlanState.QUARANTINED, "it crashed").happened)

    threads = [threading.Thread(target=take_out) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == [False] * 7 + [True]


def test_what_is_learnt_of_a_plan_changes_neither_its_state_nor_why() -> None:
    library = library_with(PlanState.RESIDENT)
    before = library.get(SPEC.key)
    assert before is not None
    known = library.learn(replace(VERIFIED, memory_mib=7.0, reason="compared"))
    assert known == replace(before, memory_mib=7.0)
    assert library.admitted() == (known,)


def test_unknown_plans_are_named() -> None:
    with pytest.raises(KeyError, match="plan must be in the library, got 'nobody'"):
        PlanLibrary().move("nobody", PlanState.QUARANTINED, "why")
    with pytest.raises(KeyError, match="plan must be in the library"):
        PlanLibrary().learn(VERIFIED)


def test_readers_see_whole_values_while_others_write() -> None:
    library = PlanLibrary()
    specs = [replace(SPEC, threads=n) for n in range(1, 60)]
    torn: list[str] = []

    def write(own: list[PlanSpec]) -> None:
        for spec in own:
            library.put(Plan(spec, PlanState.VERIFIED, error=0.0))
            library.move(spec.key, PlanState.ADMITTED, "good")

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


def test_any_sub_network_is_of_a_higher_tier_than_any_plan_of_the_model() -> None:
    exact = [replace(VERIFIED, error=error) for error in (None, 0.0, 1e-6)]
    coarse = [replace(VERIFIED, error=error) for error in (2e-4, 1e-3, 0.1, 1.0, 1e6)]
    own = [replace(VERIFIED, subnet="half", quality=q) for q in (1.0, 0.999, 0.98, 0.5, 0.0)]
    assert {plan_tier(plan) for plan in exact} == {0}
    tiers = [plan_tier(plan) for plan in (*coarse, *own)]
    assert tiers == sorted(tiers)
    assert tiers[0] > 0
    assert tiers[len(coarse) - 1] < tiers[len(coarse)]
    assert len(set(tiers[len(coarse) :])) == len(own)


def test_how_exact_a_plan_of_a_sub_network_is_does_not_change_its_tier() -> None:
    rough = replace(VERIFIED, error=0.004, subnet="half", quality=0.98)
    assert plan_tier(rough) == plan_tier(replace(rough, error=0.0))


def test_quality_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"quality must be in \[0, 1\], got 1.5"):
        replace(VERIFIED, quality=1.5)
