"""Who is blamed when a plan fails, row by row of the table in `evolve.data_plane.faults`, and what
follows from it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evolve.control_plane.recovery import Recovery
from evolve.data_plane.faults import (
    FORGIVEN_AFTER_S,
    MAX_OUT_OF_MEMORY,
    Fault,
    Faults,
    OutOfMemory,
    blames_plan,
)
from evolve.errors import PlanDeclined, PlanFault, PlanWrong, WorkerCrashed, WorkerHung
from evolve.journal.decision import Decision
from evolve.journal.journal import Journal
from supernet.plans import Plan, PlanLibrary, PlanSpec, PlanState
from tests.waiting import eventually


@pytest.mark.parametrize(
    ("fault", "original_works", "out_of_memory", "blamed"),
    [
        (PlanDeclined("too large"), True, 0, False),
        (PlanFault("raised"), True, 0, True),
        (PlanFault("raised"), False, 0, False),
        (WorkerHung("silent"), True, 0, True),
        (WorkerHung("silent"), False, 0, False),
        (WorkerHung("silent", stopped=True), True, 0, False),
        (WorkerCrashed("w", -signal.SIGSEGV), True, 0, True),
        (WorkerCrashed("w", -signal.SIGABRT), False, 0, False),  # a bad index, which both refuse
        (WorkerCrashed("w", 1), True, 0, True),
        (WorkerCrashed("w", -signal.SIGKILL), True, 0, False),
        (WorkerCrashed("w", -signal.SIGTERM), True, MAX_OUT_OF_MEMORY - 1, False),
        (WorkerCrashed("w", -signal.SIGKILL), True, MAX_OUT_OF_MEMORY, True),
        (PlanWrong("0.5 where the model alone gives 0.4"), True, 0, True),
    ],
)
def test_who_is_blamed(
    fault: PlanFault, original_works: bool, out_of_memory: int, blamed: bool
) -> None:
    found = blames_plan(fault, original_works=original_works, out_of_memory=out_of_memory)
    assert found is blamed


def test_workers_that_the_kernel_killed_are_counted_and_forgiven(tmp_path: Path) -> None:
    vmstat, now_s = tmp_path / "vmstat", [0.0]

    def killed(total: int, plan: str = "a") -> int:
        vmstat.write_text(f"pgfault 17\noom_kill {total}\n")
        return memory.killed(plan, now_s[0])

    vmstat.write_text("pgfault 17\noom_kill 5\n")
    memory = OutOfMemory(vmstat)
    assert [killed(5), killed(6), killed(6), killed(9), killed(10, "b")] == [0, 1, 1, 2, 1]
    now_s[0] = FORGIVEN_AFTER_S
    assert killed(11) == 1
    vmstat.unlink()
    assert memory.killed("a", now_s[0]) == 1
    assert OutOfMemory(tmp_path / "missing").killed("a", 0.0) == 0


PLAN = Plan(
    PlanSpec("graph", "staged", "fp32", 1, "weights", "torch", "1", "isa"),
    PlanState.VERIFIED,
    error=0.0,
)


@pytest.fixture
def library() -> PlanLibrary:
    """One plan that every worker is meant to hold."""
    library = PlanLibrary()
    library.put(PLAN)
    library.move(PLAN.key, PlanState.ADMITTED, "its price is known")
    library.move(PLAN.key, PlanState.RESIDENT, "loaded")
    return library


@pytest.fixture
def faults(library: PlanLibrary, tmp_path: Path) -> Faults:
    return Faults(library, OutOfMemory(tmp_path / "vmstat"))


def fault(error: PlanFault, *, works: bool = True, lane: int | None = 0, **more: Any) -> Fault:
    return Fault(lane, PLAN.key, error, works, **{"at_s": 0.0, **more})


def test_a_plan_to_blame_is_out_of_use_once_its_fault_is_noted(
    faults: Faults, library: PlanLibrary
) -> None:
    assert faults.barred() == frozenset()
    faults.note(fault(PlanFault("it raised")))
    assert faults.barred() == {PLAN.key}
    assert library.plans()[0].reason == "it raised"
    ruling = faults.next()
    assert ruling is not None
    assert (ruling.blamed, ruling.taken_from) == (True, PlanState.RESIDENT)


def test_a_plan_that_is_not_to_blame_goes_on(faults: Faults, library: PlanLibrary) -> None:
    faults.note(fault(PlanFault("it raised"), works=False))
    assert faults.barred() == frozenset()
    assert library.plans()[0].state is PlanState.RESIDENT
    ruling = faults.next()
    assert ruling is not None
    assert (ruling.blamed, ruling.taken_from) == (False, None)


def test_batches_that_are_declined_like_others_before_need_nobody(faults: Faults) -> None:
    for _ in range(3):
        faults.note(fault(PlanDeclined("too large")))
    faults.close()
    assert [ruling.is_news for ruling in iter(faults.next, None) if ruling] == [True]


def test_of_several_faults_of_a_plan_the_first_takes_it_out(faults: Faults) -> None:
    for error in (PlanFault("first"), PlanWrong("second"), WorkerHung("third")):
        faults.note(fault(error))
    faults.close()
    rulings = list(iter(faults.next, None))
    assert [r.taken_from for r in rulings if r] == [PlanState.RESIDENT, None, None]


def test_a_plan_that_keeps_running_out_of_memory_is_out_at_the_third_time(
    library: PlanLibrary, tmp_path: Path
) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("oom_kill 0")
    faults = Faults(library, OutOfMemory(vmstat))
    for kills in range(1, MAX_OUT_OF_MEMORY + 1):
        assert faults.barred() == frozenset()
        vmstat.write_text(f"oom_kill {kills}")
        faults.note(fault(WorkerCrashed("w", -signal.SIGKILL), at_s=float(kills)))
    assert faults.barred() == {PLAN.key}
    assert library.plans()[0].reason.startswith("no memory left for it, 3 times: ")


class Staff:
    """Stands for the lanes and the loading; notes what is asked of it."""

    def __init__(self) -> None:
        self.lanes = ("lane-0", "lane-1")
        self.asked: list[tuple[object, ...]] = []

    def rehire(self, lane: str, dead: object, reason: str) -> None:
        self.asked.append(("rehire", lane, dead, reason))

    def unload(self, key: str) -> None:
        self.asked.append(("unload", key))

    def refill(self) -> None:
        self.asked.append(("refill",))


class Bench:
    """A recovery, and all that it tells others."""

    def __init__(self, faults: Faults, condemn: Callable[[str, str], None] | None = None) -> None:
        self.faults, self.staff, self.condemned = faults, Staff(), list[tuple[str, str]]()
        self.journal = Journal(None, device="test")
        staff: Any = self.staff
        self.recovery = Recovery(faults, staff, staff, self.journal, condemn or self._condemn)

    def _condemn(self, key: str, why: str) -> None:
        self.condemned.append((key, why))

    def take_up(self, noted: Fault) -> list[Decision]:
        """What the journal says of one fault."""
        before = len(self.journal.last(100))
        self.faults.note(noted)
        ruling = self.faults.next()
        assert ruling is not None
        self.recovery.take_up(ruling)
        return list(self.journal.last(100)[before:])


def test_what_follows_for_a_plan_to_blame(faults: Faults) -> None:
    bench, dead = Bench(faults), object()
    crash = WorkerCrashed("w", -signal.SIGSEGV)
    (said,) = bench.take_up(fault(crash, lane=1, worker=dead))
    assert (said.subject, said.before, said.after) == (
        PLAN.key, {"state": "resident"}, {"state": "quarantined"},
    )  # fmt: skip
    assert said.reason == f"{crash}; the original model answered its requests"
    assert bench.condemned == [(PLAN.key, str(crash))]
    assert eventually(lambda: ("refill",) in bench.staff.asked)
    assert bench.staff.asked == [
        ("rehire", "lane-1", dead, str(crash)), ("unload", PLAN.key), ("refill",),
    ]  # fmt: skip
    assert bench.take_up(fault(crash, worker=dead)) == [], "it is out already"
    assert bench.staff.asked[3:] == [("rehire", "lane-0", dead, str(crash))]


def test_what_the_watch_found_is_said_as_such(faults: Faults) -> None:
    bench = Bench(faults)
    (said,) = bench.take_up(fault(PlanWrong("0.5 for 0.4"), lane=None))
    assert said.reason == "0.5 for 0.4; the original model answers in its place"
    assert bench.condemned == [(PLAN.key, "0.5 for 0.4")]


def test_a_plan_that_is_not_to_blame_is_told_of_once_for_each_kind_of_fault(
    faults: Faults,
) -> None:
    bench = Bench(faults)
    killed, dead = WorkerCrashed("w", -signal.SIGKILL), object()
    (said,) = bench.take_up(fault(killed, worker=dead))
    assert said.reason == f"{killed}; its batch ran again on the original model"
    assert bench.take_up(fault(killed, worker=dead)) == []
    (said,) = bench.take_up(fault(PlanFault("it raised"), works=False))
    assert said.reason.endswith("ran again on the original model, which had trouble too")
    assert bench.staff.asked == [("rehire", "lane-0", dead, str(killed))] * 2
    assert bench.condemned == []


def test_a_plan_without_memory_may_come_back_after_a_restart(
    library: PlanLibrary, tmp_path: Path
) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("oom_kill 0")
    bench = Bench(Faults(library, OutOfMemory(vmstat)))
    for kills in range(1, MAX_OUT_OF_MEMORY + 1):
        vmstat.write_text(f"oom_kill {kills}")
        said = bench.take_up(fault(WorkerCrashed("w", -signal.SIGKILL), worker=object()))
    assert said[-1].reason.startswith("no memory left for it, 3 times: ")
    assert said[-1].after == {"state": "quarantined"}
    assert bench.condemned == []


def test_a_verdict_that_cannot_be_kept_is_said(faults: Faults) -> None:
    def fails(key: str, why: str) -> None:
        raise OSError("the disk is full")

    said = Bench(faults, fails).take_up(fault(PlanFault("it raised")))
    assert said[-1].reason == "it can't be remembered for the next start: OSError: the disk is full"


def test_one_fault_that_cannot_be_dealt_with_leaves_somebody_for_the_next(faults: Faults) -> None:
    def fails(key: str, why: str) -> None:
        raise RuntimeError("staged")

    bench = Bench(faults, fails)
    bench.recovery.start()
    faults.note(fault(PlanFault("it raised")))
    faults.note(fault(PlanDeclined("too large")))
    bench.recovery.close(60)
    reasons = [decision.reason for decision in bench.journal.last(100)]
    assert any("'it raised' failed: RuntimeError('staged')" in reason for reason in reasons)
    assert any(reason.startswith("too large; its batch ran again") for reason in reasons)
