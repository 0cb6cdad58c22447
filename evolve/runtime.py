"""The living system: a wrapped model that answers, and improves how it runs meanwhile.

A request, top to bottom: `Runtime.submit` → `Scheduler` (queue and rule) → `Lane` → `Worker` →
answer. A plan: `Brain` builds → `PlanLibrary` admits → `Fleet` loads → `Controller` puts it on
the scheduler's tables. A tick: `Controller.tick`.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from evolve.errors import EvolveError, RuntimeClosed
from evolve.original import ORIGINAL
from evolve.queueing import Request
from supernet.errors import OutsideCapture

if TYPE_CHECKING:
    from evolve.admission import Admission
    from evolve.brain import Brain, Progress
    from evolve.config import Config
    from evolve.controller import Controller
    from evolve.decision import Decision
    from evolve.fleet import Fleet
    from evolve.journal import Journal
    from evolve.lane import Serving
    from evolve.retraining import Retraining
    from evolve.slo import SLO
    from profiler.shapes import ShapeGrid
    from supernet.pausing import Pauses
    from supernet.plans import Plan, PlanLibrary

__all__ = ["Parts", "Runtime"]

CLOSE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What a runtime is made of, for whoever looks inside (benchmarks, tests, its own methods)."""

    serving: Serving
    fleet: Fleet
    library: PlanLibrary
    controller: Controller
    admission: Admission
    brain: Brain
    retraining: Retraining
    journal: Journal
    pauses: Pauses


class Runtime:
    """A model being served. Made by `evolve.wrap`; close it, or use it as a context manager.

    Calls are thread-safe. Inputs must not be changed until their answer is there, and answers
    carry no gradient.
    """

    def __init__(self, slo: SLO, config: Config, parts: Parts, clock: Callable[[], float]) -> None:
        self.slo = slo
        self.config = config
        self.parts = parts
        self._serving = parts.serving
        self._clock = clock
        self._alone = itertools.count(1)
        self._in_process = config.workers.kind == "thread"
        self._close_lock = threading.Lock()
        self._closed = False
        self._outside_reasons: set[str] = set()

    def start(self) -> None:
        """Called once by `wrap`."""
        self._serving.scheduler.warm()
        self.parts.fleet.start()
        self.parts.controller.start()
        self.parts.brain.start()
        self.parts.retraining.start()
        self._serving.watch.start()

    # -- answering ---------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`model(*args, **kwargs)`: the same structure, dtypes and device.

        Never refused for being late: a caller who waits wants the answer. With thread workers
        and a free lane it is computed on the caller's own thread.
        """
        request = self._request(args, kwargs, refusable=False)
        self._serving.tally.arrived(request)
        lane = self._serving.scheduler.claim() if self._in_process else None
        if lane is None:
            future = request.future
            self._serving.scheduler.submit(request)
            return future.result()
        try:
            return self.parts.fleet.lanes[lane].answer_here(request)
        finally:
            self._serving.scheduler.release(lane)

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queues one request, due `slo.p99_ms` from now, and returns its future.

        The future raises `DeadlineExceeded` when the request is refused because its deadline
        can no longer be met, `RuntimeClosed` when the runtime closes first, and whatever the
        model itself raises. Cancelling it before it runs takes it out of the queue.
        """
        request = self._request(args, kwargs, refusable=True)
        self._serving.tally.arrived(request)
        future = request.future
        try:
            self._serving.scheduler.submit(request)
        except EvolveError as error:
            if isinstance(error, RuntimeClosed):
                raise
            self._serving.tally.refused(request)
            future.set_exception(error)
        return future

    async def asubmit(self, *args: Any, **kwargs: Any) -> Any:
        """`submit` for asyncio: awaits the answer, raises what the future would."""
        return await asyncio.wrap_future(self.submit(*args, **kwargs))

    def _request(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, refusable: bool
    ) -> Request:
        now_ms = self._clock() * 1e3
        deadline_ms = self.slo.deadline_ms(now_ms)
        capture = self._serving.capture
        try:
            flat = capture.flatten(args, kwargs)
            capture.check(flat.leaves)
        except OutsideCapture as reason:
            self._say_outside(str(reason))
            return Request(
                args, kwargs, [], 1, 1, 0, next(self._alone), now_ms, deadline_ms,
                refusable=False, outside=str(reason),
            )  # fmt: skip
        # Lengths that can't be padded share a batch only with their equals.
        group = self._serving.licence.now.group(flat.length, next(self._alone))
        cell = capture.grid.cell(flat.length)
        return Request(
            args, kwargs, flat.leaves, flat.rows, flat.length, cell, group, now_ms, deadline_ms,
            refusable=refusable,
        )  # fmt: skip

    def _say_outside(self, reason: str) -> None:
        if reason not in self._outside_reasons and len(self._outside_reasons) < 100:
            self._outside_reasons.add(reason)
            self.parts.journal.append(
                "request",
                ORIGINAL,
                reason=f"outside the capture, answered by the original: {reason}",
            )

    # -- looking inside ----------------------------------------------------------------------

    def plans(self) -> tuple[Plan, ...]:
        """Every plan tried so far, with its state, error, memory and measured costs."""
        return self.parts.library.plans()

    def decisions(self, last: int = 20) -> tuple[Decision, ...]:
        """The latest decisions, oldest first."""
        return self.parts.journal.last(last)

    @property
    def grid(self) -> ShapeGrid:
        """The batch shapes that requests are padded to and costs are kept for."""
        return self._serving.capture.grid

    @property
    def progress(self) -> Progress:
        """How far the building of plans is."""
        return self.parts.brain.progress

    def wait_for_plans(self, timeout_s: float | None = None) -> bool:
        """Blocks until every plan was tried; False when `timeout_s` ran out first.

        Nothing needs this to be correct, the original serves meanwhile; benchmarks and tests do.
        """
        return self.parts.brain.wait(timeout_s)

    def status(self) -> dict[str, Any]:
        """A snapshot for people and monitors, JSON-able.

        `flops` holds what requests really cost in arithmetic (`profiler.FlopsReading`); None
        until `evolve profile` has measured this machine's peak. `switch_ms`: what the first batch
        after a change of plan takes beside the plan, as seen so far. `watch`: how many live answers
        were compared with the original's, and what was turned off since they differed.
        """
        queue, _, busy = self._serving.scheduler.depth()
        tally = self._serving.tally
        computed = tally.counts()
        return {
            "closed": self._closed,
            "capture": self._serving.capture.describe(),
            "policy": self.parts.controller.choice.params.name,
            "queue": queue,
            "busy_lanes": busy,
            "lanes": [
                {"worker": lane.worker.name, "pid": lane.worker.pid}
                if (lane.worker is not None)
                else {"worker": None, "pid": None}
                for lane in self.parts.fleet.lanes
            ],
            "counts": computed,
            "padded_ratio": computed["padded_tokens"] / max(computed["tokens"], 1),
            "rows_by_plan": tally.plan_rows(),
            "switch_ms": tally.window.switch_ms,
            "flops": asdict(tally.flops.reading()) if tally.flops is not None else None,
            "watch": {
                **self._serving.watch.status(),
                "withdrawn": dict(self._serving.licence.withdrawn),
            },
            "plans": {plan.spec.key: plan.state.value for plan in self.parts.library.plans()},
            "journal_fault": self.parts.journal.fault,
        }

    # -- ending ------------------------------------------------------------------------------

    def close(self) -> None:
        """Finishes the batches under way, fails what still waits with `RuntimeClosed`, ends
        the workers and builds. Calling it again does nothing."""
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
        self.parts.brain.stop()
        self.parts.retraining.stop()
        self._serving.watch.stop()
        self.parts.controller.stop()
        for request in self._serving.scheduler.close():
            if request.future.set_running_or_notify_cancel():
                request.future.set_exception(RuntimeClosed("the runtime was closed meanwhile"))
        self.parts.fleet.close(CLOSE_TIMEOUT_S)
        self.parts.brain.join(CLOSE_TIMEOUT_S)
        self.parts.retraining.join(CLOSE_TIMEOUT_S)
        self._serving.watch.join(CLOSE_TIMEOUT_S)
        self.parts.journal.append("runtime", "runtime", reason="closed")
        self.parts.journal.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
