"""The living system: a wrapped model that answers, and improves how it runs meanwhile.

A request, top to bottom: `Runtime.submit` → `Scheduler` (queue and rule) → `Lane` → `Worker` →
answer. A plan: `PlanBuilder` builds → `PlanLibrary` admits → `LanePool` loads → `Controller` puts
it on the scheduler's tables. A tick: `Controller.tick`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from evolve.control_plane.plan_builder import Progress
from evolve.data_plane.lane import answer_apart
from evolve.data_plane.promise import Promise
from evolve.data_plane.served_by import BY_ORIGINAL
from evolve.errors import DeadlineExceeded, EvolveError, RuntimeClosed
from evolve.status import status_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from evolve.control_plane.tiers import Tier
    from evolve.data_plane.reception import Reception
    from evolve.data_plane.request_queue import Request
    from evolve.journal.decision import Decision
    from evolve.lifecycle.assembly import Assembly
    from evolve.lifecycle.revision import Revision
    from evolve.lifecycle.revisions import Revisions
    from evolve.lifecycle.upkeep import Upkeep
    from profiler.shapes import ShapeGrid
    from supernet.elastic.subnet import SubnetSpec
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

    def __init__(
        self,
        assembly: Assembly,
        revisions: Revisions,
        reception: Reception,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slo = assembly.slo
        self.config = assembly.config
        self._revisions = revisions
        self._reception = reception
        self._journal = assembly.journal
        self._computing = assembly.computing
        self._clock = clock
        self._upkeep: Upkeep | None = None
        self._refusal_s = min(REFUSAL_SHARE * assembly.slo.p99_ms / 1e3, REFUSAL_S)

    @property
    def parts(self) -> Revision:
        """What serves now, for whoever looks inside (benchmarks, tests)."""
        return self._revisions.now

    def keep_up(self, upkeep: Upkeep) -> None:
        """Called once by `wrap`: `upkeep` puts revisions in force from now on."""
        self._upkeep = upkeep
        self._revisions.begin(upkeep, self)

    # -- answering ---------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`model(*args, **kwargs)`: the same structure, dtypes and device.

        Never refused for being late: a caller who waits wants the answer. With thread workers
        and a free lane it is computed on the caller's own thread.
        """
        revision = self._revisions.open()
        request = self._reception.request(revision.serving, args, kwargs, refusable=False)
        revision.serving.stats.arrived(request)
        if self._stays(request):
            return self._answer_here(revision, request)
        waits = request.outside is not None and not revision.serving.scheduler.in_order
        lane = revision.serving.scheduler.claim() if revision.in_process and not waits else None
        if lane is None:
            future = request.future
            self._queue(revision, request)
            return future.result()
        return _answer_on(revision, lane, request)

    def submit(self, *args: Any, **kwargs: Any) -> Promise:
        """Queues one request, due `slo.p99_ms` from now, and returns its future.

        The future raises `DeadlineExceeded` when the request is refused because its deadline
        can no longer be met, `RuntimeClosed` when the runtime closes first, and whatever the
        model itself raises. Cancelling it before it runs takes it out of the queue. Its callbacks
        run on threads of their own: they may ask the runtime again, and wait for it. Once it is
        done, `future.served_by` says what computed the answer (`ServedBy`); None where there is
        none.
        """
        future = self._submit(args, kwargs)
        if isinstance(future, _TurnedAway):
            time.sleep(self._refusal_s)
        return future

    def _submit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Promise:
        revision = self._revisions.open()
        if revision.serving.scheduler.is_shut:
            revision.serving.stats.turned_away()
            return _TurnedAway()
        request = self._reception.request(revision.serving, args, kwargs, refusable=True)
        revision.serving.stats.arrived(request)
        future = request.future
        if self._stays(request):
            self._settle_here(revision, request)
            return future
        try:
            self._queue(revision, request)
        except EvolveError as error:
            if isinstance(error, RuntimeClosed):
                raise
            revision.serving.stats.refused(request)
            future.set_exception(error)
        return future

    def _queue(self, revision: Revision, request: Request) -> None:
        """Queues `request` with `revision`, or with the one that replaced it this very moment."""
        while True:
            try:
                return revision.serving.scheduler.submit(request)
            except RuntimeClosed:
                revision = self._revisions.after(revision)
                request = self._reception.again(revision.serving, request)

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
            revision = self._revisions.after(revision)
        return answer_apart(revision.serving, request)

    def _settle_here(self, revision: Revision, request: Request) -> None:
        request.future.begin()
        try:
            answer = self._answer_here(revision, request)
            request.future.served_by = BY_ORIGINAL
            request.future.set_result(answer)
        except KeyboardInterrupt:  # on this thread it is the user's own
            raise
        except BaseException as error:
            request.future.set_exception(error)

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
        return parts.tiers.progress or parts.builder.progress

    def wait_for_plans(self, timeout_s: float | None = None) -> bool:
        """Blocks until the model was captured and every plan tried, those of adopted tiers, too;
        False when `timeout_s` ran out first.

        Nothing needs this to be correct, the original serves meanwhile; benchmarks and tests do.
        """
        self._revisions.own()
        until_s = math.inf if timeout_s is None else self._clock() + timeout_s

        def left_s() -> float | None:
            return None if timeout_s is None else max(0.0, until_s - self._clock())

        while True:
            if self._upkeep is not None and not self._upkeep.wait(left_s()):
                return False
            parts = self.parts
            if not parts.pending and not (
                parts.builder.wait(left_s()) and parts.tiers.wait(left_s())
            ):
                return False
            if parts is self.parts:
                return True

    # -- quality tiers -------------------------------------------------------------------------

    def adopt(
        self,
        spec: SubnetSpec,
        weights: Mapping[str, Tensor] | Path | str | None = None,
        *,
        name: str | None = None,
    ) -> str:
        """Has a sub-network of the model serve as a quality tier, when the load requires it.

        Returns its name at once; it is made beside serving (`wait_for_plans`, `tiers`). Its plans
        are built as the model's own and verified against the sub-network; then it is tried in
        shadow and as a canary (`config.rollout`). It serves only while its agreement with the model
        is at least the SLO's `min_quality`. Direct calls are always the model's own plans'.

        Args:
            spec: What it keeps (`supernet.elastic.supernet.Supernet`).
            weights: Trained ones by the model's names, or a safetensors file of them, of the full
                sizes or the sub-network's own; what they leave out, or all without them, is the
                model's. They are copied.
            name: To tell it by; made up of what it is where there is none.

        Raises:
            ValueError, TypeError: The SLO gives no consent (`min_quality` is 1), or an argument
                is wrong. What only the model can tell is said in the journal and by `tiers`.
        """
        self._revisions.open()
        if not self.slo.allows_tiers:
            raise ValueError(
                "min_quality must be below 1 for a sub-network to serve, got 1: the model's "
                "architecture is not to be changed; give consent by SLO(min_quality=0.98), say"
            )
        return self._revisions.adoptions.add(spec, weights, name).name

    def dismiss(self, name: str) -> None:
        """Takes a tier away: when this returns no further batch begins on it.

        Raises `ValueError` where there is none of that name.
        """
        self._revisions.open().tiers.dismiss(name)

    def tiers(self) -> tuple[Tier, ...]:
        """Every sub-network that was adopted and not dismissed, with its state and why."""
        return self.parts.tiers.tiers()

    def refresh(self) -> None:
        """Takes the model as it is now: when this returns the original serves, and plans are
        built anew beside it.

        Most changes of weights are noticed within a tick without it. Call it after those that
        leave no trace: single values written through `.data` or NumPy, tensors on a GPU written so,
        and whatever lies inside objects that the model holds.
        """
        self._revisions.own()
        if self._upkeep is not None and not self._revisions.is_closed:
            self._upkeep.refresh()

    def status(self) -> dict[str, Any]:
        """A snapshot for people and monitors, JSON-able.

        `flops` holds what requests really cost in arithmetic (`profiler.FlopsReading`); None
        until `evolve profile` has measured this machine's peak. `switch_ms`: what the first batch
        after a change of plan takes beside the plan, as seen so far. `watch`: how many live answers
        were compared with the original's, and what was turned off since they differed. `evolution`:
        how many generations of the search for tiers there were, when the next is due, and what the
        last came to.
        """
        self._revisions.own()
        return {"closed": self._revisions.is_closed, **status_of(self.parts)}

    # -- ending ------------------------------------------------------------------------------

    def close(self, drain_s: float = 0.0) -> None:
        """Takes no more requests; answers those that wait for up to `drain_s` seconds, fails the
        rest with `RuntimeClosed`, finishes what runs, ends the workers and builds. Calling it again
        does nothing.

        It may be called from wherever a request leads: a callback, the model's own ``forward``.
        The end of the process calls it too, and so does a runtime that nobody holds any more, once
        its requests are answered. In a fork of the process it does nothing.
        """
        if not drain_s >= 0:
            raise ValueError(f"drain_s must be at least 0, got {drain_s}")
        self._revisions.close(drain_s)

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _answer_on(revision: Revision, lane: int, request: Request) -> Any:
    """On the caller's own thread, which has claimed `lane`."""
    try:
        return revision.pool.lanes[lane].answer_here(request)
    finally:
        revision.serving.scheduler.release(lane)


class _TurnedAway(Promise):
    """The refusal of a request that nobody has looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.set_exception(
            DeadlineExceeded("refused on arrival: as much waits as can be answered in time")
        )
