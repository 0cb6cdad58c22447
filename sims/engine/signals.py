"""The raw values of a look at a simulated service, as the signals that a policy is asked with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
from profiler.signals import Signals

__all__ = ["signals_of"]


def signals_of(raw: NDArray[np.float64], at_s: float) -> Signals:
    """The live window's `Signals` from raw values [SEEN], as `observe.look` fills them, at a
    time in seconds. The inverse of what `policies.observe` begins with.

    >>> from policies.observation import SEEN, V_QUEUE
    >>> raw = np.zeros(SEEN)
    >>> raw[V_QUEUE] = 3.0
    >>> signals_of(raw, at_s=0.5).queue
    3
    """
    value = raw.tolist()
    return Signals(
        at_s=at_s,
        slo_ms=value[V_SLO_MS],
        workers=int(value[V_WORKERS]),
        arrival_per_s=value[V_ARRIVAL_PER_S],
        arrivals_100ms=tuple(int(v) for v in value[0:10]),
        arrivals_10ms=tuple(int(v) for v in value[10:20]),
        burstiness=value[V_BURSTINESS],
        queue=int(value[V_QUEUE]),
        head_slack_ms=value[V_HEAD_SLACK_MS],
        busy_share=value[V_BUSY_SHARE],
        served_per_s=value[V_SERVED_PER_S],
        met_ratio=value[V_MET],
        refused_ratio=value[V_REFUSED],
        p50_ms=value[V_P50_MS],
        p99_ms=value[V_P99_MS],
        cost_ratio_mean=value[V_RATIO_MEAN],
        cost_ratio_max=value[V_RATIO_MAX],
        mean_length=value[V_MEAN_LENGTH],
        padded_ratio=value[V_PADDED],
        ended=int(value[V_ENDED]),
        batches=int(value[V_BATCHES]),
        worth_ratio=value[V_WORTH],
        correction=value[V_CORRECTION],
        switch_ms=value[V_SWITCH_MS],
        unevenness=value[V_UNEVENNESS],
        load_ms=value[V_LOAD_MS],
        held_ratio=value[V_HELD],
        balance=value[V_BALANCE],
        memory_share=value[V_MEMORY],
        moved_mib=value[V_MOVED_MIB],
        fused=value[V_FUSED],
    )
