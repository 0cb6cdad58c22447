"""Who is blamed when a plan fails: the table in `evolve.data_plane.faults`, row by row."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from evolve.data_plane.faults import FORGIVEN_AFTER_S, MAX_OUT_OF_MEMORY, OutOfMemory, blames_plan
from evolve.errors import PlanDeclined, PlanFault, WorkerCrashed, WorkerHung


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
        return memory.killed(plan)

    vmstat.write_text("pgfault 17\noom_kill 5\n")
    memory = OutOfMemory(vmstat, clock=lambda: now_s[0])
    assert [killed(5), killed(6), killed(6), killed(9), killed(10, "b")] == [0, 1, 1, 2, 1]
    now_s[0] = FORGIVEN_AFTER_S
    assert killed(11) == 1
    vmstat.unlink()
    assert memory.killed("a") == 1
    assert OutOfMemory(tmp_path / "missing").killed("a") == 0
