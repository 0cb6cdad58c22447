"""Traffic that changes its kind: one regime for a random while, then another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from sims.traces.intensity import Intensity
from sims.traces.lengths import Lengths
from sims.traces.modulated import microburst, mmpp
from sims.traces.rules import positive
from sims.traces.steady import inhomogeneous, poisson
from sims.traces.trace import NoArrivals, Trace

__all__ = ["Regime", "switching"]


class Regime(Protocol):
    """A kind of traffic: `poisson`, `mmpp`, `diurnal`, `flash_crowd`, `microburst`, or a partial.

    >>> from functools import partial
    >>> from sims.traces import bursty
    >>> very_bursty: Regime = partial(bursty, cv2=20.0)
    """

    def __call__(
        self, rate_per_s: float, seconds: float, *, seed: int, lengths: Lengths | None = None
    ) -> Trace: ...


def clumped(
    rate_per_s: float, seconds: float, *, seed: int, lengths: Lengths | None = None
) -> Trace:
    """Gamma gaps of squared CV 8; unlike `bursty` at its mean rate from the first moment on."""
    flat = Intensity.steps([0.0, seconds], [rate_per_s])
    return inhomogeneous(flat, seed=seed, cv2=8.0, lengths=lengths)


def switching(
    rate_per_s: float,
    seconds: float,
    *,
    seed: int,
    regimes: Sequence[Regime] = (poisson, clumped, mmpp, microburst),
    dwell_s: float = 10.0,
    lengths: Lengths | None = None,
) -> Trace:
    """Pieces of different regimes one after the other, each for an exponential time.

    Each piece is drawn afresh at mean `rate_per_s` and lasts `dwell_s` on average; the next
    regime is any of the others with equal chance. A regime may scale the rate it is given, then
    the mean shifts accordingly. The discrete, observable sibling of regime-switching time series:
    Hamilton, A New Approach to the Economic Analysis of Nonstationary Time Series and the
    Business Cycle, Econometrica 57 (1989).

    >>> abs(len(switching(100.0, 600.0, seed=0)) - 60_000) < 9_000
    True
    """
    positive(rate_per_s=rate_per_s, seconds=seconds, dwell_s=dwell_s)
    if len(regimes) < 2:
        raise ValueError(f"regimes must hold two or more, got {len(regimes)}")
    rng = np.random.default_rng(seed)
    pieces: list[Trace] = []
    starts: list[float] = []
    at, start_s = int(rng.integers(len(regimes))), 0.0
    while start_s < seconds:
        last_s = min(float(rng.exponential(dwell_s)), seconds - start_s)
        own = int(rng.integers(2**62))
        try:
            pieces.append(regimes[at](rate_per_s, last_s, seed=own, lengths=lengths))
            starts.append(start_s)
        except NoArrivals:  # a short stay in which nobody came
            pass
        start_s += last_s
        at = (at + int(rng.integers(1, len(regimes)))) % len(regimes)
    if not pieces:
        raise NoArrivals("arrivals_s must hold at least one arrival, got none")
    times = [begin + piece.arrivals_s for begin, piece in zip(starts, pieces, strict=True)]
    return Trace(
        np.maximum.accumulate(np.concatenate(times)),  # rounding at a seam: one ulp
        np.concatenate([piece.lengths for piece in pieces]),
        "switching",
        seed,
    )
