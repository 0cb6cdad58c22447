"""A plan failed under load: who is to blame, and what follows.

| what happened | verdict |
|---|---|
| the plan declined the batch, as beyond its range | the plan stays, at the price of both runs |
| the plan raised or gave a NaN, and the original answered well | quarantined at once |
| it raised, hung or its worker died, and the original had trouble too | a bad request; it stays |
| its worker died of a fault of its own (SIGSEGV, SIGABRT, exit) | quarantined at once |
| no answer within the hang timeout | quarantined at once |
| its worker was killed or stopped from outside (a person, a supervisor) | the plan stays |
| the kernel ran out of memory and killed its worker | the third time in ten minutes, quarantined |
| the watch found an answer of it wrong (`evolve.watch.judge`) | quarantined at once |

What is quarantined stays so for these weights, after a restart, too; but for lack of memory, which
the next start may have.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from evolve.errors import PlanDeclined, PlanFault, WorkerCrashed, WorkerHung
from supernet.errors import CacheError
from supernet.plans import PlanState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from evolve.data_plane.lane import Lane
    from evolve.journal.journal import Journal
    from supernet.plans import PlanLibrary

__all__ = ["Faults", "OutOfMemory", "blames_plan", "say_forgotten"]

MAX_OUT_OF_MEMORY = 3
FORGIVEN_AFTER_S = 600.0


def blames_plan(fault: PlanFault, *, original_works: bool, out_of_memory: int = 0) -> bool:
    """Whether the plan is taken out for good.

    `original_works`: it answered all the requests, and well. `out_of_memory`: how often lately the
    kernel killed the plan's worker.
    """
    if isinstance(fault, PlanDeclined):
        return False
    if isinstance(fault, (WorkerCrashed, WorkerHung)) and fault.from_outside:
        return out_of_memory >= MAX_OUT_OF_MEMORY
    return original_works


class OutOfMemory:
    """How often lately the kernel killed a plan's worker for want of memory.

    Told of each worker that was killed from outside: where the system's count of such kills has
    risen since the last time, that is taken for the reason.

    Args:
        vmstat: The kernel's counters; where there are none, nothing is ever counted.
    """

    def __init__(self, vmstat: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._vmstat, self._clock = vmstat, clock
        self._seen = self._kills()
        self._at_s: dict[str, list[float]] = {}

    def killed(self, plan: str) -> int:
        """Of this plan, this time included, within the last ten minutes."""
        kills, now_s = self._kills(), self._clock()
        recent = [at for at in self._at_s.get(plan, ()) if now_s - at < FORGIVEN_AFTER_S]
        if kills > self._seen:
            recent.append(now_s)
        self._seen, self._at_s[plan] = kills, recent
        return len(recent)

    def _kills(self) -> int:
        try:
            lines = self._vmstat.read_text(encoding="ascii").splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
        except (OSError, StopIteration, ValueError):
            return 0


class Faults:
    """Hears of each fault after its requests were answered by the original.

    Args:
        library: Where a blamed plan is quarantined.
        journal: Where it is said.
        memory: Counts the workers that died for want of it.
        replace: Hires a new worker for a lane, `Fleet.replace`.
        unload: Takes a plan off every worker, `Fleet.unload`.
        refresh: Puts the change on the scheduler's tables, `Controller.refresh`.
        refill: Loads what is worth having in its place, `Admission.refill`; on a thread of its own.
        condemn: Has a plan stay out after a restart: (key, why). Raises `CacheError` or `OSError`
            where that can't be written.
    """

    def __init__(
        self,
        library: PlanLibrary,
        journal: Journal,
        *,
        memory: OutOfMemory,
        replace: Callable[[Lane, str], None],
        unload: Callable[[str], None],
        refresh: Callable[[], None],
        refill: Callable[[], None],
        condemn: Callable[[str, str], None],
    ) -> None:
        self._library = library
        self._journal = journal
        self._memory = memory
        self._replace = replace
        self._unload = unload
        self._refresh = refresh
        self._refill = refill
        self._condemn = condemn
        self._lock = threading.Lock()
        self._told: set[tuple[str, type[PlanFault]]] = set()

    def heard(self, lane: Lane, plan: str, fault: PlanFault, original_works: bool) -> None:
        """Decides, quarantines and replaces."""
        killed = isinstance(fault, WorkerCrashed) and fault.from_outside
        with self._lock:
            starved = self._memory.killed(plan) if killed else 0
            known = self._library.get(plan) is not None
        blamed = blames_plan(fault, original_works=original_works, out_of_memory=starved)
        if isinstance(fault, (WorkerCrashed, WorkerHung)):
            self._replace(lane, str(fault))
        if not blamed:
            self._say_once(plan, fault, original_works)
        elif known and starved:
            self._take_out(plan, f"no memory left for it, {starved} times: {fault}")
        elif known:
            self.convict(plan, str(fault), f"{fault}; the original model answered its requests")

    def convict(self, plan: str, why: str, reason: str = "") -> bool:
        """Takes a plan out for good; False where it is out already."""
        if not self._take_out(
            plan, why, reason or f"{why}; the original model answers in its place"
        ):
            return False
        try:
            self._condemn(plan, why)
        except (CacheError, OSError) as error:
            say_forgotten(self._journal, "plan", plan, error)
        return True

    def _take_out(self, plan: str, why: str, reason: str = "") -> bool:
        found = self._library.get(plan)
        if found is None or found.state is PlanState.QUARANTINED:
            return False
        self._library.quarantine(plan, why)
        self._journal.append(
            "plan", plan, before={"state": "admitted"}, after={"state": "quarantined"},
            reason=reason or why,
        )  # fmt: skip
        self._refresh()
        self._unload(plan)
        threading.Thread(target=self._refill, name="refill", daemon=True).start()
        return True

    def _say_once(self, plan: str, fault: PlanFault, original_works: bool) -> None:
        """Once for each plan and kind of fault: such batches cost as much as both."""
        with self._lock:
            told = (plan, type(fault)) in self._told
            self._told.add((plan, type(fault)))
        if not told:
            trouble = "" if original_works else ", which had trouble too"
            self._journal.append(
                "plan", plan,
                reason=f"{fault}; its batch ran again on the original model{trouble}",
            )  # fmt: skip


def say_forgotten(journal: Journal, kind: str, subject: str, error: Exception) -> None:
    """That what was found holds for this run only."""
    why = f"{type(error).__name__}: {error}"
    journal.append(kind, subject, reason=f"it can't be remembered for the next start: {why}")
