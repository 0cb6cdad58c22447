"""A plan failed under load: who is to blame, and what follows.

| what happened | verdict |
|---|---|
| the plan declined the batch, as beyond its range | the plan stays, at the price of both runs |
| the plan raised or gave a NaN, and the original answered well | quarantined at once |
| it raised or its worker died, and the original raised too | a bad request; the plan stays |
| its worker died of a fault of its own (SIGSEGV, SIGABRT, exit) | quarantined at once |
| its worker was killed from outside (SIGKILL, SIGTERM: a person, the OOM killer) | the plan \
stays; the third time it is quarantined |
| no answer within the hang timeout | quarantined at once |
| the watch found an answer of it wrong (`evolve.judge`) | quarantined at once |
"""

from __future__ import annotations

import signal
import threading
from collections import Counter
from typing import TYPE_CHECKING

from evolve.errors import PlanDeclined, PlanFault, WorkerCrashed, WorkerHung
from supernet.plans import PlanState

if TYPE_CHECKING:
    from collections.abc import Callable

    from evolve.journal import Journal
    from evolve.lane import Lane
    from supernet.plans import PlanLibrary

__all__ = ["Faults", "blames_plan"]

KILLED_FROM_OUTSIDE = frozenset({-signal.SIGKILL, -signal.SIGTERM})
MAX_KILLS = 3


def blames_plan(fault: PlanFault, *, original_works: bool, kills: int) -> bool:
    """Whether the plan is taken out for good.

    `original_works`: it answered all the requests, and well. `kills` counts those of the plan's
    worker from outside.
    """
    if isinstance(fault, PlanDeclined):
        return False
    if isinstance(fault, WorkerCrashed):
        if fault.returncode in KILLED_FROM_OUTSIDE:
            return kills >= MAX_KILLS
        return original_works
    return isinstance(fault, WorkerHung) or original_works


class Faults:
    """Hears of each fault after its requests were answered by the original.

    Args:
        library: Where a blamed plan is quarantined.
        journal: Where it is said.
        replace: Hires a new worker for a lane, `Fleet.replace`.
        unload: Takes a plan off every worker, `Fleet.unload`.
        refresh: Puts the change on the scheduler's tables, `Controller.refresh`.
        refill: Loads what is worth having in its place, `Admission.refill`; on a thread of its own.
    """

    def __init__(
        self,
        library: PlanLibrary,
        journal: Journal,
        *,
        replace: Callable[[Lane, str], None],
        unload: Callable[[str], None],
        refresh: Callable[[], None],
        refill: Callable[[], None],
    ) -> None:
        self._library = library
        self._journal = journal
        self._replace = replace
        self._unload = unload
        self._refresh = refresh
        self._refill = refill
        self._lock = threading.Lock()
        self._kills: Counter[str] = Counter()
        self._told: set[tuple[str, type[PlanFault]]] = set()

    def heard(self, lane: Lane, plan: str, fault: PlanFault, original_works: bool) -> None:
        """Decides, quarantines and replaces."""
        worker_gone = isinstance(fault, (WorkerCrashed, WorkerHung))
        with self._lock:
            self._kills[plan] += isinstance(fault, WorkerCrashed)
            blamed = blames_plan(fault, original_works=original_works, kills=self._kills[plan])
            known = self._library.get(plan) is not None
        if worker_gone:
            self._replace(lane, str(fault))
        if not blamed:
            self._say_twice(plan, fault)
        if blamed and known:
            self._take_out(plan, str(fault), f"{fault}; the original model answered its requests")

    def convict(self, plan: str, why: str) -> bool:
        """Takes out a plan whose answers were found to be wrong; False where it is out already."""
        found = self._library.get(plan)
        if found is None or found.state is PlanState.QUARANTINED:
            return False
        self._take_out(plan, why, f"{why}; the original model answers in its place")
        return True

    def _take_out(self, plan: str, why: str, reason: str) -> None:
        self._library.quarantine(plan, why)
        self._journal.append(
            "plan", plan, before={"state": "admitted"}, after={"state": "quarantined"},
            reason=reason,
        )  # fmt: skip
        self._refresh()
        self._unload(plan)
        threading.Thread(target=self._refill, name="refill", daemon=True).start()

    def _say_twice(self, plan: str, fault: PlanFault) -> None:
        """Once for each plan and kind of fault: such batches cost as much as both."""
        with self._lock:
            told = (plan, type(fault)) in self._told
            self._told.add((plan, type(fault)))
        if not told:
            self._journal.append(
                "plan", plan,
                reason=f"{fault}; its batch ran again on the original model"
                + ("" if isinstance(fault, PlanDeclined) else ", which had trouble too"),
            )  # fmt: skip
