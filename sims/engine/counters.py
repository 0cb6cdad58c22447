"""Counters of one simulated service, compiled: slots of the window, totals, the log.

Part of the engine (`sims.engine.advance`).
"""

from __future__ import annotations

from typing import Any

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
    WINDOW,
    WORST,
    WORTH,
    Log,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@jit
def account(
    env: Any, slots: Floats, queue_ms: Floats, members: Ints, rows: int, low: int, high: int,
    finish_ms: float, slo_ms: float, worth: float, ratio: float, tokens: float, computed: float,
) -> int:  # fmt: skip
    """Count a batch in the slot in which it ends, and in the episode's totals; those in time.

    `low`, `high`: its first and last queue position, counted as `members` are.
    """
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
    slot[WORTH] += met * worth
    slot[RAN] += 1.0
    slot[RATIOS] += ratio
    slot[WORST] = max(slot[WORST], ratio)
    slot[TOKENS] += tokens
    slot[COMPUTED] += computed
    env.answered += rows
    env.met += met
    env.worth += met * worth
    env.tokens += tokens
    env.computed += computed
    return met


@jit
def note(
    env: Any, queue_id: Ints, members: Ints, rows: int, log: Log, first: int, plan: int,
    finish_ms: float, answered_ms: float, expected_ms: float, tokens: float, cell: int, worker: int,
) -> None:  # fmt: skip
    """Write a batch and its requests into the log."""
    for k in range(rows):
        i = queue_id[env.head + members[k]] - first
        log.outcome[i] = SERVED
        log.end_ms[i] = answered_ms
        log.ran[i] = plan
    row = log.batch[env.batches]
    row.start_ms, row.finish_ms = env.now_ms, finish_ms
    row.expected_ms, row.tokens = expected_ms, tokens
    row.plan, row.rows, row.cell, row.worker = plan, rows, cell, worker


@jit
def clear_slots(env: Any, slots: Floats) -> None:
    """Make room in the ring: what left the window becomes the future."""
    now_slot = int(env.now_ms / SLOT_MS)
    while env.slot < now_slot:
        env.slot += 1
        if env.slot > WINDOW + 1:
            slots[(env.slot - WINDOW - 2) % SLOTS] = 0.0
