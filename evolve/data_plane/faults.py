"""A plan failed: noted by whoever saw it, judged at once, and dealt with beside the lanes.

    Lane._recover, Correction ── Fault ─► Faults.note ── Ruling ─► Faults.next ─► Recovery
                                             └─ blamed: out of use before it returns

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
| its sub-network agrees too little with the original (the watch) | all plans of that, at once |

What is quarantined stays so for these weights, after a restart, too; but for lack of memory, which
the next start may have, and for want of quality, of which the next user may ask less.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING

from evolve.errors import PlanDeclined, PlanFault, WorkerCrashed, WorkerHung
from supernet.plans import PlanState

if TYPE_CHECKING:
    from pathlib import Path

    from evolve.journal.journal import Journal
    from evolve.workers.base import Worker
    from supernet.plans import PlanLibrary

__all__ = ["Fault", "Faults", "OutOfMemory", "Ruling", "blames_plan", "say_forgotten"]

MAX_OUT_OF_MEMORY = 3
FORGIVEN_AFTER_S = 600.0


@dataclass(frozen=True, slots=True)
class Fault:
    """What went wrong with a plan; noted once its requests have the original's answers.

    `lane`: the index of where it ran; None where the watch found it. `original_works`: whether the
    original answered the same requests, and well. `at_s`: when, on the runtime's clock. `worker`:
    the one that was lost with it, which its lane has let go; None where it goes on.
    """

    lane: int | None
    plan: str
    error: PlanFault
    original_works: bool
    at_s: float
    worker: Worker | None = None


@dataclass(frozen=True, slots=True)
class Ruling:
    """A fault and what it came to.

    `blamed`: whether it is the plan's. `taken_from`: the state that the plan was quarantined from
    for it; None where it stays, or was out already. `out_of_memory`: how often lately the kernel
    killed the plan's worker. `is_news`: whether it is the first of its kind with this plan.
    `why`: in words.
    """

    fault: Fault
    blamed: bool
    taken_from: PlanState | None
    out_of_memory: int
    is_news: bool
    why: str


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

    def __init__(self, vmstat: Path) -> None:
        self._vmstat = vmstat
        self._seen = self._kills()
        self._at_s: dict[str, list[float]] = {}

    def killed(self, plan: str, now_s: float) -> int:
        """Of this plan, this time included, within the last ten minutes."""
        kills = self._kills()
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
    """Where faults are noted. Thread-safe.

    Whoever runs a plan has only to note; what follows is done by who takes the rulings up, one
    after the other (`evolve.control_plane.recovery`).

    Args:
        library: Where a blamed plan is quarantined.
        memory: Counts the workers that died for want of it.
    """

    def __init__(self, library: PlanLibrary, memory: OutOfMemory) -> None:
        self._library, self._memory = library, memory
        self._lock = threading.Lock()
        self._known: set[tuple[str, type[PlanFault]]] = set()
        self._blamed: frozenset[str] = frozenset()
        self._rulings: SimpleQueue[Ruling | None] = SimpleQueue()

    def barred(self) -> frozenset[str]:
        """Plans that no further batch may run on: one reference read."""
        return self._library.quarantined()

    def blamed(self) -> frozenset[str]:
        """Plans that were taken out for a fault: one reference read."""
        return self._blamed

    def note(self, fault: Fault) -> None:
        """Judges `fault`: a plan that is to blame is barred when this returns.

        Of a batch that was declined like others before, nothing more is made.
        """
        killed = isinstance(fault.error, WorkerCrashed) and fault.error.from_outside
        kind = (fault.plan, type(fault.error))
        with self._lock:
            starved = self._memory.killed(fault.plan, fault.at_s) if killed else 0
            is_news = kind not in self._known
            self._known.add(kind)
        blamed = blames_plan(
            fault.error, original_works=fault.original_works, out_of_memory=starved
        )
        why = str(fault.error)
        if blamed and starved:
            why = f"no memory left for it, {starved} times: {why}"
        taken_from = self._quarantine(fault.plan, why) if blamed else None
        if is_news or taken_from is not None or fault.worker is not None:
            self._rulings.put(Ruling(fault, blamed, taken_from, starved, is_news, why))

    def _quarantine(self, plan: str, why: str) -> PlanState | None:
        if self._library.get(plan) is None:
            return None
        change = self._library.move(plan, PlanState.QUARANTINED, why)
        with self._lock:
            self._blamed |= {plan}
        return change.before if change.happened else None

    def next(self) -> Ruling | None:
        """The oldest ruling that nobody has taken up, once there is one; None once closed."""
        return self._rulings.get()

    def close(self) -> None:
        """Has `next` give None when all that was noted so far is taken up."""
        self._rulings.put(None)


def say_forgotten(journal: Journal, kind: str, subject: str, error: Exception) -> None:
    """That what was found holds for this run only."""
    why = f"{type(error).__name__}: {error}"
    journal.append(kind, subject, reason=f"it can't be remembered for the next start: {why}")
