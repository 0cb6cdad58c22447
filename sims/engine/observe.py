"""A live window's view of a simulated service: compiled, from counters alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies._jit import jit
from policies.observation import (
    V_ARRIVAL_PER_S,
    V_BALANCE,
    V_BATCHES,
    V_BURSTINESS,
    V_BUSY_SHARE,
    V_CORRECTION,
    V_ENDED,
    V_FUSED,
    V_HEAD_SLACK_MS,
    V_HELD,
    V_LOAD_MS,
    V_MEAN_LENGTH,
    V_MEMORY,
    V_MET,
    V_MOVED_MIB,
    V_P50_MS,
    V_P99_MS,
    V_PADDED,
    V_QUEUE,
    V_RATIO_MAX,
    V_RATIO_MEAN,
    V_REFUSED,
    V_SERVED_PER_S,
    V_SLO_MS,
    V_SWITCH_MS,
    V_UNEVENNESS,
    V_WORKERS,
    V_WORTH,
)  # fmt: skip
from sims.engine.queue import RATE_WINDOW_MS
from sims.engine.state import (
    BINS,
    BINS_PER_SLO,
    COMPUTED,
    ENDED,
    LATENCY,
    MET,
    RAN,
    RATIOS,
    REFUSED,
    SLOT_MS,
    SLOTS,
    TOKENS,
    WINDOW,
    WORST,
    WORTH,
    Bank,
    State,
)  # fmt: skip

Floats = NDArray[np.float64]


@jit
def _arrived_by(env: Any, at_ms: Floats, until_ms: float, low: int, high: int) -> int:
    """The first arrival index in low..high that comes after `until_ms`."""
    limit = until_ms / env.stretch + env.origin_ms
    while low < high:
        middle = (low + high) // 2
        if at_ms[middle] <= limit:
            low = middle + 1
        else:
            high = middle
    return low


@jit
def _arrivals(env: Any, at_ms: Floats, gaps2: Floats, tokens: Floats, raw: Floats) -> None:
    """Slots of 100 ms and 10 ms, burstiness and mean length over the last second."""
    now_ms, end, start = env.now_ms, env.next, env.start
    later = end
    for k in range(10):
        earlier = _arrived_by(env, at_ms, now_ms - 10.0 * (k + 1), start, later)
        raw[19 - k] = later - earlier
        later = earlier
    raw[9] = end - later
    for k in range(1, 10):
        earlier = _arrived_by(env, at_ms, now_ms - 100.0 * (k + 1), start, later)
        raw[9 - k] = later - earlier
        later = earlier
    offered = end - later
    raw[V_BURSTINESS] = 1.0
    if offered >= 3:
        gaps = at_ms[end - 1] - at_ms[later]
        squares = gaps2[end - 1] - gaps2[later]
        if gaps > 0.0:
            raw[V_BURSTINESS] = max(0.0, squares * (offered - 1) / gaps**2 - 1.0)
    raw[V_MEAN_LENGTH] = 0.0
    if offered > 0:
        raw[V_MEAN_LENGTH] = tokens[0]
        if tokens.shape[0] > 1:
            before = tokens[later - 1] if later > 0 else 0.0
            raw[V_MEAN_LENGTH] = (tokens[end - 1] - before) / offered


@jit
def _quantile(histogram: Floats, share: float, total: float) -> float:
    """In units of one bin, linear within it."""
    left = share * total
    for k in range(histogram.shape[0]):
        if histogram[k] > 0.0 and left <= histogram[k]:
            return float(k + left / histogram[k])
        left -= histogram[k]
    return float(histogram.shape[0])


@jit
def _pattern(
    table: Floats, lengths: Floats, batches: float, rows: float, computed: float, raw: Floats
) -> None:
    """The memory pattern of the mean batch, as `profiler.patterns.PatternTable.at`."""
    raw[V_BALANCE : V_FUSED + 1] = 0.0
    if batches > 0.0:
        row = min(table.shape[0], max(1, int(rows / batches + 0.5))) - 1
        cell = min(table.shape[1] - 1, np.searchsorted(lengths, computed / rows))
        raw[V_BALANCE] = table[row, cell, 0]
        raw[V_MEMORY] = table[row, cell, 1]
        raw[V_MOVED_MIB] = table[row, cell, 2]
        raw[V_FUSED] = table[row, cell, 3]


@jit
def look(bank: Bank, state: State, e: int, raw: Floats) -> None:
    """Fill `raw` [SEEN] with what the window shows now; see `policies.observation`.

    Latencies come from a histogram with bins of 1/16 of the SLO.
    """
    env = state.env[e]
    service, units, slots = bank.service[env.service], state.unit[e], state.slots[e]
    now_ms, slo_ms = env.now_ms, service.slo_ms
    _arrivals(env, bank.at_ms, bank.gaps2, bank.tokens, raw)
    raw[V_ARRIVAL_PER_S] = 1e3 * env.rate * np.exp((env.rate_at_ms - now_ms) / RATE_WINDOW_MS)
    raw[V_QUEUE] = env.tail - env.head
    raw[V_HEAD_SLACK_MS] = slo_ms
    if env.tail > env.head:
        raw[V_HEAD_SLACK_MS] = state.queue_ms[e, env.head] + slo_ms - now_ms
    busy, correction = 0, 0.0
    for w in range(env.active):
        busy += units[w].free_ms > now_ms
        correction += units[w].correction
    raw[V_BUSY_SHARE] = busy / env.active
    raw[V_CORRECTION] = correction / env.active
    raw[V_WORKERS] = env.active
    raw[V_SLO_MS] = slo_ms
    raw[V_SWITCH_MS] = service.switch_ms
    raw[V_UNEVENNESS] = service.unevenness
    raw[V_LOAD_MS] = service.load_ms
    raw[V_HELD] = service.held_ratio

    sums = np.zeros(LATENCY + BINS)
    last = int(now_ms / SLOT_MS + 1e-9)  # at a tick: the slots that are over
    for k in range(max(0, last - WINDOW), last):
        slot = slots[k % SLOTS]
        worst = max(sums[WORST], slot[WORST])
        for j in range(sums.shape[0]):
            sums[j] += slot[j]
        sums[WORST] = worst
    covered_s = min(1.0, max(now_ms / 1e3, 0.1))
    answered, ended = sums[ENDED], sums[ENDED] + sums[REFUSED]
    raw[V_SERVED_PER_S] = answered / covered_s
    raw[V_ENDED] = ended
    raw[V_MET] = sums[MET] / ended if ended > 0.0 else 0.0
    raw[V_WORTH] = sums[WORTH] / ended if ended > 0.0 else 0.0
    raw[V_REFUSED] = sums[REFUSED] / ended if ended > 0.0 else 0.0
    bin_ms = slo_ms / BINS_PER_SLO
    raw[V_P50_MS] = bin_ms * _quantile(sums[LATENCY:], 0.5, answered) if answered > 0.0 else 0.0
    raw[V_P99_MS] = bin_ms * _quantile(sums[LATENCY:], 0.99, answered) if answered > 0.0 else 0.0
    raw[V_BATCHES] = sums[RAN]
    raw[V_RATIO_MEAN] = sums[RATIOS] / sums[RAN] if sums[RAN] > 0.0 else 1.0
    raw[V_RATIO_MAX] = sums[WORST] if sums[RAN] > 0.0 else 1.0
    raw[V_PADDED] = 0.0
    if sums[COMPUTED] > 0.0:
        raw[V_PADDED] = (sums[COMPUTED] - sums[TOKENS]) / sums[COMPUTED]
    _pattern(bank.pattern, bank.lengths, sums[RAN], sums[ENDED], sums[COMPUTED], raw)
