"""Recovery from faults: lost workers replaced, other plans loaded, what was found remembered.

One thread takes up what `Faults` ruled on, in order. Nothing that takes long happens on it: a
worker is hired and a plan is loaded on threads of their own.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from evolve.data_plane.faults import say_forgotten
from evolve.journal.journal import JournalError
from supernet.errors import CacheError
from supernet.plans import PlanState

if TYPE_CHECKING:
    from collections.abc import Callable

    from evolve.control_plane.plan_loading import PlanLoading
    from evolve.data_plane.faults import Faults, Ruling
    from evolve.data_plane.lane_pool import LanePool
    from evolve.journal.journal import Journal

__all__ = ["Recovery"]

_IN_ITS_PLACE, _ITS_REQUESTS = "answers in its place", "answered its requests"


class Recovery:
    """Deals with each fault once.

    Args:
        faults: Where they are noted.
        pool: Hires a worker in the place of one that was lost; takes a bad plan off the others.
        loading: Loads what is worth having in its place.
        journal: Where it is said.
        condemn: Has a plan, or its whole tier, stay out after a restart: (key, why). Raises
            `CacheError` or `OSError` where that can't be written.
    """

    def __init__(
        self,
        faults: Faults,
        pool: LanePool,
        loading: PlanLoading,
        journal: Journal,
        condemn: Callable[[str, str], None],
    ) -> None:
        self._faults, self._pool, self._loading = faults, pool, loading
        self._journal, self._condemn = journal, condemn
        self._thread = threading.Thread(target=self._run, name="recovery", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Takes up what was noted so far and ends."""
        self._faults.close()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while (ruling := self._faults.next()) is not None:
            try:
                self.take_up(ruling)
            except JournalError:  # the runtime was closed from within the very batch that failed
                return
            except Exception as error:  # the next fault must find somebody
                self._say(ruling, f"what follows from {ruling.why!r} failed: {error!r}")

    def take_up(self, ruling: Ruling) -> None:
        """Replaces the worker that was lost; sees to it that a plan to blame stays out."""
        fault = ruling.fault
        if fault.worker is not None and fault.lane is not None:
            self._pool.rehire(self._pool.lanes[fault.lane], fault.worker, str(fault.error))
        if ruling.taken_from is not None:
            self._say_quarantined(ruling, ruling.taken_from)
            # Its batch under way is waited for, and loading another one takes seconds.
            threading.Thread(
                target=self._replace, args=(fault.plan,), name="refill", daemon=True
            ).start()
            if not ruling.out_of_memory:  # which the next start may have
                self._remember(fault.plan, ruling.why)
        elif ruling.is_news and not ruling.blamed:  # such batches cost as much as both
            trouble = "" if fault.original_works else ", which had trouble too"
            self._say(ruling, f"{ruling.why}; its batch ran again on the original model{trouble}")

    def _replace(self, plan: str) -> None:
        with suppress(JournalError):  # all was closed meanwhile
            self._pool.unload(plan)
            self._loading.refill()

    def _remember(self, plan: str, why: str) -> None:
        try:
            self._condemn(plan, why)
        except (CacheError, OSError) as error:
            say_forgotten(self._journal, "plan", plan, error)

    def _say_quarantined(self, ruling: Ruling, taken_from: PlanState) -> None:
        reason = ruling.why
        if not ruling.out_of_memory:
            by_watch = ruling.fault.lane is None
            reason += f"; the original model {_IN_ITS_PLACE if by_watch else _ITS_REQUESTS}"
        self._journal.append(
            "plan", ruling.fault.plan, before={"state": taken_from.value},
            after={"state": PlanState.QUARANTINED.value}, reason=reason,
        )  # fmt: skip

    def _say(self, ruling: Ruling, reason: str) -> None:
        self._journal.append("plan", ruling.fault.plan, reason=reason)
