"""A lane: take a batch, run it, answer it, record it, for as long as the runtime lives."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from evolve.data_plane.batching import pad, plausible, split, stack
from evolve.data_plane.faults import Fault
from evolve.data_plane.promise import Call, Callbacks
from evolve.data_plane.served_by import BY_ORIGINAL, Origins
from evolve.errors import DeadlineExceeded, PlanDeclined, PlanFault, WorkerCrashed, WorkerHung
from evolve.monitoring.savings import BatchRecord
from supernet.capture.calls.pytree import flatten
from supernet.errors import Uncapturable
from supernet.plans import ORIGINAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from evolve.data_plane.faults import Faults
    from evolve.data_plane.liberties import Licence
    from evolve.data_plane.original import Original
    from evolve.data_plane.request_queue import Request
    from evolve.data_plane.scheduler import Batch, Price, Scheduler
    from evolve.data_plane.served_by import ServedBy
    from evolve.data_plane.traffic_split import TrafficSplit
    from evolve.monitoring.reservoir import Reservoir
    from evolve.monitoring.stats import Stats
    from evolve.watch.samples import Sample
    from evolve.watch.watch import Watch
    from evolve.workers.base import Answer, Worker
    from supernet.bounds import Bounds
    from supernet.capture.subject import Capture
    from supernet.domain.engine import Domain

__all__ = ["Lane", "Serving", "answer_apart"]

_NOT_FINITE = "returned a NaN or an infinity"
_BEYOND = "declined: the inputs are of other sizes than those for which it keeps its error"


@dataclass(frozen=True, slots=True)
class Serving:
    """What every lane shares. Each plan fault is noted in `faults`, after the answers left;
    `bounds` tells which requests a plan is for, None where it is for all; `origins` has what is
    said of an answer, `split` what tiers may answer. `callbacks` runs what
    users hung on their futures, `computing` says which thread computes on which lane now; both are
    the same for all revisions of a runtime. `reservoir` keeps a sample of what was asked, None
    where nobody learns from it. All times are by `clock`, in seconds."""

    scheduler: Scheduler
    original: Original
    capture: Capture
    stats: Stats
    faults: Faults
    licence: Licence
    watch: Watch
    bounds: Callable[[str], Bounds | None]
    origins: Origins
    split: TrafficSplit
    callbacks: Callbacks = field(default_factory=Callbacks)
    computing: dict[int, Lane] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    reservoir: Reservoir | None = None


class Alone(NamedTuple):
    """Whether the original answered every request, and with what a plan may give, too."""

    answered: bool
    finite: bool


class Answered(NamedTuple):
    """Each request's output leaves, what the watch kept of them, those requests that a plan gave a
    NaN or an infinity which the model would not give, and what computed it all."""

    answers: list[list[Any]]
    samples: list[Sample]
    odd: list[Request]
    by: ServedBy


class Lane:
    """One worker and the thread that feeds it.

    `worker` is None while a crashed worker is being replaced; the lane then serves with the
    original model in this process.
    """

    def __init__(self, index: int, worker: Worker | None, serving: Serving) -> None:
        self.index = index
        self.worker = worker
        self._swapping = threading.Lock()
        self._asked: Worker | None = None  # who was given the batch under way
        self._last_plan = ""
        self._due: list[Call] = []
        self._shadowed: Sample | None = None  # of the batch under way
        self._serving = serving
        self._thread = threading.Thread(target=self._run, name=f"lane-{index}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Waits for the lane to end, except where its own thread is the caller: a model's
        ``forward`` that closes the runtime."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def resident(self) -> frozenset[str]:
        """Plans that may run here now, the original aside."""
        held, withheld = self._held(), self._serving.split.withheld()
        return held - withheld if withheld else held

    def _held(self) -> frozenset[str]:
        """Those that are to blame for nothing; tiers may be held back."""
        worker = self.worker
        if worker is None:
            return frozenset()
        barred = self._serving.faults.barred()
        return worker.resident - barred if barred else worker.resident

    def swap(self, old: Worker, new: Worker | None) -> bool:
        """Has `new` serve from the next batch on, or nobody; False where `old` no longer does."""
        with self._swapping:
            if self.worker is not old:
                return False
            self.worker = new
            return True

    def _run(self) -> None:
        while self.serve_next():
            pass

    def serve_next(self) -> bool:
        """Serves one batch, once there is one; False where the scheduler is closed."""
        scheduler = self._serving.scheduler
        if (batch := scheduler.take(self.index, self.resident)) is None:
            return False
        self._serving.computing[threading.get_ident()] = self
        try:
            self._serve(batch)
            if self._shadowed is not None:
                self._call_back()
                self._try(self._shadowed)
        except BaseException as error:  # a fault of our own loses no request, nor the lane
            for request in (*batch.requests, *batch.refused):
                if not request.future.done():
                    self._settle(request, error=error)
        finally:
            del self._serving.computing[threading.get_ident()]
            due, self._due, self._shadowed = self._due, [], None
            scheduler.release(self.index)
            if due:
                self._serving.callbacks.run(due)
        return True

    def _settle(
        self, request: Request, answer: Any = None, error: Any = None, by: ServedBy | None = None
    ) -> None:
        request.future.served_by = by
        self._due += request.future.settle(answer, error)

    def _call_back(self) -> None:
        if self._due:
            due, self._due = self._due, []
            self._serving.callbacks.run(due)

    def answer_here(self, request: Request) -> Any:
        """Answers one request on the caller's thread; the caller has claimed this lane.

        Raises what the user's model raises; a `KeyboardInterrupt` may be the user's own.
        """
        self._serving.computing[threading.get_ident()] = self
        try:
            return self._answer_here(request)
        finally:
            del self._serving.computing[threading.get_ident()]

    def _answer_here(self, request: Request) -> Any:
        tables = self._serving.scheduler.tables
        plan = tables.fastest(request.rows, request.bucket, self.resident())
        length = request.length
        if self._serving.licence.now.padding:
            length = tables.padded_length(plan, (request,))
        beside = self._serving.scheduler.beside
        price = tables.price(plan, request.rows, request.bucket, beside)
        if request.outside is None:
            began_s = self._serving.clock()
            try:
                if self._within(plan, (request,))[1]:
                    raise PlanDeclined(f"plan {plan} {_BEYOND}")
                ran = self._run_batch(plan, (request,), length, price)
                if ran.odd:
                    raise PlanFault(f"plan {plan} {_NOT_FINITE}")
                answer = self._serving.original.rebuild(ran.answers[0], request.leaves)
            except Exception as error:
                self._recover(plan, (request,), length, began_s, error)
            else:
                self._serving.stats.ended(request)
                self._serving.watch.offer(ran.samples)
                return answer
        else:
            self._answer_alone((request,))
        return request.future.result()

    def _serve(self, batch: Batch) -> None:
        for request in batch.refused:
            self._refuse(request)
        self._call_back()  # who is refused need not wait for the batch
        requests = [r for r in batch.requests if r.future.begin()]
        if not requests:
            return
        if requests[0].outside is not None:
            self._answer_alone(requests)
            return
        self._serving.split.took(batch.plan, len(requests))
        parts = self._serving.licence.now.apart(requests, batch.length)
        price = batch.price._replace(ms=batch.price.ms / len(parts))
        for members, length in parts:
            self._serve_part(batch.plan, members, length, price)

    def _serve_part(
        self, plan: str, requests: Sequence[Request], length: int, price: Price
    ) -> None:
        began_s = self._serving.clock()
        within, beyond = self._within(plan, requests)
        if within:
            self._serve_within(plan, within, length, price)
        if beyond:
            self._recover(plan, beyond, length, began_s, PlanDeclined(f"plan {plan} {_BEYOND}"))

    def _serve_within(
        self, plan: str, requests: Sequence[Request], length: int, price: Price
    ) -> None:
        began_s = self._serving.clock()
        try:
            ran = self._run_batch(plan, requests, length, price)
        except BaseException as error:
            self._recover(plan, requests, length, began_s, error)
            return
        for request, leaves in zip(requests, ran.answers, strict=True):
            if request not in ran.odd:
                self._finish(request, leaves, ran.by)
        self._serving.watch.offer(ran.samples)
        if ran.odd:
            self._recover(plan, ran.odd, length, began_s, PlanFault(f"plan {plan} {_NOT_FINITE}"))

    def _within(
        self, plan: str, requests: Sequence[Request]
    ) -> tuple[Sequence[Request], Sequence[Request]]:
        """The requests that `plan` is for, and the others."""
        bounds = self._serving.bounds(plan)
        if bounds is None:
            return requests, ()
        holds = [bounds.hold(request.leaves) for request in requests]
        return (
            [request for request, held in zip(requests, holds, strict=True) if held],
            [request for request, held in zip(requests, holds, strict=True) if not held],
        )

    def _run_batch(
        self, plan: str, requests: Sequence[Request], length: int, price: Price
    ) -> Answered:
        """Notes what the batch cost this lane, from stacking to splitting, the way to the worker
        and back included."""
        signature, domain = self._serving.capture.signature, self._serving.capture.domain
        began_s = self._serving.clock()
        inputs = stack(requests, signature, length)
        answer, own = self.compute(plan, inputs)
        held = self._serving.capture.handed_on.held
        answers = split(answer.leaves, requests, signature, length, lent=answer.lent, held=held)
        elapsed_ms = (self._serving.clock() - began_s) * 1e3
        rows = real_tokens = 0
        for request in requests:
            rows += request.rows
            real_tokens += request.rows * request.length
        changed, self._last_plan = plan != self._last_plan, plan
        self._serving.stats.record_batch(
            BatchRecord(plan, rows, length, elapsed_ms, *price, real_tokens, changed)
        )
        by = BY_ORIGINAL if own else self._serving.origins.of(plan)
        if not own and not plausible(answer.leaves, domain):
            odd = [
                request
                for request, leaves in zip(requests, answers, strict=True)
                if not plausible(leaves, domain)
            ]
            return Answered(answers, [], odd, by)
        samples = self._serving.watch.sample(plan, requests, inputs, length, answers, elapsed_ms)
        if self._serving.split.is_active:
            self._keep_for_shadow(requests, inputs, length)
        if self._serving.reservoir is not None:
            self._serving.reservoir.offer([request.leaves for request in requests])
        return Answered(answers, samples, [], by)

    def _keep_for_shadow(
        self, requests: Sequence[Request], inputs: Sequence[Any], length: int
    ) -> None:
        """Has one of a batch tried on a plan in shadow once all answers left; none of a batch with
        a direct call, whose caller may compute it."""
        if not all(request.refusable for request in requests):
            return
        plan = self._serving.split.shadow(self._held())
        if plan is not None:
            self._shadowed = self._serving.watch.keep(plan, requests, inputs, length)

    def _try(self, sample: Sample) -> None:
        """Runs a request, whose answer left, on the plan in `sample`, for the watch to compare."""
        plan, signature = sample.plan, self._serving.capture.signature
        length = sample.length
        if self._serving.licence.now.padding:
            length = self._serving.scheduler.tables.length_of(plan, sample.length)
        began_s = self._serving.clock()
        try:
            own = sample.own(signature)
            inputs = [pad(x, spec, length) for x, spec in zip(own, signature.inputs, strict=True)]
            if plan not in self._held():  # unloaded meanwhile
                return
            answer, by_original = self.compute(plan, inputs)
            leaves = sample.of_batch(answer.leaves, signature.outputs, at=0)
        except Exception as error:
            if not isinstance(error, PlanDeclined):
                self._blame(plan, error, Alone(answered=True, finite=True))
        else:
            if not by_original:
                self._serving.watch.offer([replace(sample, answer=leaves)])
        finally:
            self._serving.split.spent(self._serving.clock() - began_s)

    def compute(self, plan: str, inputs: Sequence[Any]) -> tuple[Answer, bool]:
        """Input leaves through `plan` on this lane's worker, and whether it was the model itself
        that answered; raises `PlanFault`."""
        worker = self._asked = self.worker
        if plan == ORIGINAL or worker is None or plan in self._serving.faults.barred():
            return self._serving.original.run(inputs), True
        return worker.run(plan, inputs), False

    def _recover(
        self, plan: str, requests: Sequence[Request], length: int, began_s: float,
        error: BaseException,
    ) -> None:  # fmt: skip
        """The original answers each request alone; the plan is blamed only if all of them work.

        A batch that holds a bad request makes every plan raise, and the original too: then
        nobody but that request's sender is told.
        """
        original = self._answer_alone(requests)
        if plan != ORIGINAL:
            self._serving.stats.retried(len(requests))
            if isinstance(error, PlanDeclined):
                elapsed_ms = (self._serving.clock() - began_s) * 1e3
                self._serving.stats.declined(
                    plan, sum(r.rows for r in requests), length, elapsed_ms
                )
            self._blame(plan, error, original)

    def _blame(self, plan: str, error: BaseException, original: Alone) -> None:
        fault = error if isinstance(error, PlanFault) else PlanFault(f"{plan}: {error!r}")
        # A worker must live through inputs whose answer is a NaN, but not give a number.
        works = original.answered and (original.finite or isinstance(fault, WorkerCrashed))
        gone = self._let_go() if isinstance(fault, (WorkerCrashed, WorkerHung)) else None
        now_s = self._serving.clock()
        self._serving.faults.note(Fault(self.index, plan, fault, works, now_s, gone))

    def _let_go(self) -> Worker | None:
        """The worker that a batch was lost with, which serves here no more; None where another one
        has come in its place already."""
        asked = self._asked
        return asked if asked is not None and self.swap(asked, None) else None

    def _answer_alone(self, requests: Sequence[Request]) -> Alone:
        """Answers by the original, one by one."""
        answered = finite = True
        for request in requests:
            try:
                answer = self._serving.original.call(request.args, request.kwargs, request.ambience)
                finite = finite and _plausible(answer, self._serving.capture.domain)
            except BaseException as error:  # SystemExit too is the sender's, not the lane's
                answered = False
                self._serving.stats.raised(request)
                self._settle(request, error=error)
            else:
                self._serving.stats.ended(request)
                self._settle(request, answer, by=BY_ORIGINAL)
            self._call_back()
        return Alone(answered, finite)

    def _finish(self, request: Request, leaves: list[Any], by: ServedBy) -> None:
        try:
            answer = self._serving.original.rebuild(leaves, request.leaves)
        except Exception as error:  # a structure that can't be rebuilt must not lose the answer
            self._serving.stats.raised(request)
            self._settle(request, error=error)
            return
        self._serving.stats.ended(request)
        self._settle(request, answer, by=by)

    def _refuse(self, request: Request) -> None:
        if not request.future.begin():
            return
        self._serving.stats.refused(request)
        waited_ms = self._serving.stats.waited_ms(request)
        late = DeadlineExceeded(
            f"refused after {waited_ms:.1f} ms: its deadline of "
            f"{request.deadline_ms - request.arrived_ms:g} ms can no longer be met"
        )
        self._settle(request, error=late)


def answer_apart(serving: Serving, request: Request) -> Any:
    """The original's answer, computed beside the lanes on the caller's own thread."""
    try:
        answer = serving.original.call(request.args, request.kwargs)
    except BaseException:
        serving.stats.raised(request)
        raise
    serving.stats.ended(request)
    return answer


def _plausible(answer: Any, domain: Domain) -> bool:
    try:
        leaves, _ = flatten(answer)
    except Uncapturable:  # nothing to look into; it is the original's own answer all the same
        return True
    return plausible(leaves, domain)
