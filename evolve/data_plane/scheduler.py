"""The requests to run next, and on which plan: the queue and the compiled rule under one lock.

Lanes pull: a lane that is free calls `take` and gets a batch, or sleeps until there is one.
What the rule decides by (plans, costs, parameters) is one frozen `Tables`, replaced by whoever
changed something of it (`Scheduler.use`) and read once per decision.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evolve.data_plane.request_queue import Request, RequestQueue
from evolve.data_plane.strangers import Strangers
from evolve.errors import QueueFull, RuntimeClosed
from evolve.monitoring.reserve import Reserve
from policies.rule import DispatchRule, Pick, RuleParams
from supernet.tiers import SUBNET_TIER

__all__ = ["Batch", "Door", "Price", "Ready", "Scheduler", "Tables"]

DOOR_SHARE, DOOR_LEAST = 0.6, 8
"""Of the SLO, what may be waiting; and how many requests may wait whatever they cost."""
TRUSTED_MS = 1000.0
"""How long what ran stands for the prices: an idle service refuses nobody by older ones."""


class Price(NamedTuple):
    """Milliseconds predicted of a batch that begins while `beside` other lanes compute."""

    ms: float
    beside: int


FREE = Price(0.0, 0)
"""Of nothing that any plan runs."""


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """What a decision is made by. `plans[0]` is always the original model.

    `cost_ms` is float64 `[plans, max_rows, buckets]`, `tier` int64 `[plans]` (0 is the most
    accurate), `lengths` the padded length of each bucket, `buckets_only` the plans for which every
    new length costs extra, so that their batches are padded to one of `lengths`. `slowdowns` are by
    the number of lanes that compute beside, and the costs are those without any. `version`: see
    `Scheduler.use`.
    """

    plans: tuple[str, ...]
    cost_ms: npt.NDArray[np.float64]
    lengths: tuple[int, ...]
    tier: npt.NDArray[np.int64]
    buckets_only: frozenset[str]
    params: RuleParams
    lanes: int
    slowdowns: tuple[float, ...] = (1.0,)
    version: int = 0

    def fastest(self, rows: int, bucket: int, resident: frozenset[str]) -> str:
        """The quickest of the most accurate plans for one request alone, among `resident`."""
        costs, tiers = self.cost_ms[:, rows - 1, bucket].tolist(), self.tier.tolist()
        best, least = self.plans[0], costs[0]
        for plan, cost_ms, tier in zip(self.plans, costs, tiers, strict=True):
            if tier == 0 and cost_ms < least and plan in resident:
                best, least = plan, cost_ms
        return best

    def price(self, plan: str, rows: int, bucket: int, beside: int) -> Price:
        """Of a batch while `beside` other lanes compute; inf where nothing is known."""
        alone_ms = float(self.cost_ms[self.plans.index(plan), rows - 1, bucket])
        return Price(alone_ms * self.slowdown(beside), beside)

    def slowdown(self, beside: int) -> float:
        """How many times as long a batch takes while `beside` other lanes compute."""
        return self.slowdowns[min(beside, len(self.slowdowns) - 1)]

    def length_of(self, plan: str, length: int) -> int:
        """The length at which a request of `length` runs by itself on `plan`."""
        if plan not in self.buckets_only:
            return length
        return next(own for own in self.lengths if own >= length)

    def padded_length(self, plan: str, requests: Sequence[Request]) -> int:
        """The length at which `requests` run together on `plan`."""
        if plan in self.buckets_only:
            return self.lengths[max(request.bucket for request in requests)]
        return max(request.length for request in requests)


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that run together on one plan, and those refused on the way."""

    plan: str
    requests: tuple[Request, ...]
    refused: tuple[Request, ...]
    length: int
    price: Price


class Ready(NamedTuple):
    """Tables with the rule set up for them, by resident plans.

    All lanes share a rule: it decides under the scheduler's lock.
    """

    tables: Tables
    rules: dict[frozenset[str], DispatchRule]


class Door:
    """How many requests may wait before the next one is refused unseen, which costs nearly nothing.

    While the queue does not run empty, what was taken from it per second is what the service can
    do. Once that has gone on for longer than the SLO, `most` is what can be done within
    `DOOR_SHARE` of it; each time the queue runs empty it is twice as many, up to the queue's limit.
    """

    def __init__(self, limit: int, slo_ms: float) -> None:
        self.most = self._limit = limit
        self._slo_ms = slo_ms
        self._since_ms, self._taken = np.inf, 0.0

    @property
    def is_narrow(self) -> bool:
        """Whether fewer may wait than the queue holds."""
        return self.most < self._limit

    def opened(self, now_ms: float) -> None:
        """A request came to an empty queue."""
        self._since_ms, self._taken = now_ms, 0.0

    def took(self, count: int, left: int, now_ms: float) -> None:
        """So many requests begin, so many still wait."""
        self._taken += count
        lasted_ms = now_ms - self._since_ms
        if not left:
            self.most = min(self._limit, 2 * self.most)
        elif lasted_ms > self._slo_ms:
            within = self._taken / lasted_ms * DOOR_SHARE * self._slo_ms
            self.most = min(self._limit, max(DOOR_LEAST, int(within)))
        if lasted_ms > 8 * self._slo_ms:  # half of it is forgotten
            self._since_ms += lasted_ms / 2
            self._taken /= 2


class Scheduler:
    """An earliest-deadline-first queue that lanes pull batches from.

    Args:
        tables: What the first decisions are made by.
        limit: Requests that may wait; more are refused on arrival.
        rate_per_s: Requests arriving per second, of this moment.
        now_ms: The runtime's clock, milliseconds.
        in_order: Whether requests run in order of arrival, whatever the rule says; with one lane
            also one at a time. For a model that keeps a state between calls, or may.
        slo_ms: Of every request.
        reserve: What of each deadline is kept back.
        on_engaged: Told, under the queue's lock, True when work comes to an idle service, and
            False when the last of it is done.
    """

    def __init__(
        self,
        tables: Tables,
        *,
        limit: int,
        rate_per_s: Callable[[], float],
        now_ms: Callable[[], float],
        in_order: bool = False,
        slo_ms: float = np.inf,
        reserve: Reserve | None = None,
        on_engaged: Callable[[bool], None] = lambda engaged: None,
    ) -> None:
        self._on_engaged = on_engaged
        self._engaged = False
        self._ready = Ready(tables, {})
        self._version = tables.version
        self._rate_per_s = rate_per_s
        self._now_ms = now_ms
        self.in_order = in_order
        self._reserve = Reserve(slo_ms) if reserve is None else reserve
        self._held = False
        self._waiters = 0
        self._queue = RequestQueue(limit)
        self._strangers = Strangers(slo_ms, tables.lanes)
        self._called_ms = -np.inf  # when a call came that fits the capture
        self._changed = threading.Condition()
        self._busy: set[int] = set()
        self._ran_ms = -np.inf
        self._door = Door(limit, slo_ms)
        self._closed = False

    @property
    def tables(self) -> Tables:
        """What decisions are made by now."""
        return self._ready.tables

    def warm(self) -> None:
        """Loads the compiled rule, or compiles it the first time on this machine (seconds)."""
        _rule(self.tables, frozenset()).warm()

    def prepare(self, tables: Tables) -> Ready:
        """`tables` with the rule set up for them, on the caller's thread: lanes find it ready."""
        old = self._ready
        with self._changed:
            known = dict(old.rules)
        if tables.plans == old.tables.plans and tables.tier is old.tables.tier:
            made = {r: rule.repriced(tables.cost_ms, tables.params) for r, rule in known.items()}
        else:
            made = {resident: _rule(tables, resident) for resident in known}
        return Ready(tables, made)

    def next_version(self) -> int:
        """For tables that are about to be made: drawn before what they say is looked up."""
        with self._changed:
            self._version += 1
            return self._version

    def use(self, ready: Ready) -> bool:
        """Decides by `ready` from the next batch on; a decision under way keeps the old one.

        Any thread may publish tables, at the same time as others. Under the lock those of a lower
        version than the ones in force are passed over, and False is returned. So the last change is
        never undone: who makes one draws a version after it, and looks up what holds after that.
        """
        with self._changed:
            if ready.tables.version < self._ready.tables.version:
                return False
            self._ready = ready
            return True

    def submit(self, request: Request) -> None:
        """Queues `request`; raises `QueueFull` when `limit` already wait."""
        with self._changed:
            if self._closed:
                raise RuntimeClosed("the runtime must be open to take requests; wrap() again")
            if self._waiting >= self._queue.limit:
                raise QueueFull(
                    f"queue_limit ({self._queue.limit}) requests already wait; "
                    "send less, or raise queue_limit in the configuration"
                )
            self._append(request)

    @property
    def is_shut(self) -> bool:
        """Whether so much waits that what comes now could not be in time; never where all that
        came is answered in its order. Needs no lock."""
        door = self._door
        return door.is_narrow and len(self._queue) >= door.most and not self.in_order

    def adopt(self, request: Request) -> None:
        """Queues a request that already waited elsewhere, however many wait here."""
        with self._changed:
            self._append(request)

    def _append(self, request: Request) -> None:
        if request.outside is not None and not self.in_order:
            self._strangers.append(request)
        else:
            self._called_ms = self._now_ms()
            if not len(self._queue):
                self._door.opened(self._called_ms)
            self._queue.append(request, self._reserve.ms)
        self._note_work()
        self._changed.notify_all()

    def claim(self, *, wait: bool = False) -> int | None:
        """Takes an idle lane for a caller that computes on its own thread; None when none is.

        Only when nothing waits, so that nobody is overtaken; with `wait`, it is None only once
        closed. Pair with `release`.
        """
        with self._changed:
            while (lane := self._idle_lane()) is None and wait and not self._closed:
                self._waiters += 1
                self._changed.wait()
                self._waiters -= 1
            if lane is not None:
                self._busy.add(lane)
                self._called_ms = self._now_ms()
                self._note_work()
            return lane

    @property
    def beside(self) -> int:
        """Busy lanes but one, the caller's own. Needs no lock."""
        return max(0, len(self._busy) - 1)

    def _idle_lane(self) -> int | None:
        if self._closed or self._held or len(self._queue):
            return None
        return next((n for n in range(self.tables.lanes) if n not in self._busy), None)

    def release(self, lane: int) -> None:
        """The lane is free again."""
        with self._changed:
            self._busy.discard(lane)
            self._strangers.ended(lane, self._now_ms())
            self._note_work()
            if self._waiting or self._waiters or self._closed:
                self._changed.notify_all()

    def hold(self) -> None:
        """Begins nothing until `proceed`: who serves the same model elsewhere comes first."""
        with self._changed:
            self._held = True

    def proceed(self) -> None:
        with self._changed:
            self._held = False
            self._changed.notify_all()

    def drain(self, besides: Collection[int], timeout_s: float | None) -> bool:
        """Waits until no lane is busy, those in `besides` apart; False when time ran out."""
        with self._changed:
            return self._changed.wait_for(lambda: self._busy <= set(besides), timeout_s)

    def run_dry(self, besides: Collection[int], timeout_s: float) -> bool:
        """Waits until nothing waits and no lane is busy, those in `besides` apart; False when time
        ran out."""
        with self._changed:
            self._waiters += 1
            try:
                return self._changed.wait_for(
                    lambda: not self._waiting and self._busy <= set(besides),
                    min(timeout_s, threading.TIMEOUT_MAX),
                )
            finally:
                self._waiters -= 1

    @property
    def _waiting(self) -> int:
        return len(self._queue) + len(self._strangers)

    def _note_work(self) -> None:
        engaged = bool(self._busy) or self._waiting > 0
        if engaged != self._engaged:
            self._engaged = engaged
            self._on_engaged(engaged)

    def take(self, lane: int, resident: Callable[[], frozenset[str]]) -> Batch | None:
        """The next batch for `lane`, which is busy until `release`; None once closed.

        `resident` names the plans that the lane's worker can run now. A batch may hold
        refusals alone.
        """
        with self._changed:
            while not self._closed:
                if self._held or lane in self._busy:
                    self._changed.wait()
                    continue
                batch, wake_ms = self._next(lane, resident)
                if batch is not None:
                    self._busy.add(lane)
                    return batch
                wait_ms = wake_ms - self._now_ms()
                self._changed.wait(max(wait_ms, 0.0) / 1e3 if np.isfinite(wait_ms) else None)
            return None

    def _next(
        self, lane: int, resident: Callable[[], frozenset[str]]
    ) -> tuple[Batch | None, float]:
        """What `lane` is to do now; else None, and when to ask again."""
        now_ms, wake_ms = self._now_ms(), np.inf
        if len(self._strangers):
            turn = self._strangers.turn(now_ms, self._called_ms, others_wait=len(self._queue) > 0)
            if turn.request is not None:
                self._strangers.began(lane, turn.request, now_ms)
            if turn.request is not None or turn.refused:
                requests = () if turn.request is None else (turn.request,)
                return Batch(self.tables.plans[0], requests, turn.refused, 0, FREE), now_ms
            wake_ms = turn.wake_ms
        if not len(self._queue):
            return None, wake_ms
        ready = self._ready
        pick = self._pick(ready, resident())
        if pick.members:
            self._ran_ms = now_ms
        if pick.members or pick.dropped:
            return self._batch(ready.tables, pick), now_ms
        return None, min(wake_ms, pick.wake_ms)

    def _pick(self, ready: Ready, resident: frozenset[str]) -> Pick:
        if self.in_order:
            return Pick(0, (0,), (), np.inf)
        rule = ready.rules.get(resident)
        if rule is None:
            rule = ready.rules[resident] = _rule(ready.tables, resident)
        slowdown = ready.tables.slowdown(len(self._busy))
        rate_per_ms = self._rate_per_s() / 1e3
        pick = rule.pick(self._now_ms(), self._queue.waiting, rate_per_ms, slowdown=slowdown)
        return self._owed(ready.tables, self._doubted(ready.tables, pick, resident), resident)

    def _owed(self, tables: Tables, pick: Pick, resident: frozenset[str]) -> Pick:
        """`pick`, but where a direct call is in the batch, on a plan of the model: sub-networks
        answer only what was submitted."""
        if not pick.members or tables.tier[pick.plan] < SUBNET_TIER:
            return pick
        members = [self._queue[index] for index in pick.members]
        if all(request.refusable for request in members):
            return pick
        rows, bucket = sum(r.rows for r in members), max(r.bucket for r in members)
        return replace(pick, plan=tables.plans.index(tables.fastest(rows, bucket, resident)))

    def _doubted(self, tables: Tables, pick: Pick, resident: frozenset[str]) -> Pick:
        """`pick`, but where an idle lane would only refuse by prices that nothing bears out now,
        one of the refused runs: else a bad price would refuse everybody for ever."""
        now_ms = self._now_ms()
        if pick.members or self._busy or now_ms - self._ran_ms < TRUSTED_MS:
            return pick
        for index in pick.dropped:
            request = self._queue[index]
            if request.deadline_ms > now_ms:
                plan = tables.plans.index(tables.fastest(request.rows, request.bucket, resident))
                refused = tuple(other for other in pick.dropped if other != index)
                return Pick(plan, (index,), refused, np.inf)
        return pick

    def _batch(self, tables: Tables, pick: Pick) -> Batch:
        taken = self._queue.take((*pick.members, *pick.dropped))
        members, refused = taken[: len(pick.members)], taken[len(pick.members) :]
        self._door.took(len(members), len(self._queue), self._now_ms())
        plan = tables.plans[max(pick.plan, 0)]
        if not members:
            return Batch(plan, (), tuple(refused), 0, FREE)
        bucket = max(request.bucket for request in members)
        rows = sum(request.rows for request in members)
        return Batch(
            plan=plan,
            requests=tuple(members),
            refused=tuple(refused),
            length=tables.padded_length(plan, members),
            price=tables.price(plan, rows, bucket, len(self._busy)),
        )

    def depth(self) -> tuple[int, float, int]:
        """(requests waiting, slack of the earliest in ms or inf, busy lanes)."""
        with self._changed:
            slack_ms = self._queue.waiting.head_slack_ms(self._now_ms())
            return self._waiting, slack_ms, len(self._busy)

    def close(self) -> list[Request]:
        """Wakes every lane to end; returns what still waited."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            left = [*self._queue.take(range(len(self._queue))), *self._strangers.take_all()]
            self._note_work()
            return left


def _rule(tables: Tables, resident: frozenset[str]) -> DispatchRule:
    """The rule set up for `tables`, where the worker holds the plans `resident`."""
    return DispatchRule(
        tables.cost_ms,
        tables.lengths,
        workers=tables.lanes,
        params=tables.params,
        tier=tables.tier,
        allowed=[i == 0 or plan in resident for i, plan in enumerate(tables.plans)],
    )
