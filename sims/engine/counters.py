"""Counters of one simulated service, compiled: slots of the window, totals, the log.

Part of the engine (`sims.engine.advance`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies._jit import jit
from sims.engine.state import (
    BINS,
    BINS_PER_SLO,
    COMPUTED,
    ENDED,
    LATENCY,
    MET,
    RAN,
    RATIOS,
    SERVED,
    SLOT_MS,
    SLOTS,
    TOKENS,
    UTILITY,
    WINDOW,
    WORST,
    Log,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class StartedBatch(NamedTuple):
    """One batch: who runs it, its plan and shape, the first and the last of its queue positions,
    real and computed positions, accuracy of its plan, costs, and when the worker is free and the
    answers are there. `took_ms` / `expected_ms` may differ from `ratio`, which leaves out what
    changing the plan costs."""

    worker: int
    plan: int
    rows: int
    bucket: int
    low: int
    high: int
    tokens: float
    computed: float
    accuracy: float
    expected_ms: float
    took_ms: float
    ratio: float
    finish_ms: float
    answered_ms: float


@jit
def account(
    env: Any, slots: Floats, queue_ms: Floats, members: Ints, batch: StartedBatch, slo_ms: float
) -> int:
    """Count a batch in the slot in which it ends, and in the episode's totals; those in time."""
    rows, low, high, finish_ms = batch.rows, batch.low, batch.high, batch.answered_ms
    now_slot = int(env.now_ms / SLOT_MS)
    slot = slots[int(min(finish_ms / SLOT_MS, now_slot + SLOTS - WINDOW - 3)) % SLOTS]
    met, scale = 0, BINS_PER_SLO / slo_ms
    if high - low == rows - 1:  # neighbours in the queue: the latest has waited least
        start, i = env.head + low, env.head + high
        late = start
        while late <= i and finish_ms - queue_ms[late] > slo_ms:
            late += 1
        met = i + 1 - late
        while i >= start:
            latest, bin_ = i, int(min(BINS - 1.0, (finish_ms - queue_ms[i]) * scale))
            i -= 1
            while i >= start and (
                bin_ == BINS - 1 or (finish_ms - queue_ms[i]) * scale < bin_ + 1.0
            ):
                i -= 1
            slot[LATENCY + bin_] += latest - i
    else:
        for k in range(rows):
            latency = finish_ms - queue_ms[env.head + members[k]]
            met += latency <= slo_ms
            slot[LATENCY + int(min(BINS - 1.0, latency * scale))] += 1.0
    slot[ENDED] += rows
    slot[MET] += met
    slot[UTILITY] += met * batch.accuracy
    slot[RAN] += 1.0
    slot[RATIOS] += batch.ratio
    slot[WORST] = max(slot[WORST], batch.ratio)
    slot[TOKENS] += batch.tokens
    slot[COMPUTED] += batch.computed
    env.answered += rows
    env.met += met
    env.utility_sum += met * batch.accuracy
    env.tokens += batch.tokens
    env.computed += batch.computed
    return met


@jit
def note(
    env: Any, queue_id: Ints, members: Ints, log: Log, first: int, batch: StartedBatch
) -> None:
    """Write a batch and its requests into the log of a trace whose arrivals begin at `first`."""
    for k in range(batch.rows):
        i = queue_id[env.head + members[k]] - first
        log.outcome[i] = SERVED
        log.end_ms[i] = batch.answered_ms
        log.ran[i] = batch.plan
    row = log.batch[env.batches]
    row.start_ms, row.finish_ms = env.now_ms, batch.finish_ms
    row.expected_ms, row.tokens = batch.expected_ms, batch.tokens
    row.plan, row.rows, row.bucket, row.worker = batch.plan, batch.rows, batch.bucket, batch.worker


@jit
def clear_slots(env: Any, slots: Floats) -> None:
    """Make room in the ring: what left the window becomes the future."""
    now_slot = int(env.now_ms / SLOT_MS)
    while env.slot < now_slot:
        env.slot += 1
        if env.slot > WINDOW + 1:
            slots[(env.slot - WINDOW - 2) % SLOTS] = 0.0
