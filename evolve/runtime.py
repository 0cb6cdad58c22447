"""The living system: a wrapped model that answers, and improves how it runs meanwhile.

A request, top to bottom: `Runtime.submit` → `Scheduler` (queue and rule) → `Lane` → `Worker` →
answer. A plan: `Brain` builds → `PlanLibrary` admits → `Fleet` loads → `Controller` puts it on
the scheduler's tables. A tick: `Controller.tick`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any

from evolve import process_end
from evolve.brain import Progress
from evolve.errors import DeadlineExceeded, EvolveError, RuntimeClosed
from evolve.lane import answer_apart
from evolve.promise import Promise
from evolve.reception import Reception
from evolve.revision import CLOSE_TIMEOUT_S
from evolve.status import status_of

if TYPE_CHECKING:
    from evolve.assembly import Assembly
    from evolve.decision import Decision
    from evolve.queueing import Request
    from evolve.revision import Revision
    from evolve.scheduler import Scheduler
    from evolve.upkeep import Upkeep
    from profiler.shapes import ShapeGrid
    from supernet.plans import Plan

__all__ = ["Runtime"]

REFUSAL_SHARE, REFUSAL_S = 0.1, 5e-3
"""What a refusal at the door takes its caller, asleep: so much of the SLO, at most so many seconds.
Callers in a loop would else keep the interpreter and the cores from the lanes, and what was let in
would be late: MiniLM at ten times what it can do answers 150 in time a second, else 60 to 85."""


class Runtime:
    """A model being served. Made by `evolve.wrap`; close it, or use it as a context manager.

    Calls are thread-safe. Inputs must not be changed until their answer is there, and answers
    carry no gradient.
    """

    def __init__(self, assembly: Assembly, clock: Callable[[], float] = time.monotonic) -> None:
        self.slo = assembly.slo
        self.config = assembly.config
        self._journal = assembly.journal
        self._callbacks = assembly.callbacks
        self._computing = assembly.computing
        self._clock = clock
        self._reception = Reception(assembly.slo, assembly.journal, clock)
        self._lock = threading.Lock()  # held while revisions change, never while one answers
        self._revision: Revision | None = None
        self._retiring: list[threading.Thread] = []
        self._upkeep: Upkeep | None = None
        self._closed = False
        self._refusal_s = min(REFUSAL_SHARE * assembly.slo.p99_ms / 1e3, REFUSAL_S)
        self._pid = os.getpid()
        self._orphaned = False

    # -- revisions ---------------------------------------------------------------------------

    @property
    def parts(self) -> Revision:
        """What serves now, for whoever looks inside (benchmarks, tests)."""
        return self._in_force()

    def _in_force(self) -> Revision:
        if self._revision is None:
            raise RuntimeError("wrap() must have put a revision in force")
        return self._revision

    def keep_up(self, upkeep: Upkeep) -> None:
        """Called once by `wrap`: `upkeep` puts revisions in force from now on."""
        self._upkeep = upkeep

    def put(self, revision: Revision) -> bool:
        """Serves by `revision` from now on; called by `wrap` and by `Upkeep`.

        What waits moves over in its order, with its deadline; what runs is answered where it
        runs. False where the runtime was closed meanwhile: then `revision` is let go.
        """
        revision.start()
        with self._lock:
            if not self._closed:
                old, scheduler = self._revision, revision.serving.scheduler
                if in_turn := _both_in_order(old, revision):
                    scheduler.hold()  # until what runs on `old` is answered
                for request in old.retire() if old is not None else ():
                    scheduler.adopt(self._reception.again(revision, request))
                self._revision = revision  # new requests come only behind those that waited
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

    # -- answering ---------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`model(*args, **kwargs)`: the same structure, dtypes and device.

        Never refused for being late: a caller who waits wants the answer. With thread workers
        and a free lane it is computed on the caller's own thread.
        """
        revision = self._open()
        request = self._reception.request(revision, args, kwargs, refusable=False)
        revision.serving.tally.arrived(request)
        if self._stays(request):
            return self._answer_here(revision, request)
        waits = request.outside is not None and not revision.serving.scheduler.in_order
        lane = revision.serving.scheduler.claim() if revision.in_process and not waits else None
        if lane is None:
            future = request.future
            self._queue(revision, request)
            return future.result()
        return _answer_on(revision, lane, request)

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queues one request, due `slo.p99_ms` from now, and returns its future.

        The future raises `DeadlineExceeded` when the request is refused because its deadline
        can no longer be met, `RuntimeClosed` when the runtime closes first, and whatever the
        model itself raises. Cancelling it before it runs takes it out of the queue. Its callbacks
        run on threads of their own: they may ask the runtime again, and wait for it.
        """
        future = self._submit(args, kwargs)
        if isinstance(future, _TurnedAway):
            time.sleep(self._refusal_s)
        return future

    def _submit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Promise:
        revision = self._open()
        if revision.serving.scheduler.is_shut:
            revision.serving.tally.turned_away()
            return _TurnedAway()
        request = self._reception.request(revision, args, kwargs, refusable=True)
        revision.serving.tally.arrived(request)
        future = request.future
        if self._stays(request):
            self._settle_here(revision, request)
            return future
        try:
            self._queue(revision, request)
        except EvolveError as error:
            if isinstance(error, RuntimeClosed):
                raise
            revision.serving.tally.refused(request)
            future.set_exception(error)
        return future

    def _queue(self, revision: Revision, request: Request) -> None:
        """Queues `request` with `revision`, or with the one that replaced it this very moment."""
        while True:
            try:
                return revision.serving.scheduler.submit(request)
            except RuntimeClosed:
                revision = self._successor(revision)
                request = self._reception.again(revision, request)

    def _successor(self, revision: Revision) -> Revision:
        """What replaced `revision` this very moment; raises `RuntimeClosed` where nothing did."""
        with self._lock:  # a change of revisions ends first
            now = self._in_force()
        if now is revision:
            raise RuntimeClosed("the runtime was closed meanwhile")
        return now

    async def asubmit(self, *args: Any, **kwargs: Any) -> Any:
        """`submit` for asyncio: awaits the answer, raises what the future would."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(ended.set)

        future = self._submit(args, kwargs)
        if isinstance(future, _TurnedAway):
            await asyncio.sleep(self._refusal_s)
        future.when_done(wake)
        try:
            await ended.wait()
        except asyncio.CancelledError:
            future.cancel()
            raise
        return future.result()

    # -- on the caller's own thread ------------------------------------------------------------

    def _stays(self, request: Request) -> bool:
        """Whether only the caller's own thread can answer: the model asks from within its own
        ``forward``, which a lane waits for, or a mode is in force that no lane can enter."""
        ambience = request.ambience
        foreign = ambience is not None and ambience.foreign is not None
        return foreign or threading.get_ident() in self._computing

    def _answer_here(self, revision: Revision, request: Request) -> Any:
        """By the original, at once; in its turn where the model may keep a state."""
        while revision.serving.scheduler.in_order and threading.get_ident() not in self._computing:
            if (lane := revision.serving.scheduler.claim(wait=True)) is not None:
                return _answer_on(revision, lane, request)
            revision = self._successor(revision)
        return answer_apart(revision.serving, request)

    def _settle_here(self, revision: Revision, request: Request) -> None:
        request.future.begin()
        try:
            request.future.set_result(self._answer_here(revision, request))
        except KeyboardInterrupt:  # on this thread it is the user's own
            raise
        except BaseException as error:
            request.future.set_exception(error)

    def _open(self) -> Revision:
        """What serves now; raises `RuntimeClosed` where nothing does."""
        self._own()
        if self._closed:
            raise RuntimeClosed("the runtime must be open to take requests; wrap() again")
        return self._in_force()

    def _own(self) -> None:
        """Raises `RuntimeClosed` in a fork, where locks may be held by threads that are not."""
        if self._orphaned:
            raise RuntimeClosed(
                f"this runtime belongs to process {self._pid}, of which this one is a fork; "
                "wrap the model again here"
            )

    # -- looking inside ----------------------------------------------------------------------

    def plans(self) -> tuple[Plan, ...]:
        """Every plan tried so far, with its state, error, memory and measured costs."""
        return self.parts.library.plans()

    def decisions(self, last: int = 20) -> tuple[Decision, ...]:
        """The latest decisions, oldest first."""
        return self._journal.last(last)

    @property
    def grid(self) -> ShapeGrid:
        """The batch shapes that requests are padded to and costs are kept for."""
        return self.parts.serving.capture.grid

    @property
    def progress(self) -> Progress:
        """How far the building of plans is."""
        parts = self.parts
        if parts.pending:
            return Progress(0, 0, "", "capturing the model", 0.0)
        return parts.brain.progress

    def wait_for_plans(self, timeout_s: float | None = None) -> bool:
        """Blocks until the model was captured and every plan tried; False when `timeout_s` ran
        out first.

        Nothing needs this to be correct, the original serves meanwhile; benchmarks and tests do.
        """
        self._own()
        until_s = math.inf if timeout_s is None else self._clock() + timeout_s

        def left_s() -> float | None:
            return None if timeout_s is None else max(0.0, until_s - self._clock())

        while True:
            if self._upkeep is not None and not self._upkeep.wait(left_s()):
                return False
            parts = self.parts
            if not parts.pending and not parts.brain.wait(left_s()):
                return False
            if parts is self.parts:
                return True

    def refresh(self) -> None:
        """Takes the model as it is now: when this returns the original serves, and plans are
        built anew beside it.

        Most changes of weights are noticed within a tick without it. Call it after those that
        leave no trace: single values written through `.data` or NumPy, tensors on a GPU written so,
        and whatever lies inside objects that the model holds.
        """
        self._own()
        if self._upkeep is not None and not self._closed:
            self._upkeep.refresh()

    def status(self) -> dict[str, Any]:
        """A snapshot for people and monitors, JSON-able.

        `flops` holds what requests really cost in arithmetic (`profiler.FlopsReading`); None
        until `evolve profile` has measured this machine's peak. `switch_ms`: what the first batch
        after a change of plan takes beside the plan, as seen so far. `watch`: how many live answers
        were compared with the original's, and what was turned off since they differed.
        """
        self._own()
        return {"closed": self._closed, **status_of(self.parts)}

    # -- ending ------------------------------------------------------------------------------

    def close(self) -> None:
        """Finishes the batches under way, fails what still waits with `RuntimeClosed`, ends
        the workers and builds. Calling it again does nothing.

        It may be called from wherever a request leads: a callback, the model's own ``forward``.
        The end of the process calls it too. In a fork of the process it does nothing.
        """
        if self._orphaned:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
        process_end.stopped(self)
        revision = self._in_force()
        if self._upkeep is not None:
            self._upkeep.stop()
        revision.stop()
        for request in revision.retire():
            if request.future.begin():
                request.future.set_exception(RuntimeClosed("the runtime was closed meanwhile"))
        revision.close()
        within = threading.get_ident() in self._computing  # a retiring lane may wait for us
        for thread in self._retiring:
            thread.join(0.0 if within else CLOSE_TIMEOUT_S)
        self._callbacks.close(CLOSE_TIMEOUT_S)
        if self._upkeep is not None:
            self._upkeep.join(CLOSE_TIMEOUT_S)
        self._journal.append("runtime", "runtime", reason="closed")
        self._journal.close()

    def orphan(self) -> None:
        """Called in a fork of this process, which has neither the threads nor a say over the
        workers: every call raises `RuntimeClosed` there."""
        self._orphaned = True

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _both_in_order(old: Revision | None, new: Revision) -> bool:
    return old is not None and old.serving.scheduler.in_order and new.serving.scheduler.in_order


def _answer_on(revision: Revision, lane: int, request: Request) -> Any:
    """On the caller's own thread, which has claimed `lane`."""
    try:
        return revision.fleet.lanes[lane].answer_here(request)
    finally:
        revision.serving.scheduler.release(lane)


class _TurnedAway(Promise):
    """The refusal of a request that nobody has looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.set_exception(
            DeadlineExceeded("refused on arrival: as much waits as can be answered in time")
        )
