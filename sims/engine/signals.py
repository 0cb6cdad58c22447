"""The raw values of a look at a simulated service, as the signals that a policy is asked with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.observation import Signal
from profiler.signals import Signals

__all__ = ["signals_of"]

_WHOLE = ("workers", "queue", "ended", "batches")


def signals_of(raw: NDArray[np.float64], at_s: float) -> Signals:
    """The live window's `Signals` from raw values [SIGNALS], as `observe.fill_signals` fills them,
    at a time in seconds. The inverse of what `policies.observe` begins with.

    >>> from policies.observation import SIGNALS
    >>> raw = np.zeros(SIGNALS)
    >>> raw[Signal.QUEUE] = 3.0
    >>> signals_of(raw, at_s=0.5).queue
    3
    """
    value = raw.tolist()
    told: dict[str, Any] = {signal.name.lower(): value[signal] for signal in Signal}
    told |= {name: int(told[name]) for name in _WHOLE}
    return Signals(
        at_s=at_s,
        arrivals_100ms=tuple(int(v) for v in value[0:10]),
        arrivals_10ms=tuple(int(v) for v in value[10:20]),
        **told,
    )
