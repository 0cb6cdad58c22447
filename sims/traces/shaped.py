"""Traffic whose rate follows a shape known beforehand: steps, ramps, days and flash crowds."""

from __future__ import annotations

import numpy as np

from sims.traces.intensity import Floats, Intensity
from sims.traces.lengths import Lengths
from sims.traces.rules import at_least, fractions, positive
from sims.traces.trace import Trace, drawn_trace

__all__ = ["diurnal", "flash_crowd", "ramp_surge", "surge"]

CHORDS_PER_PERIOD = 360  # straight lines within 4e-5 of the sinusoid's amplitude
CHORDS_PER_DECAY = 50  # straight lines within 5e-5 of the exponential's value
DECAYS = 20.0  # after that many time constants 2e-9 of the peak is left: none


def surge(
    base_per_s: float,
    peak_per_s: float,
    seconds: float,
    *,
    seed: int,
    start: float = 0.25,
    stop: float = 0.75,
    lengths: Lengths | None = None,
    name: str = "surge",
) -> Trace:
    """Poisson arrivals at `base_per_s`, at `peak_per_s` within [start, stop) of the time.

    >>> step = surge(100.0, 5000.0, 10.0, seed=0, start=0.5, stop=1.0)  # up, and it stays
    >>> len(step.head(5.0)) < 600, len(step.window(5.0, 10.0)) > 24_000
    (True, True)
    """
    positive(base_per_s=base_per_s, peak_per_s=peak_per_s, seconds=seconds)
    fractions(start, stop)
    rng = np.random.default_rng(seed)
    edges = [0.0, start * seconds, stop * seconds, seconds]
    pieces = [
        np.sort(rng.uniform(low, high, rng.poisson(rate * (high - low))))
        for low, high, rate in zip(
            edges, edges[1:], (base_per_s, peak_per_s, base_per_s), strict=False
        )
    ]
    return drawn_trace(np.concatenate(pieces), rng, lengths, name, seed)


def ramp_surge(
    base_per_s: float,
    peak_per_s: float,
    seconds: float,
    *,
    seed: int,
    start: float = 0.25,
    stop: float = 0.75,
    ramp_s: float = 1.0,
    lengths: Lengths | None = None,
) -> Trace:
    """A surge that takes `ramp_s` to rise and as long to fall, both in a straight line.

    It begins to rise at `start` of the time and to fall at `stop`; a fall that would outlast the
    trace is cut. Not from a paper: the trapezoid that load generators offer beside the step.

    >>> trace = ramp_surge(100.0, 5000.0, 20.0, seed=0, ramp_s=2.0)
    >>> 90 < trace.head(5.0).rate_per_s < 110, 4900 < len(trace.window(8.0, 9.0)) < 5100
    (True, True)
    """
    positive(base_per_s=base_per_s, peak_per_s=peak_per_s, seconds=seconds, ramp_s=ramp_s)
    fractions(start, stop)
    rise_s, fall_s = start * seconds, stop * seconds
    if rise_s + ramp_s > fall_s:
        raise ValueError(
            f"ramp_s must be at most the {fall_s - rise_s:g} s between start and stop, got {ramp_s}"
        )
    knots = np.array([0.0, rise_s, rise_s + ramp_s, fall_s, fall_s + ramp_s])
    rates = np.array([base_per_s, base_per_s, peak_per_s, peak_per_s, base_per_s])
    return _drawn(_until(seconds, knots, rates), seed, lengths, "ramp-surge")


def flash_crowd(
    rate_per_s: float,
    seconds: float,
    *,
    seed: int,
    start: float = 0.25,
    peak: float = 10.0,
    rise_s: float = 1.0,
    decay_s: float = 10.0,
    lengths: Lengths | None = None,
) -> Trace:
    """A base rate, at `start` of the time a rise to `peak` times it, then exponential decay back.

    The rise is a straight line of `rise_s`; then rate = base (1 + (peak - 1) exp(-t / decay_s)).
    The base is such that the mean over the trace is `rate_per_s`; what would fall after the end
    is cut. For what flash crowds are: Jung, Krishnamurthy and Rabinovich, Flash Crowds and Denial
    of Service Attacks, WWW 2002. That the decay is exponential is this function's choice.

    >>> trace = flash_crowd(100.0, 60.0, seed=0)
    >>> len(trace.window(16.0, 17.0)) > 5 * len(trace.window(14.0, 15.0))
    True
    """
    positive(rate_per_s=rate_per_s, seconds=seconds, rise_s=rise_s, decay_s=decay_s)
    at_least(1.0, peak=peak)
    if not 0.0 <= start < 1.0:
        raise ValueError(f"start must satisfy 0 <= start < 1, got {start}")
    since = np.arange(0.0, DECAYS, 1.0 / CHORDS_PER_DECAY)
    at_peak_s = start * seconds + rise_s
    knots = np.concatenate([[0.0, start * seconds], at_peak_s + since * decay_s])
    rates = np.concatenate([[1.0, 1.0], 1.0 + (peak - 1.0) * np.exp(-since)])
    shape = _until(seconds, knots, rates).with_mean(rate_per_s)
    return _drawn(shape, seed, lengths, "flash-crowd")


def diurnal(
    rate_per_s: float,
    seconds: float,
    *,
    seed: int,
    period_s: float | None = None,
    peak_to_trough: float = 3.0,
    lengths: Lengths | None = None,
) -> Trace:
    """Poisson arrivals at a sinusoidal rate, which starts and ends each period at its trough.

    rate = rate_per_s (1 - a cos(2 pi t / period_s)), a = (peak_to_trough - 1) / (peak_to_trough +
    1), so `rate_per_s` is the mean over each whole period. Default: the trace is one period. As
    in Eick, Massey and Whitt, M_t/G/infinity Queues with Sinusoidal Arrival Rates, Management
    Science 39 (1993).

    >>> trace = diurnal(100.0, 60.0, seed=0, peak_to_trough=9.0)
    >>> len(trace.window(25.0, 35.0)) > 4 * len(trace.head(10.0))
    True
    """
    period_s = seconds if period_s is None else period_s
    positive(rate_per_s=rate_per_s, seconds=seconds, period_s=period_s)
    at_least(1.0, peak_to_trough=peak_to_trough)
    swing = (peak_to_trough - 1.0) / (peak_to_trough + 1.0)
    chords = int(np.ceil(seconds / period_s * CHORDS_PER_PERIOD)) + 1
    turns = np.arange(chords + 1) / CHORDS_PER_PERIOD
    rates = rate_per_s * (1.0 - swing * np.cos(2.0 * np.pi * turns))
    return _drawn(_until(seconds, turns * period_s, rates), seed, lengths, "diurnal")


def _until(seconds: float, knots_s: Floats, rates_per_s: Floats) -> Intensity:
    """Straight lines through the knots up to `seconds`, the last rate held where knots end."""
    kept = knots_s < seconds
    knots = np.append(knots_s[kept], seconds)
    last = np.interp(seconds, knots_s, rates_per_s)
    return Intensity.through(knots, np.append(rates_per_s[kept], last))


def _drawn(shape: Intensity, seed: int, lengths: Lengths | None, name: str) -> Trace:
    rng = np.random.default_rng(seed)
    return drawn_trace(shape.arrivals(rng), rng, lengths, name, seed)
