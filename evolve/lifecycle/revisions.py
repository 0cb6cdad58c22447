"""Revisions that serve now: one in force, others on their way out, until all is closed."""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import TYPE_CHECKING

from evolve import collector, process_end
from evolve.control_plane.adoption import Adoptions
from evolve.data_plane.promise import Callbacks
from evolve.errors import RuntimeClosed
from evolve.lifecycle.revision import CLOSE_TIMEOUT_S

if TYPE_CHECKING:
    from evolve.data_plane.lane import Lane
    from evolve.data_plane.reception import Reception
    from evolve.data_plane.scheduler import Scheduler
    from evolve.journal.journal import Journal
    from evolve.lifecycle.revision import Revision
    from evolve.lifecycle.upkeep import Upkeep

__all__ = ["Revisions"]


class Revisions:
    """The inside of a runtime: its threads hold this, and not the `Runtime` that the user holds.

    Args:
        journal: Of the runtime; closed with it.
        reception: Has what waits seen anew by the revision that is to answer it.
        freezes: Whether the collector is to keep off what will stay.

    `callbacks` and `computing` are those of all revisions; see `Serving`. So are `adoptions`.
    """

    def __init__(self, journal: Journal, reception: Reception, *, freezes: bool) -> None:
        self._journal = journal
        self._reception = reception
        self._freezes = freezes
        self.callbacks = Callbacks()
        self.computing: dict[int, Lane] = {}
        self.adoptions = Adoptions()
        self._lock = threading.Lock()  # held while revisions change, never while one answers
        self._in_force: Revision | None = None
        self._retiring: list[threading.Thread] = []
        self._upkeep: Upkeep | None = None
        self._holder: weakref.ref[object] | None = None
        self._is_closed = False
        self._ended = threading.Event()
        self._until_s = 0.0
        self._pid = os.getpid()
        self._is_orphaned = False

    def begin(self, upkeep: Upkeep, holder: object) -> None:
        """Called once by `wrap`: `upkeep` puts revisions in force from now on, on behalf of
        `holder`."""
        self._upkeep, self._holder = upkeep, weakref.ref(holder)

    # -- asked for every request ---------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def now(self) -> Revision:
        """What serves, or did last."""
        if self._in_force is None:
            raise RuntimeError("wrap() must have put a revision in force")
        return self._in_force

    def open(self) -> Revision:
        """What serves now; raises `RuntimeClosed` where nothing does."""
        self.own()
        if self._is_closed:
            raise RuntimeClosed("the runtime must be open to take requests; wrap() again")
        return self.now

    def own(self) -> None:
        """Raises `RuntimeClosed` in a fork, where locks may be held by threads that are not."""
        if self._is_orphaned:
            raise RuntimeClosed(
                f"this runtime belongs to process {self._pid}, of which this one is a fork; "
                "wrap the model again here"
            )

    def after(self, revision: Revision) -> Revision:
        """What replaced `revision` this very moment; raises `RuntimeClosed` where nothing did."""
        with self._lock:  # a change of revisions ends first
            now = self.now
        if now is revision:
            raise RuntimeClosed("the runtime was closed meanwhile")
        return now

    # -- from one to the next ------------------------------------------------------------------

    def put(self, revision: Revision) -> bool:
        """Serves by `revision` from now on; called by `Upkeep`.

        What waits moves over in its order, with its deadline; what runs is answered where it
        runs. False where the runtime was closed meanwhile: then `revision` is let go.
        """
        revision.start()
        collector.release()
        with self._lock:
            if not self._is_closed:
                old, scheduler = self._in_force, revision.serving.scheduler
                if in_turn := _both_in_order(old, revision):
                    scheduler.hold()  # until what runs on `old` is answered
                for request in old.retire() if old is not None else ():
                    scheduler.adopt(self._reception.again(revision.serving, request))
                self._in_force = revision  # new requests come only behind those that waited
                self._let_go(old, scheduler if in_turn else None)
                process_end.started(self)
                return True
        revision.retire()
        revision.close()
        return False

    def _let_go(self, old: Revision | None, waits: Scheduler | None) -> None:
        self._retiring = [thread for thread in self._retiring if thread.is_alive()]
        if old is None:
            return

        def retire() -> None:
            if waits is not None:
                old.serving.scheduler.drain((), None)
                waits.proceed()
            old.close()

        old.stop()
        thread = threading.Thread(target=retire, name="retire", daemon=True)
        self._retiring.append(thread)
        thread.start()

    # -- ending --------------------------------------------------------------------------------

    def check(self) -> None:
        """Called in every tick: ends it all once nobody holds the runtime and nothing is left to
        answer; keeps the collector from what will stay."""
        if self._in_force is None or self._is_closed:
            return
        if self._freezes and self._in_force.is_settled:
            collector.settled()
        if self._holder is not None and self._holder() is None and self._is_idle():
            why = "closed: nobody holds it any more"
            threading.Thread(target=self.close, args=(0.0, why), name="close", daemon=True).start()

    def _is_idle(self) -> bool:
        """False as well while a revision takes over what waits with another."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            waiting, _, busy = self.now.serving.scheduler.depth()
            return not waiting and not busy
        finally:
            self._lock.release()

    def close(self, drain_s: float = 0.0, why: str = "closed") -> None:
        """See `Runtime.close`."""
        if self._is_orphaned:
            return
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._until_s = time.monotonic() + drain_s
        revision = self.now
        if self._upkeep is not None:
            self._upkeep.stop()
        revision.stop()
        try:
            if drain_s > 0:
                own = self.computing.get(threading.get_ident())  # a request that asks to close
                revision.serving.scheduler.run_dry({own.index} if own is not None else (), drain_s)
        finally:  # a KeyboardInterrupt, too, leaves nothing half open
            self._end(revision, why)

    def _end(self, revision: Revision, why: str) -> None:
        for request in revision.retire():
            if request.future.begin():
                request.future.set_exception(RuntimeClosed("the runtime was closed meanwhile"))
        revision.close()
        within = threading.get_ident() in self.computing  # a retiring lane may wait for us
        for thread in self._retiring:
            thread.join(0.0 if within else CLOSE_TIMEOUT_S)
        self.callbacks.close(CLOSE_TIMEOUT_S)
        self.adoptions.close()
        if self._upkeep is not None:
            self._upkeep.join(CLOSE_TIMEOUT_S)
        self._journal.append("runtime", "runtime", reason=why)
        self._journal.close()
        collector.release()
        process_end.stopped(self)
        self._ended.set()

    def end(self, drain_s: float) -> None:
        """Closes, or waits for who is about to."""
        if not self._is_orphaned:
            self.close(drain_s)
            left_s = self._until_s - time.monotonic()  # of who drains already
            self._ended.wait(min(max(0.0, left_s) + CLOSE_TIMEOUT_S, threading.TIMEOUT_MAX))

    def orphan(self) -> None:
        """Called in a fork of this process, which has neither the threads nor a say over the
        workers: every call raises `RuntimeClosed` there."""
        self._is_orphaned = True


def _both_in_order(old: Revision | None, new: Revision) -> bool:
    return old is not None and old.serving.scheduler.in_order and new.serving.scheduler.in_order
