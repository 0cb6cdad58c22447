"""Traffic with one mean rate, regular or bursty; and any rate over time that one writes down."""

from __future__ import annotations

import numpy as np

from sims.traces.intensity import Intensity
from sims.traces.lengths import Lengths
from sims.traces.rules import positive
from sims.traces.shaped import surge
from sims.traces.trace import Trace, drawn_trace

__all__ = ["bursty", "inhomogeneous", "poisson"]


def poisson(
    rate_per_s: float, seconds: float, *, seed: int, lengths: Lengths | None = None
) -> Trace:
    """Independent arrivals at a constant mean rate.

    `lengths`: a pool drawn from with replacement; default `natural_lengths`.

    >>> abs(len(poisson(100.0, 10.0, seed=0)) - 1000) < 120
    True
    """
    positive(rate_per_s=rate_per_s, seconds=seconds)
    return surge(rate_per_s, rate_per_s, seconds, seed=seed, lengths=lengths, name="poisson")


def bursty(
    rate_per_s: float,
    seconds: float,
    *,
    cv2: float,
    seed: int,
    lengths: Lengths | None = None,
) -> Trace:
    """Arrivals whose gaps are Gamma distributed with squared coefficient of variation `cv2`.

    `cv2` = 1 is Poisson; production traces lie between 1 and about 50. The first gap starts at 0,
    which adds about (cv2 - 1) / 2 arrivals to the mean count: little, unless these are few.

    >>> abs(len(bursty(100.0, 10.0, cv2=4.0, seed=0)) - 1000) < 250
    True
    """
    positive(rate_per_s=rate_per_s, seconds=seconds, cv2=cv2)
    rng = np.random.default_rng(seed)
    times = np.empty(0)
    end = 0.0
    while end < seconds:
        gaps = rng.gamma(1.0 / cv2, cv2 / rate_per_s, max(64, int(rate_per_s * seconds * 1.1)))
        times = np.concatenate([times, end + np.cumsum(gaps)])
        end = float(times[-1])
    return drawn_trace(times[times < seconds], rng, lengths, f"gamma-cv2-{cv2:g}", seed)


def inhomogeneous(
    intensity: Intensity,
    *,
    seed: int,
    cv2: float = 1.0,
    lengths: Lengths | None = None,
    name: str = "inhomogeneous",
) -> Trace:
    """Arrivals at a rate that changes over time: Poisson, or Gamma where `cv2` is not 1.

    >>> step = Intensity.steps([0, 5, 10], [100, 5000])
    >>> abs(len(inhomogeneous(step, seed=0)) - 25_500) < 640
    True
    """
    positive(cv2=cv2)
    rng = np.random.default_rng(seed)
    return drawn_trace(intensity.arrivals(rng, cv2=cv2), rng, lengths, name, seed)
