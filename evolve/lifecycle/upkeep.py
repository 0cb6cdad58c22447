"""Upkeep of what serves, in step with the model: it is captured beside serving, at first and again
whenever its weights moved.

    capture ──► serve it ──► (moved, or refresh) ──► the original serves ──► wait until still ─┐
       ▲                                                                                       │
       └───────────────────────────────────────────────────────────────────────────────────────┘
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from evolve.lifecycle.capturing import CaptureBeside, CaptureResult, stand_in
from supernet.capture.subject import begin
from supernet.errors import BuildInterrupted, WrongArgument

if TYPE_CHECKING:
    from evolve.lifecycle.assembly import Assembly
    from evolve.lifecycle.changes import Changes
    from evolve.lifecycle.revision import Revision
    from supernet.capture.subject import Subject

__all__ = ["Upkeep"]

RESTLESS_S = 60.0  # what moves again within so many seconds of serving is waited for twice as long
MAX_PATIENCE = 8  # doublings


class Upkeep:
    """One thread that captures, and takes up what is noted in `changes`.

    Args:
        assembly: Makes the revisions.
        changes: Of the model and of its plans' files.
        examples: What `wrap` was given, to begin each capture with.
        put: Puts a revision in force.
        beside: Whether the model can be captured beside serving; else moved weights are served by
            the original for good.
    """

    def __init__(
        self,
        assembly: Assembly,
        changes: Changes,
        examples: Any,
        put: Callable[[Revision], bool],
        *,
        beside: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._assembly, self._changes, self._examples = assembly, changes, examples
        self._put, self._clock = put, clock
        self._beside = beside
        self._settings = assembly.config.capture
        self._putting = threading.RLock()  # who puts has looked whether it still should
        self._stopped = False
        self._asked = self._captured_at = self._losses = 0
        self._watched = True
        self._needs_gradients = False
        self._capture: CaptureBeside | None = None
        self._settled = threading.Event()  # what is in force is what a capture came to
        self.refused: WrongArgument | None = None
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)
        self._first: Subject | None = None

    # -- called by `wrap` and by the runtime ---------------------------------------------------

    def start(self, first: Subject) -> None:
        """Captures `first`, whose examples were answered just now, and goes on from there."""
        self._first = first
        self._thread.start()

    def serve_here(self, found: CaptureResult) -> None:
        """Puts in force what was captured in the calling thread, and goes on from there."""
        self._changes.weights.begin()
        self._serve(found, asked=0)
        self._thread.start()

    def wait(self, timeout_s: float | None) -> bool:
        """Blocks until a capture came to its end; False when the time ran out first.

        `refused` then holds what the model raised, where it refused an example.
        """
        return self._settled.wait(timeout_s) and not self._stopped

    def pending(self, reason: str) -> Revision:
        """The original, to serve until more is known of the model."""
        found = stand_in(self._assembly.model, reason, needs_gradients=self._needs_gradients)
        return self._assembly.revision(found, pending=True)

    def serve_meanwhile(self, pending: Revision) -> None:
        """Puts `pending` in force, unless a capture was faster."""
        with self._putting:
            if not self._settled.is_set():
                if self._capture is not None:
                    self._capture.give_way()
                reason = pending.serving.capture.reason
                self._say(f"the original model serves: {reason}")
                self._put(pending)
                return
        pending.close()

    def refresh(self, why: str = "refreshed") -> None:
        """The original serves when this returns; the model is captured again beside it."""
        with self._putting:
            if not self._unsettle():
                return
            self._say(f"{why}: plans retire, and the original model serves")
            self._put(self.pending(self._beside_or_why("it is being captured again")))
            with self._changes.noted:
                self._asked += 1
                self._changes.noted.notify_all()
            if (capture := self._capture) is not None:
                capture.stop()

    def _unsettle(self) -> bool:
        """False where all is to end: nobody may wait for another capture then."""
        with self._changes.noted:
            if not self._stopped:
                self._settled.clear()
            return not self._stopped

    def stop(self) -> None:
        """Ends the capture under way and starts no other."""
        with self._changes.noted:
            self._stopped = True
            self._settled.set()
            self._changes.noted.notify_all()
        if (capture := self._capture) is not None:
            capture.stop()

    def join(self, timeout_s: float) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._capture is not None:
            self._capture.join(timeout_s)

    # -- its thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        patience = 0
        while not self._stopped:
            asked = self._asked
            if not self._settled.is_set():
                self._capture_and_serve(asked)
            began_s = self._clock()
            if not self._until_changed(asked):
                return
            with self._putting:
                if moved := asked == self._asked:  # nobody refreshed: it was the weights
                    self._retire_plans()
            self._let_go()
            if not self._beside:
                return
            soon = self._clock() - began_s < RESTLESS_S
            patience = min(patience + 1, MAX_PATIENCE) if soon else 1
            if moved:
                self._until_still(self._settings.still_s * 2.0 ** (patience - 1))

    def _retire_plans(self) -> None:
        if not self._unsettle():
            return
        self._say(
            f"the weights moved ({self._changes.what}): plans of the old ones retire, "
            "and the original model serves"
        )
        self._put(self.pending(self._beside_or_why(f"its weights moved ({self._changes.what})")))

    def _capture_and_serve(self, asked: int) -> None:
        began_s = self._clock()
        try:
            found = self._find(asked)
            if self._serve(found, asked):
                reason = found.capture.describe()["program"]
                self._say(f"captured in {self._clock() - began_s:.1f} s: {reason}")
        except BuildInterrupted:
            return
        except Exception as error:  # whatever it was, the original serves
            self.refused = error if isinstance(error, WrongArgument) else None
            self._give_up(str(error) or type(error).__name__, asked)

    def _give_up(self, reason: str, asked: int) -> None:
        with self._putting:
            if asked == self._asked and not self._stopped:
                self._watched = False
                self._say(
                    "not captured, the original model serves for good, one request at a time in "
                    f"order of arrival: {reason}"
                )
                self._put(self.pending(reason))
                self._settled.set()

    def _find(self, asked: int) -> CaptureResult:
        first, self._first = self._first, None
        self._changes.weights.begin()
        self._captured_at = self._changes.moves
        subject = first or begin(self._assembly.model, self._examples, self._assembly.wishes)
        config = self._assembly.config
        self._capture = capture = CaptureBeside(
            subject, config.plans.max_rows,
            keep=self._assembly.keep if config.plans.build else None,
            threads=None if first else 1, limit_s=self._settings.limit_s,
        )  # fmt: skip
        if first is None:
            capture.give_way()
        if self._stopped or asked != self._asked:
            raise BuildInterrupted("another capture was asked for")
        capture.start()
        return capture.found.result()

    def _serve(self, found: CaptureResult, asked: int) -> bool:
        """Puts `found` in force, unless somebody asked for another capture meanwhile."""
        revision = self._assembly.revision(found)
        with self._putting:
            if asked == self._asked and not self._stopped:
                # Where the original answers everything, its weights may move as they like.
                self._watched = found.capture.form is not None
                self._needs_gradients = found.capture.needs_gradients
                self._changes.weights.ignore(found.restless)
                self._losses = self._changes.losses  # its plans are yet to be built
                self._put(revision)
                self._settled.set()
                return True
        revision.close()
        return False

    def _until_changed(self, asked: int) -> bool:
        """Waits until it is to be captured again; False when all is to end."""
        while True:
            with self._changes.noted:
                self._changes.noted.wait_for(lambda: self._is_due(asked) or self._has_lost())
                if self._stopped:
                    return False
                if not self._has_lost():
                    return True
                self._losses = self._changes.losses
            self._rebuild()

    def _is_due(self, asked: int) -> bool:
        moved = self._watched and self._changes.moves != self._captured_at
        return self._stopped or self._asked != asked or moved

    def _has_lost(self) -> bool:
        return self._losses != self._changes.losses

    def _rebuild(self) -> None:
        """The plans' files are gone: has them made again from the model itself, where it can be
        captured beside serving; else what is loaded goes on."""
        gone = "what was built is gone from the cache"
        if self._beside:
            self.refresh(gone)
        else:
            self._say(f"{self._beside_or_why(gone)}; what workers hold goes on")

    def _until_still(self, still_s: float) -> None:
        """Waits until the weights have not moved for so long, or somebody asks."""
        asked = self._asked
        with self._changes.noted:
            while not (self._stopped or self._asked != asked):
                left_s = self._changes.moved_at_s + still_s - self._clock()
                if left_s <= 0:
                    return
                self._changes.noted.wait(left_s)

    def _let_go(self) -> None:
        """Ends the child that may still be keeping the program of the old weights."""
        if self._capture is not None:
            self._capture.stop()
            self._capture.join(self._settings.limit_s)
            self._capture = None

    def _beside_or_why(self, reason: str) -> str:
        if self._beside:
            return reason
        return f"{reason}; it cannot be captured beside serving here: wrap it again to have plans"

    def _say(self, reason: str) -> None:
        self._assembly.journal.append("runtime", "capture", reason=reason)
