"""The lanes and their workers: started together, loaded together, replaced one by one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from evolve.data_plane.lane import Lane
from evolve.errors import PlanFault, PlanLost, WorkerCrashed, WorkerHung

if TYPE_CHECKING:
    from evolve.data_plane.lane import Serving
    from evolve.workers.base import Inputs, Worker
    from supernet.plans import Plan

__all__ = ["LanePool"]

MAX_BACKOFF_S = 30.0
LEAVE_S = 1.0  # a lane that has just taken up its worker's name will have begun its batch by then
FORGIVEN_AFTER_S = 60.0


class LanePool:
    """All lanes of one runtime.

    Args:
        count: Lanes, one worker each.
        serving: What the lanes share.
        hire: Starts a worker of the given name.
        warm: The batches to run once on a plan before it serves.
        on_event: Told, for the journal, (worker, what happened).
        on_lost: Told, once, that a worker found a plan's files gone.
    """

    def __init__(
        self,
        count: int,
        serving: Serving,
        hire: Callable[[str], Worker],
        warm: Callable[[Plan], Sequence[Inputs]],
        on_event: Callable[[str, str], None],
        on_lost: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._serving = serving
        self._hire = hire
        self._warm = warm
        self._on_event = on_event
        self._on_lost = on_lost
        self._is_told = False
        self._plans: tuple[Plan, ...] = ()
        self._close_source: Callable[[], None] = lambda: None
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._clock = clock
        self._deaths_s: list[list[float]] = [[] for _ in range(count)]
        self.lanes = tuple(Lane(i, hire(f"worker-{i}"), serving) for i in range(count))

    def start(self) -> None:
        for lane in self.lanes:
            lane.start()

    def load(self, plan: Plan) -> None:
        """Makes `plan` resident on every worker; raises the first `PlanFault`.

        A worker that was killed or stopped meanwhile will be replaced, and load it then.
        """
        with self._lock:
            self._plans = (*self._plans, plan)
        warm = self._warm(plan)
        workers = [lane.worker for lane in self.lanes if lane.worker is not None]
        with ThreadPoolExecutor(len(self.lanes), "load") as pool:
            for loading in [pool.submit(worker.load, plan, warm) for worker in workers]:
                try:
                    loading.result()
                except (WorkerCrashed, WorkerHung) as fault:
                    if not (fault.from_outside or self._closed.is_set()):
                        raise
                except PlanFault:
                    if not self._closed.is_set():  # the workers have not merely gone home
                        raise

    def plans(self) -> tuple[Plan, ...]:
        """The plans that every worker is meant to hold."""
        return self._plans

    def held(self) -> frozenset[str]:
        """Keys of the plans that every worker is meant to hold."""
        return frozenset(plan.key for plan in self._plans)

    def unload(self, key: str) -> None:
        """Takes a plan off every worker; a batch under way ends first."""
        with self._lock:
            self._plans = tuple(plan for plan in self._plans if plan.spec.key != key)
        for lane in self.lanes:
            worker = lane.worker
            if worker is not None and key in worker.resident:
                try:
                    worker.unload(key)
                except PlanFault as fault:
                    if not self._closed.is_set():  # the worker has not merely gone home
                        self._on_event(worker.name, str(fault))

    def replace(self, lane: Lane, reason: str) -> None:
        """Takes the worker of `lane` off it and hires another; nothing where it has none."""
        worker = lane.worker
        if worker is not None and lane.swap(worker, None):
            self.rehire(lane, worker, reason)

    def rehire(self, lane: Lane, dead: Worker, reason: str) -> None:
        """Hires a worker in the background for `lane`, which let `dead` go; until then the original
        serves it."""
        if self._closed.is_set():
            return dead.close()
        with self._lock:
            now_s = self._clock()
            recent = [at for at in self._deaths_s[lane.index] if now_s - at < FORGIVEN_AFTER_S]
            self._deaths_s[lane.index] = [*recent, now_s]
        self._on_event(
            dead.name, f"{reason}; the original model serves this lane until it is replaced"
        )
        threading.Thread(
            target=self._rehire, args=(lane, dead), name=f"hire-{lane.index}", daemon=True
        ).start()

    def _rehire(self, lane: Lane, dead: Worker) -> None:
        dead.close()
        # The first replacements are immediate; a worker that keeps dying waits ever longer.
        deaths = len(self._deaths_s[lane.index])
        if deaths > 3 and self._closed.wait(min(0.1 * 2.0 ** (deaths - 3), MAX_BACKOFF_S)):
            return
        worker = self._hired(dead.name)
        if worker is None:
            return
        on_duty = False
        try:
            for plan in self._plans[:1]:
                self._try_to_load(worker, plan)
            lane.worker, on_duty = worker, True  # with its first plan; the others follow
            for plan in self._plans[1:]:
                self._try_to_load(worker, plan)
            if not self._closed.is_set():
                told = f"replaced (process {worker.pid}), {len(worker.resident)} plans"
                self._on_event(worker.name, told)
                self._complete(lane, worker)
        finally:
            if not on_duty:
                lane.worker = worker
            if self._closed.is_set():
                worker.close()

    def _complete(self, lane: Lane, worker: Worker) -> None:
        """Has the worker of `lane` hold what it is meant to, however often that fails."""
        pause_s = 0.1
        while missing := [plan for plan in self._plans if plan.key not in worker.resident]:
            if self._closed.wait(pause_s) or lane.worker is not worker or not worker.alive:
                return
            for plan in missing:
                self._try_to_load(worker, plan, is_told=True)
            pause_s = min(2 * pause_s, MAX_BACKOFF_S)

    def _try_to_load(self, worker: Worker, plan: Plan, *, is_told: bool = False) -> None:
        if plan.key in worker.resident:  # a copy of the nursery begins with some
            return
        try:
            worker.load(plan, self._warm(plan))
            if plan.key not in self.held():  # a fault has ruled it out meanwhile
                worker.unload(plan.key)
        except PlanLost as fault:
            self.lost(fault)
        except PlanFault as fault:
            if not is_told:
                self._on_event(worker.name, f"{fault}; tried again until it can be")

    def lost(self, fault: PlanLost) -> None:
        """The files of a plan are gone; said once, for whoever finds it next finds the same."""
        if not self._is_told:
            self._is_told = True
            self._on_event("plans", str(fault))
            self._on_lost()

    def _hired(self, name: str) -> Worker | None:
        """A new worker, however often that fails (no memory, no process left); None once closed."""
        pause_s = 0.1
        while not self._closed.is_set():
            try:
                return self._hire(name)
            except (OSError, PlanFault) as fault:
                if pause_s == 0.1:
                    self._on_event(name, f"cannot be hired, tried again until it can: {fault}")
            self._closed.wait(pause_s)
            pause_s = min(2 * pause_s, MAX_BACKOFF_S)
        return None

    def renew(self, hire: Callable[[str], Worker], close_source: Callable[[], None]) -> None:
        """Puts workers by `hire`, now and from now on, in the place of those on duty.

        No batch is lost and no lane waits. Raises `PlanFault` or `OSError`, and changes nothing,
        where one cannot be hired or loaded. `close_source`: when none is hired any more.
        """
        fresh: list[Worker] = []
        try:
            for lane in self.lanes:
                fresh.append(hire(f"worker-{lane.index}"))
                for plan in self._plans:
                    if plan.key not in fresh[-1].resident:
                        fresh[-1].load(plan, self._warm(plan))
        except (PlanFault, OSError):
            for worker in fresh:
                worker.close()
            raise
        self._hire, self._close_source = hire, close_source
        gone = [self._put(lane, worker) for lane, worker in zip(self.lanes, fresh, strict=True)]
        self._closed.wait(LEAVE_S)
        for worker in gone:
            worker.retire()

    def _put(self, lane: Lane, worker: Worker) -> Worker:
        """Has `worker` serve `lane` if one does; who is not needed any more is returned."""
        with self._lock:
            gone = lane.worker
            # Without one, its replacement is under way.
            if gone is None or self._closed.is_set() or not lane.swap(gone, worker):
                return worker
        for key in worker.resident - self.held():  # a fault has ruled it out meanwhile
            worker.unload(key)
        return gone

    def check(self) -> None:
        """Replaces workers that died while idle."""
        for lane in self.lanes:
            worker = lane.worker
            if worker is not None and not worker.alive:
                self.replace(lane, "worker process ended while idle")

    def close(self, timeout_s: float) -> None:
        """Waits for the batches under way, but for one that the caller is within, at most
        `timeout_s` in all; then ends the workers."""
        self._closed.set()
        until_s = time.monotonic() + timeout_s
        own = self._serving.computing.get(threading.get_ident())
        besides = {own.index} if own in self.lanes else set()
        self._serving.scheduler.drain(besides, timeout_s)
        for lane in self.lanes:
            lane.join(max(0.0, until_s - time.monotonic()))
        for lane in self.lanes:
            if lane.worker is not None:
                lane.worker.close()
        self._close_source()
