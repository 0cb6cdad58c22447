"""Traffic of late, and how far costs were from what was predicted: food for the twin."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sims.traces import Trace

__all__ = ["Traffic"]

HORIZON_S = 900.0
MAX_ARRIVALS = 200_000
MAX_RATIOS = 4096
MAX_LATENCIES = 8192
LEAST_RATIOS = 256


class Traffic:
    """The arrivals of the last quarter of an hour and the costs of the last batches.

    Appending is one operation on a deque, so request path and tick need no lock.

    >>> traffic = Traffic(clock_s=lambda: 10.0)
    >>> traffic.arrived(at_s=9.0, length=12)
    >>> traffic.arrived(at_s=9.5, length=3)
    >>> traffic.trace().arrivals_s.tolist()
    [0.0, 0.5]
    """

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._arrivals: deque[tuple[float, int]] = deque(maxlen=MAX_ARRIVALS)
        self._ratios: deque[tuple[float, float]] = deque(maxlen=MAX_RATIOS)
        self._latencies_ms: deque[tuple[float, float]] = deque(maxlen=MAX_LATENCIES)

    def __len__(self) -> int:
        return len(self._arrivals)

    def arrived(self, at_s: float, length: int) -> None:
        """A request of that length came at that time."""
        self._arrivals.append((at_s, length))

    def record_batch(self, ratio: float) -> None:
        """A batch cost so many times what was predicted."""
        if 0.0 < ratio < np.inf:
            self._ratios.append((self._clock_s(), ratio))

    def ended(self, latency_ms: float) -> None:
        """A request was answered so long after it came."""
        self._latencies_ms.append((self._clock_s(), latency_ms))

    def trace(self) -> Trace:
        """The arrivals, the first one at 0 s. Raises `NoArrivals` where there were none."""
        from sims.traces import Trace

        since_s = self._clock_s() - HORIZON_S
        recent = sorted(item for item in self._arrivals.copy() if item[0] >= since_s)
        times = np.array([at_s for at_s, _ in recent], np.float64)
        lengths = np.array([max(1, length) for _, length in recent], np.int32)
        return Trace(times - times[0] if times.size else times, lengths, "traffic")

    def ratios(self, seconds: float) -> NDArray[np.float64]:
        """Observed / predicted cost of the batches of the last `seconds` before the last one, and
        of earlier ones where those are fewer than `LEAST_RATIOS`, [B].

        Under another load costs scatter otherwise: the cores are shared with whoever sends.
        """
        batches = list(self._ratios.copy())
        since_s = batches[-1][0] - seconds if batches else 0.0
        recent = sum(at_s >= since_s for at_s, _ in batches)
        return np.array([ratio for _, ratio in batches[-max(recent, LEAST_RATIOS) :]], np.float64)

    def latencies_ms(self, seconds: float) -> NDArray[np.float64]:
        """Of the answers of the last `seconds` before the last one, [A]."""
        answers = list(self._latencies_ms.copy())
        since_s = answers[-1][0] - seconds if answers else 0.0
        return np.array([latency for at_s, latency in answers if at_s >= since_s], np.float64)
