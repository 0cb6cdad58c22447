"""The observation of a tactical policy: one encoding for the live window and for the simulator.

    Signals ──▶ raw values [SEEN] ──▶ encode ──▶ float32 [ENTRIES + presets]

The simulator fills the raw values itself, thousands of environments at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from policies._jit import jit
from policies.presets import PRESETS

if TYPE_CHECKING:
    from profiler.signals import Signals

__all__ = ["ENTRIES", "SEEN", "encode", "observation_names", "observe"]

Floats = NDArray[np.float64]
Array = NDArray[np.float32]

(
    V_ARRIVAL_PER_S, V_BURSTINESS, V_QUEUE, V_HEAD_SLACK_MS, V_BUSY_SHARE, V_SERVED_PER_S,
    V_MET, V_REFUSED, V_P50_MS, V_P99_MS, V_RATIO_MEAN, V_RATIO_MAX, V_MEAN_LENGTH, V_PADDED,
    V_WORKERS, V_SLO_MS, V_ENDED, V_BATCHES, V_WORTH, V_CORRECTION, V_SWITCH_MS, V_UNEVENNESS,
    V_LOAD_MS, V_HELD, V_BALANCE, V_MEMORY, V_MOVED_MIB, V_FUSED,
) = range(20, 48)  # fmt: skip
"""Places of the raw values; 0 to 9 are arrivals in slots of 100 ms, 10 to 19 of 10 ms."""
SEEN = 48

_SCALARS = (
    "log_arrival_per_s",
    "log_burstiness",
    "log_queue",
    "head_slack_over_slo",
    "busy_share",
    "log_served_per_s",
    "met_ratio",
    "refused_ratio",
    "p50_over_slo",
    "p99_over_slo",
    "cost_ratio_mean",
    "cost_ratio_max",
    "log_mean_length",
    "padded_ratio",
    "log_workers",
    "log_slo_ms",
    "any_ended",
    "any_batches",
    "worth_ratio",
    "log_correction",
    "switch_over_slo",
    "unevenness",
    "load_over_slo",
    "held_ratio",
    "log_balance",
    "memory_share",
    "log_moved_mib",
    "fused",
)
ENTRIES = 20 + len(_SCALARS)


def observation_names(presets: int = len(PRESETS)) -> tuple[str, ...]:
    """One name per entry of `observe`, in order."""
    counts = [f"log_arrivals_{size}_{k}" for size in ("100ms", "10ms") for k in range(10)]
    return (*counts, *_SCALARS, *(f"active_{k}" for k in range(presets)))


@jit
def encode(raw: Floats, active: int, seen: Array) -> None:
    """Fill `seen` [ENTRIES + presets] from raw values [SEEN] and the preset in force."""
    slo_ms = raw[V_SLO_MS]
    for k in range(ENTRIES):
        seen[k] = raw[k]
    for k in range(23):  # counts, rate, burstiness, queue
        seen[k] = np.log1p(raw[k])
    seen[V_HEAD_SLACK_MS] = min(10.0, max(-10.0, raw[V_HEAD_SLACK_MS] / slo_ms))
    seen[V_SERVED_PER_S] = np.log1p(raw[V_SERVED_PER_S])
    seen[V_P50_MS] = min(10.0, raw[V_P50_MS] / slo_ms)
    seen[V_P99_MS] = min(10.0, raw[V_P99_MS] / slo_ms)
    seen[V_RATIO_MEAN] = min(10.0, raw[V_RATIO_MEAN])
    seen[V_RATIO_MAX] = min(10.0, raw[V_RATIO_MAX])
    seen[V_MEAN_LENGTH] = np.log1p(raw[V_MEAN_LENGTH])
    seen[V_WORKERS] = np.log(raw[V_WORKERS])
    seen[V_SLO_MS] = np.log(slo_ms)
    seen[V_ENDED] = 1.0 if raw[V_ENDED] > 0.0 else 0.0
    seen[V_BATCHES] = 1.0 if raw[V_BATCHES] > 0.0 else 0.0
    seen[V_CORRECTION] = min(10.0, max(-10.0, np.log(raw[V_CORRECTION])))
    seen[V_SWITCH_MS] = min(10.0, raw[V_SWITCH_MS] / slo_ms)
    seen[V_LOAD_MS] = min(10.0, raw[V_LOAD_MS] / slo_ms)
    seen[V_BALANCE] = np.log1p(raw[V_BALANCE])
    seen[V_MOVED_MIB] = np.log1p(raw[V_MOVED_MIB])
    for k in range(ENTRIES, seen.shape[0]):
        seen[k] = 0.0
    seen[ENTRIES + active] = 1.0


def observe(signals: Signals, active: int, presets: int = len(PRESETS)) -> Array:
    """What a tactical policy sees, float32 [48 + presets]; the gym's and the live one alike.

    Counts, rates, MiB and balance as log(1 + x), times over the SLO within [-10, 10], cost ratios
    at most 10, `active` (index of the preset in force) as one-hot. Names: `observation_names`.
    """
    raw = np.array(
        (
            *signals.arrivals_100ms, *signals.arrivals_10ms, signals.arrival_per_s,
            signals.burstiness, signals.queue, signals.head_slack_ms, signals.busy_share,
            signals.served_per_s, signals.met_ratio, signals.refused_ratio, signals.p50_ms,
            signals.p99_ms, signals.cost_ratio_mean, signals.cost_ratio_max, signals.mean_length,
            signals.padded_ratio, signals.workers, signals.slo_ms, signals.ended,
            signals.batches, signals.worth_ratio, signals.correction, signals.switch_ms,
            signals.unevenness, signals.load_ms, signals.held_ratio, signals.balance,
            signals.memory_share, signals.moved_mib, signals.fused,
        ),
        np.float64,
    )  # fmt: skip
    seen = np.empty(ENTRIES + presets, np.float32)
    encode(raw, active, seen)
    return seen
