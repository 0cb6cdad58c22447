"""The dispatch rule as Python objects: its parameters, the queue it reads, and one call.

The decision itself is `policies.compiled.decide`; here are the arrays it wants, kept ready so
that a live dispatcher pays microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from policies._asking import REQUEST, Plans, Requests
from policies.compiled import decide, decide_prepared, prepare
from policies.params import RuleParams

__all__ = ["DispatchRule", "Pick", "RuleParams", "Waiting", "decide"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Waiting:
    """The queue as an array of records, in order of joining: index i here is item i of the owner's
    own list, as long as the owner removes the same indices from both. Not thread-safe."""

    __slots__ = ("_requests", "_size")

    def __init__(self, capacity: int = 256) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self._size = 0
        self._requests: Requests = np.empty(capacity, REQUEST)

    def __len__(self) -> int:
        return self._size

    def append(
        self,
        deadline_ms: float,
        arrived_ms: float,
        bucket: int,
        *,
        rows: int = 1,
        group: int = 0,
        refusable: bool = True,
    ) -> int:
        """Queue one request; returns its index."""
        i = self._size
        if i == self._requests.shape[0]:
            self._requests = np.concatenate([self._requests, np.empty_like(self._requests)])
        self._requests[i] = (deadline_ms, arrived_ms, bucket, rows, group, refusable)
        self._size = i + 1
        return i

    def remove(self, indices: Sequence[int]) -> None:
        """Take these requests out; those behind move up, in unchanged order."""
        if not indices:
            return
        keep = np.ones(self._size, np.bool_)
        keep[list(indices)] = False
        left = int(keep.sum())
        self._requests[:left] = self._requests[: self._size][keep]
        self._size = left

    def clear(self) -> None:
        """Take everything out."""
        self._size = 0

    def view(self) -> Requests:
        """The requests as records [n] of `policies._asking.REQUEST`, valid until a change."""
        return self._requests[: self._size]

    def head_slack_ms(self, now_ms: float) -> float:
        """Time left to the earliest deadline; inf when nothing waits."""
        return float(self.view()["deadline_ms"].min()) - now_ms if self._size else math.inf


@dataclass(frozen=True, slots=True)
class Pick:
    """What to do now: run `members` as one batch on `plan`, refuse `dropped`.

    Indices into the queue as it was asked about. Without members `plan` is -1; then ask again at
    `wake_ms` (same clock as the question; inf: when something arrives).
    """

    plan: int
    members: tuple[int, ...]
    dropped: tuple[int, ...]
    wake_ms: float


class DispatchRule:
    """The rule bound to one cost table; holds only scratch memory and frozen tables.

    `cost_ms` [P, R, L] per plan, rows 1..R, padded length; NaN or inf where unknown. `lengths`
    [L] ascending. `tier` [P], 0 = most accurate (default: all plans one tier). `allowed` [P]
    (default all). `workers` >= 1 that serve this queue. Not thread-safe: one dispatcher, one rule.

    >>> rule = DispatchRule([[[4.0], [5.0]]], [16], workers=1, params=RuleParams("default"))
    >>> queue = Waiting()
    >>> _ = queue.append(50.0, 0.0, 0), queue.append(50.0, 0.0, 0)
    >>> rule.pick(0.0, queue, rate_per_ms=0.0)
    Pick(plan=0, members=(0, 1), dropped=(), wake_ms=inf)
    """

    def __init__(
        self,
        cost_ms: ArrayLike,
        lengths: ArrayLike,
        *,
        workers: int,
        params: RuleParams,
        tier: ArrayLike | None = None,
        allowed: ArrayLike | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        cost = np.array(cost_ms, np.float64, order="C", ndmin=3)
        if cost.ndim != 3 or 0 in cost.shape:
            raise ValueError(f"cost_ms must be [plans, rows, lengths], got shape {cost.shape}")
        if (cost <= 0.0).any():
            raise ValueError(f"cost_ms must be greater than 0, got {float(np.nanmin(cost))}")
        plans, max_rows, buckets = cost.shape
        sizes = np.array(lengths, np.float64)
        if sizes.shape != (buckets,) or not (np.diff(sizes) > 0).all() or not sizes[0] > 0:
            raise ValueError(
                f"lengths must be {buckets} ascending positive lengths, got {sizes.tolist()}"
            )
        tiers = np.zeros(plans, np.int64) if tier is None else np.array(tier, np.int64)
        flags = np.ones(plans, np.bool_) if allowed is None else np.array(allowed, np.bool_)
        if tiers.shape != (plans,) or flags.shape != (plans,):
            raise ValueError(
                f"tier and allowed must have one entry per plan ({plans}), "
                f"got shapes {tiers.shape} and {flags.shape}"
            )
        self._workers = workers
        self._plans = Plans(cost, sizes, tiers, flags)
        self._dropped: Ints = np.empty(256, np.int64)
        self._members = np.empty(max_rows, np.int64)
        self.use(params)

    @property
    def params(self) -> RuleParams:
        """The setting in force."""
        return self._params

    def use(self, params: RuleParams) -> None:
        """Switch to another setting from the next pick on."""
        self._params, self._array = params, params.to_array()
        self._prepared: Any = tuple(prepare(self._plans, self._array))  # see `decide_prepared`

    def repriced(self, cost_ms: Floats, params: RuleParams) -> DispatchRule:
        """A rule of its own for the same plans and lengths, at other costs and another setting.

        For a dispatcher that gets new prices many times a second: only the shape of `cost_ms` is
        checked, so hand in what a cost table made.
        """
        shape = self._plans.cost_ms.shape
        if cost_ms.shape != shape:
            raise ValueError(f"cost_ms must have shape {shape}, got {cost_ms.shape}")
        made = object.__new__(DispatchRule)
        made.__dict__.update(self.__dict__)
        made._dropped, made._members = self._dropped.copy(), self._members.copy()
        made._plans = self._plans._replace(cost_ms=cost_ms)
        made.use(params)
        return made

    def pick(
        self, now_ms: float, waiting: Waiting, rate_per_ms: float, *, slowdown: float = 1.0
    ) -> Pick:
        """What a worker free at `now_ms` should do; see `policies.compiled.decide`.

        `rate_per_ms`: recent arrivals per ms (EWMA of about 40 ms). `slowdown`: how many times as
        long every batch takes now, since other workers compute beside it. The queue is not changed.
        """
        if len(waiting) > self._dropped.shape[0]:
            self._dropped = np.empty(2 * len(waiting), np.int64)
        prepared = self._prepared
        if slowdown != 1.0:
            fastest, plans, ms_per_row, efficient_rows, lengths = prepared
            prepared = (fastest * slowdown, plans, ms_per_row * slowdown, efficient_rows, lengths)
        plan, count, refused, wake_ms = decide_prepared(
            now_ms,
            waiting.view(),
            prepared,
            self._workers,
            rate_per_ms,
            self._array,
            self._members,
            self._dropped,
        )
        members = tuple(self._members[:count].tolist())
        return Pick(plan, members, tuple(self._dropped[:refused].tolist()), wake_ms)

    def warm(self) -> None:
        """Compile, or load from the cache, before the first request: seconds cold, else ms."""
        waiting = Waiting(1)
        waiting.append(1.0, 0.0, 0)
        self.pick(0.0, waiting, 0.0)
