"""The observation of a tactical policy: one encoding for the live window and for the simulator.

    Signals ──▶ raw values [SIGNALS] ──▶ encode ──▶ float32 [ENTRIES + presets]

The simulator fills the raw values itself, thousands of environments at a time.
"""

from __future__ import annotations

from enum import IntEnum, auto
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from policies._jit import jit
from policies.presets import PRESETS

if TYPE_CHECKING:
    from profiler.signals import Signals

__all__ = ["ENTRIES", "SIGNALS", "Signal", "encode", "observation_names", "observe"]

Floats = NDArray[np.float64]
Array = NDArray[np.float32]


class Signal(IntEnum):
    """Places of the raw values [SIGNALS], named as the fields of `profiler.signals.Signals`.

    Before them are the arrivals, at 0 to 9 in slots of 100 ms, at 10 to 19 in slots of 10 ms.
    """

    ARRIVAL_PER_S = 20
    BURSTINESS = auto()
    QUEUE = auto()
    HEAD_SLACK_MS = auto()
    BUSY_SHARE = auto()
    SERVED_PER_S = auto()
    MET_RATIO = auto()
    REFUSED_RATIO = auto()
    P50_MS = auto()
    P99_MS = auto()
    COST_RATIO_MEAN = auto()
    COST_RATIO_MAX = auto()
    MEAN_LENGTH = auto()
    PADDED_RATIO = auto()
    WORKERS = auto()
    SLO_MS = auto()
    ENDED = auto()
    BATCHES = auto()
    WORTH_RATIO = auto()
    CORRECTION = auto()
    SWITCH_MS = auto()
    UNEVENNESS = auto()
    LOAD_MS = auto()
    HELD_RATIO = auto()
    BALANCE = auto()
    MEMORY_SHARE = auto()
    MOVED_MIB = auto()
    FUSED = auto()


SIGNALS = len(Signal) + 20

_NAMES = {
    Signal.ARRIVAL_PER_S: "log_arrival_per_s",
    Signal.BURSTINESS: "log_burstiness",
    Signal.QUEUE: "log_queue",
    Signal.HEAD_SLACK_MS: "head_slack_over_slo",
    Signal.BUSY_SHARE: "busy_share",
    Signal.SERVED_PER_S: "log_served_per_s",
    Signal.MET_RATIO: "met_ratio",
    Signal.REFUSED_RATIO: "refused_ratio",
    Signal.P50_MS: "p50_over_slo",
    Signal.P99_MS: "p99_over_slo",
    Signal.COST_RATIO_MEAN: "cost_ratio_mean",
    Signal.COST_RATIO_MAX: "cost_ratio_max",
    Signal.MEAN_LENGTH: "log_mean_length",
    Signal.PADDED_RATIO: "padded_ratio",
    Signal.WORKERS: "log_workers",
    Signal.SLO_MS: "log_slo_ms",
    Signal.ENDED: "any_ended",
    Signal.BATCHES: "any_batches",
    Signal.WORTH_RATIO: "worth_ratio",
    Signal.CORRECTION: "log_correction",
    Signal.SWITCH_MS: "switch_over_slo",
    Signal.UNEVENNESS: "unevenness",
    Signal.LOAD_MS: "load_over_slo",
    Signal.HELD_RATIO: "held_ratio",
    Signal.BALANCE: "log_balance",
    Signal.MEMORY_SHARE: "memory_share",
    Signal.MOVED_MIB: "log_moved_mib",
    Signal.FUSED: "fused",
}
"""What `encode` makes of each."""
ENTRIES = SIGNALS
_COUNTS = int(Signal.HEAD_SLACK_MS)
"""How many come first that are encoded as log(1 + x): arrivals, rate, burstiness, queue."""
_fields = attrgetter(*(signal.name.lower() for signal in Signal))


def observation_names(presets: int = len(PRESETS)) -> tuple[str, ...]:
    """One name per entry of `observe`, in order."""
    counts = [f"log_arrivals_{size}_{k}" for size in ("100ms", "10ms") for k in range(10)]
    return (
        *counts,
        *(_NAMES[signal] for signal in Signal),
        *(f"active_{k}" for k in range(presets)),
    )


@jit
def encode(raw: Floats, active: int, seen: Array) -> None:
    """Fill `seen` [ENTRIES + presets] from raw values [SIGNALS] and the preset in force."""
    slo_ms = raw[Signal.SLO_MS]
    for k in range(ENTRIES):
        seen[k] = raw[k]
    for k in range(_COUNTS):
        seen[k] = np.log1p(raw[k])
    seen[Signal.HEAD_SLACK_MS] = min(10.0, max(-10.0, raw[Signal.HEAD_SLACK_MS] / slo_ms))
    seen[Signal.SERVED_PER_S] = np.log1p(raw[Signal.SERVED_PER_S])
    seen[Signal.P50_MS] = min(10.0, raw[Signal.P50_MS] / slo_ms)
    seen[Signal.P99_MS] = min(10.0, raw[Signal.P99_MS] / slo_ms)
    seen[Signal.COST_RATIO_MEAN] = min(10.0, raw[Signal.COST_RATIO_MEAN])
    seen[Signal.COST_RATIO_MAX] = min(10.0, raw[Signal.COST_RATIO_MAX])
    seen[Signal.MEAN_LENGTH] = np.log1p(raw[Signal.MEAN_LENGTH])
    seen[Signal.WORKERS] = np.log(raw[Signal.WORKERS])
    seen[Signal.SLO_MS] = np.log(slo_ms)
    seen[Signal.ENDED] = 1.0 if raw[Signal.ENDED] > 0.0 else 0.0
    seen[Signal.BATCHES] = 1.0 if raw[Signal.BATCHES] > 0.0 else 0.0
    seen[Signal.CORRECTION] = min(10.0, max(-10.0, np.log(raw[Signal.CORRECTION])))
    seen[Signal.SWITCH_MS] = min(10.0, raw[Signal.SWITCH_MS] / slo_ms)
    seen[Signal.LOAD_MS] = min(10.0, raw[Signal.LOAD_MS] / slo_ms)
    seen[Signal.BALANCE] = np.log1p(raw[Signal.BALANCE])
    seen[Signal.MOVED_MIB] = np.log1p(raw[Signal.MOVED_MIB])
    for k in range(ENTRIES, seen.shape[0]):
        seen[k] = 0.0
    seen[ENTRIES + active] = 1.0


def observe(signals: Signals, active: int, presets: int = len(PRESETS)) -> Array:
    """What a tactical policy sees, float32 [48 + presets]; the gym's and the live one alike.

    Counts, rates, MiB and balance as log(1 + x), times over the SLO within [-10, 10], cost ratios
    at most 10, `active` (index of the preset in force) as one-hot. Names: `observation_names`.
    """
    counts = (*signals.arrivals_100ms, *signals.arrivals_10ms)
    raw = np.array((*counts, *_fields(signals)), np.float64)
    seen = np.empty(ENTRIES + presets, np.float32)
    encode(raw, active, seen)
    return seen
