"""Who is blamed when a plan fails: the table in `evolve.faults`, row by row."""

from __future__ import annotations

import signal

import pytest

from evolve.errors import PlanDeclined, PlanFault, WorkerCrashed, WorkerHung
from evolve.faults import MAX_KILLS, blames_plan


@pytest.mark.parametrize(
    ("fault", "original_works", "kills", "blamed"),
    [
        (PlanDeclined("too large"), True, 0, False),
        (PlanFault("raised"), True, 0, True),
        (PlanFault("raised"), False, 0, False),
        (WorkerHung("silent"), True, 0, True),
        (WorkerHung("silent"), False, 0, True),
        (WorkerCrashed("w", -signal.SIGSEGV), True, 1, True),
        (WorkerCrashed("w", -signal.SIGABRT), False, 1, False),  # a bad index, which both refuse
        (WorkerCrashed("w", 1), True, 1, True),
        (WorkerCrashed("w", -signal.SIGKILL), True, 1, False),
        (WorkerCrashed("w", -signal.SIGTERM), True, MAX_KILLS - 1, False),
        (WorkerCrashed("w", -signal.SIGKILL), True, MAX_KILLS, True),
    ],
)
def test_who_is_blamed(fault: PlanFault, original_works: bool, kills: int, blamed: bool) -> None:
    assert blames_plan(fault, original_works=original_works, kills=kills) is blamed
