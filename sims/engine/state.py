"""Data that the compiled engine works on: everything that is given, and everything that changes.

`EngineInputs` holds many services and many traces side by side, so that one call can play thousands
of environments; `State` is what E of them are in the middle of. Both are named tuples of arrays,
some of them of records: the two kinds of structure that numba takes as they are. Hot functions get
the few rows they need, never the whole tuple, whose every array would be counted at each call.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies._proteus import PLANS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Records = NDArray[Any]
"""An array of records of one of the types below."""

ENV = np.dtype(
    [
        ("now_ms", "f8"),
        ("rate", "f8"),  # arrivals per ms, fading
        ("rate_at_ms", "f8"),  # when it was last brought up to date
        ("hold_ms", "f8"),  # a hold's end
        ("origin_ms", "f8"),  # arrival i comes at (at_ms[i] - origin_ms) * stretch
        ("stretch", "f8"),
        ("end_ms", "f8"),  # of the episode
        ("start", "i8"),  # the first arrival of the episode,
        ("next", "i8"),  # the next one,
        ("last", "i8"),  # and the end of them
        ("head", "i8"),  # the queue's two ends
        ("tail", "i8"),
        ("batches", "i8"),
        ("slot", "i8"),  # up to which slots were cleared
        ("service", "i8"),
        ("trace", "i8"),
        ("preset", "i8"),  # in force
        ("active", "i8"),  # workers in use
        ("switches", "i8"),  # of plans
        ("loads", "i8"),  # of plans a worker did not hold
        ("answered", "f8"),  # totals of the episode, counted when a batch starts
        ("met", "f8"),
        ("refused", "f8"),
        ("utility_sum", "f8"),  # accuracy of the answers in time
        ("tokens", "f8"),  # real and computed positions
        ("computed", "f8"),
        ("random", "u8"),
    ]
)
UNIT = np.dtype(
    [
        ("free_ms", "f8"),  # when it is free again
        ("correction", "f8"),  # learnt observed / expected cost
        ("ratio", "f8"),  # that of the batch just run, not learnt yet; 0: none
        ("busy_ms", "f8"),  # work so far
        ("running", "i8"),  # its plan; -1: none yet
    ]
)
SERVICE = np.dtype(
    [
        ("workers", "i8"),
        ("slo_ms", "f8"),
        ("overhead_ms", "f8"),
        ("delay_ms", "f8"),  # from the end of a batch to its answers
        ("switch_ms", "f8"),
        ("load_ms", "f8"),
        ("resident", "i8"),
        ("held_ratio", "f8"),  # of the plans, how many a worker can hold
        ("learning", "f8"),
        ("drift_every_ms", "f8"),
        ("placement", "i8"),
        ("unevenness", "f8"),  # coefficient of variation of the workers' abilities
    ]
)
WORKER = np.dtype(
    [
        ("kind", "i8"),
        ("slower", "f8"),
        ("link_ms", "f8"),
        ("lost_from_ms", "f8"),
        ("lost_until_ms", "f8"),
        ("ability", "f8"),  # work per ms
        ("abilities", "f8"),  # of this one and all before it
    ]
)
BATCH = np.dtype(
    [
        ("start_ms", "f8"),
        ("finish_ms", "f8"),
        ("expected_ms", "f8"),
        ("tokens", "f8"),
        ("plan", "i8"),
        ("rows", "i8"),
        ("bucket", "i8"),
        ("worker", "i8"),
    ]
)

ENDED, MET, REFUSED, UTILITY, RAN, RATIOS, WORST, TOKENS, COMPUTED, LATENCY = range(10)
"""`State.slots`, sums by the slot in which they ended: answers, those in time, refusals, accuracy
of those in time, batches, their cost ratios and the largest, real and computed positions; from
LATENCY on a histogram of latencies."""

SLOT_MS = 100.0
SLOTS = 64
WINDOW = 10
"""Slots that make the window a policy sees: 1 s. A ring of `SLOTS` reaches 5 s ahead."""
BINS_PER_SLO = 16
BINS = 96
"""The window's histogram: latency over SLO in [0, 6), the last bin open."""
QUEUE_ROOM = 1 << 14
"""Requests that may wait; beyond that the oldest are refused, as a bounded queue does."""

BY_SPEED, BY_USE, BY_ORDER = range(3)
"""Which free worker is next: the fastest, the least used so far, the one longest free."""

WAITING, SERVED, DROPPED = 0, 1, 2
"""`Log.outcome`."""


class EngineInputs(NamedTuple):
    """Services [S], traces [T], settings [A] and the plans' tables, frozen.

    `at_ms`, `gaps2` [N]: arrivals of all traces one after another and the running sum of squared
    gaps; `length` [N] and `tokens` (running sum), of size 1 when all are equal; `bucket` [N], of
    size 1 when there is one. `first`, `size` [T]. Tables: `believed`, `true` [D, P, R, L] ms per
    kind of device; `fastest`, `plan` [A, D, P + 1, R, L], `ms_per_row`, `efficient_rows` [A, D, P +
    1, L], `tiers` [A, D] as `prepare` makes them; `short` [A, D]: whether `policies.uniform`
    applies (one bucket, every cost known); `top`, `efficiency` [A, D, P + 1, R] of the first
    bucket, see its `UniformTables`. `pattern` [R, L, 4]: see `Service`; [1, 1, 4] of zeros where it
    is not known. `service` [S] and `worker` [S, W]: records. `factor` [S, F], `drift` [S, K]: see
    `Disturbances`.
    """

    at_ms: Floats
    gaps2: Floats
    length: NDArray[np.int32]
    bucket: NDArray[np.int32]
    tokens: Floats
    first: Ints
    size: Ints
    lengths: Floats
    accuracy: Floats
    believed: Floats
    true: Floats
    params: Floats
    kind: Ints
    fastest: Floats
    plan: Ints
    ms_per_row: Floats
    efficient_rows: Ints
    tiers: Ints
    short: NDArray[np.bool_]
    top: Ints
    efficiency: Floats
    pattern: Floats
    service: Records
    worker: Records
    factor: Floats
    drift: Floats


class State(NamedTuple):
    """What E environments are in the middle of; row e belongs to environment e.

    `env` [E], `unit` [E, W]: records. `used_ms` [E, W, P]: when a worker last ran a plan, -inf:
    it does not hold it. `queue_ms`, `queue_id` [E, Q]: arrival times and indices. `slots`: see
    above. `memo` [E, 16 + W]: what a discipline remembers. `members` [E, R]: room for a decision.
    """

    env: Records
    unit: Records
    used_ms: Floats
    queue_ms: Floats
    queue_id: Ints
    slots: Floats
    memo: Floats
    members: Ints


class Log(NamedTuple):
    """What became of every request and batch of one environment; empty arrays: not kept."""

    end_ms: Floats
    outcome: NDArray[np.int8]
    ran: NDArray[np.int32]
    batch: Records


def make_state(environments: int, inputs: EngineInputs, room: int = QUEUE_ROOM) -> State:
    """Room for `environments` of any service of the inputs; to be drawn before use.

    `room`: requests that may wait in each; of a full queue the oldest eighth is refused.
    """
    if room < 8:
        raise ValueError(f"room must be at least 8, got {room}")
    e, workers = environments, inputs.worker.shape[1]
    _, plans, rows, _ = inputs.believed.shape
    state = State(
        env=np.zeros(e, ENV),
        unit=np.zeros((e, workers), UNIT),
        used_ms=np.full((e, workers, plans), -np.inf),
        queue_ms=np.zeros((e, room)),
        queue_id=np.zeros((e, room), np.int64),
        slots=np.zeros((e, SLOTS, LATENCY + BINS), np.float32),
        memo=np.zeros((e, PLANS + workers)),
        members=np.zeros((e, rows), np.int64),
    )
    state.env["random"] = np.arange(1, e + 1)
    return state


def no_log() -> Log:
    """A log that keeps nothing."""
    return Log(np.empty(0), np.empty(0, np.int8), np.empty(0, np.int32), np.empty(0, BATCH))


def full_log(requests: int) -> Log:
    """A log of every request and batch of one environment."""
    return Log(
        np.full(requests, np.inf),
        np.zeros(requests, np.int8),
        np.full(requests, -1, np.int32),
        np.empty(requests, BATCH),
    )
