"""A live window's view of a simulated service: compiled, from counters alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies._jit import jit
from policies.observation import Signal
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
    UTILITY,
    WINDOW,
    WORST,
    EngineInputs,
    Records,
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
    raw[Signal.BURSTINESS] = 1.0
    if offered >= 3:
        gaps = at_ms[end - 1] - at_ms[later]
        squares = gaps2[end - 1] - gaps2[later]
        if gaps > 0.0:
            raw[Signal.BURSTINESS] = max(0.0, squares * (offered - 1) / gaps**2 - 1.0)
    raw[Signal.MEAN_LENGTH] = 0.0
    if offered > 0:
        raw[Signal.MEAN_LENGTH] = tokens[0]
        if tokens.shape[0] > 1:
            before = tokens[later - 1] if later > 0 else 0.0
            raw[Signal.MEAN_LENGTH] = (tokens[end - 1] - before) / offered


@jit
def _quantile(histogram: Floats, share: float, total: float) -> float:
    """In units of one bin, linear within it; 0 where the histogram is empty."""
    if total == 0.0:
        return 0.0
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
    raw[Signal.BALANCE : Signal.FUSED + 1] = 0.0
    if batches > 0.0:
        row = min(table.shape[0], max(1, int(rows / batches + 0.5))) - 1
        bucket = min(table.shape[1] - 1, np.searchsorted(lengths, computed / rows))
        raw[Signal.BALANCE] = table[row, bucket, 0]
        raw[Signal.MEMORY_SHARE] = table[row, bucket, 1]
        raw[Signal.MOVED_MIB] = table[row, bucket, 2]
        raw[Signal.FUSED] = table[row, bucket, 3]


@jit
def _waiting(env: Any, queue_ms: Floats, slo_ms: float, raw: Floats) -> None:
    """The queue now: how many wait, how fast they come, how much time its head has left."""
    now_ms = env.now_ms
    raw[Signal.ARRIVAL_PER_S] = 1e3 * env.rate * np.exp((env.rate_at_ms - now_ms) / RATE_WINDOW_MS)
    raw[Signal.QUEUE] = env.tail - env.head
    raw[Signal.HEAD_SLACK_MS] = slo_ms
    if env.tail > env.head:
        raw[Signal.HEAD_SLACK_MS] = queue_ms[env.head] + slo_ms - now_ms


@jit
def _workers(env: Any, service: Any, units: Records, raw: Floats) -> None:
    """The workers now, and what is known of them and of changing their plans."""
    busy, correction = 0, 0.0
    for w in range(env.active):
        busy += units[w].free_ms > env.now_ms
        correction += units[w].correction
    raw[Signal.BUSY_SHARE] = busy / env.active
    raw[Signal.CORRECTION] = correction / env.active
    raw[Signal.WORKERS] = env.active
    raw[Signal.SLO_MS] = service.slo_ms
    raw[Signal.SWITCH_MS] = service.switch_ms
    raw[Signal.UNEVENNESS] = service.unevenness
    raw[Signal.LOAD_MS] = service.load_ms
    raw[Signal.HELD_RATIO] = service.held_ratio


@jit
def _window(slots: Floats, now_ms: float, sums: Floats) -> None:
    """Add up the slots of the last second in `sums` [LATENCY + BINS], zeros at first."""
    last = int(now_ms / SLOT_MS + 1e-9)  # at a tick: the slots that are over
    for k in range(max(0, last - WINDOW), last):
        slot = slots[k % SLOTS]
        worst = max(sums[WORST], slot[WORST])
        for j in range(sums.shape[0]):
            sums[j] += slot[j]
        sums[WORST] = worst


@jit
def _answers(sums: Floats, now_ms: float, slo_ms: float, raw: Floats) -> None:
    """Answers and batches of the last second.

    Latencies come from a histogram with bins of 1/16 of the SLO.
    """
    covered_s = min(1.0, max(now_ms / 1e3, 0.1))
    answered, ended = sums[ENDED], sums[ENDED] + sums[REFUSED]
    raw[Signal.SERVED_PER_S] = answered / covered_s
    raw[Signal.ENDED] = ended
    raw[Signal.MET_RATIO] = sums[MET] / ended if ended > 0.0 else 0.0
    raw[Signal.WORTH_RATIO] = sums[UTILITY] / ended if ended > 0.0 else 0.0
    raw[Signal.REFUSED_RATIO] = sums[REFUSED] / ended if ended > 0.0 else 0.0
    bin_ms = slo_ms / BINS_PER_SLO
    raw[Signal.P50_MS] = bin_ms * _quantile(sums[LATENCY:], 0.5, answered)
    raw[Signal.P99_MS] = bin_ms * _quantile(sums[LATENCY:], 0.99, answered)
    raw[Signal.BATCHES] = sums[RAN]
    raw[Signal.COST_RATIO_MEAN] = sums[RATIOS] / sums[RAN] if sums[RAN] > 0.0 else 1.0
    raw[Signal.COST_RATIO_MAX] = sums[WORST] if sums[RAN] > 0.0 else 1.0
    raw[Signal.PADDED_RATIO] = 0.0
    if sums[COMPUTED] > 0.0:
        raw[Signal.PADDED_RATIO] = (sums[COMPUTED] - sums[TOKENS]) / sums[COMPUTED]


@jit
def fill_signals(inputs: EngineInputs, state: State, e: int, raw: Floats) -> None:
    """Fill `raw` [SIGNALS] with what the window shows now; see `policies.observation`."""
    env = state.env[e]
    service = inputs.service[env.service]
    sums = np.zeros(LATENCY + BINS)
    _arrivals(env, inputs.at_ms, inputs.gaps2, inputs.tokens, raw)
    _waiting(env, state.queue_ms[e], service.slo_ms, raw)
    _workers(env, service, state.unit[e], raw)
    _window(state.slots[e], env.now_ms, sums)
    _answers(sums, env.now_ms, service.slo_ms, raw)
    _pattern(inputs.pattern, inputs.lengths, sums[RAN], sums[ENDED], sums[COMPUTED], raw)
