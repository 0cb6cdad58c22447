"""Traffic whose rate is itself random: doubly stochastic (Cox) processes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sims.traces.intensity import Floats, Intensity
from sims.traces.lengths import Lengths
from sims.traces.rules import at_least, positive
from sims.traces.trace import NoArrivals, Trace, drawn_trace

__all__ = ["microburst", "mmpp"]

States = NDArray[np.int64]


def mmpp(
    rate_per_s: float,
    seconds: float,
    *,
    seed: int,
    ratios: Sequence[float] = (1.0, 10.0),
    dwell_s: Sequence[float] = (9.0, 1.0),
    lengths: Lengths | None = None,
) -> Trace:
    """Markov-modulated Poisson process: Poisson at a rate that jumps between hidden states.

    `ratios`: the states' rates relative to each other, two or more, 0 for a silent state.
    `dwell_s`: the mean of the exponential time in each state; the next one is any of the others
    with equal chance. The chain starts in its stationary state (shares proportional to
    `dwell_s`), so `rate_per_s` is the expected rate at all times. Fischer and Meier-Hellstern,
    The Markov-modulated Poisson process (MMPP) cookbook, Performance Evaluation 18 (1993).

    >>> abs(len(mmpp(100.0, 600.0, seed=0)) - 60_000) < 20_000
    True
    """
    positive(rate_per_s=rate_per_s, seconds=seconds)
    rates, dwell = np.array(ratios, np.float64), np.array(dwell_s, np.float64)
    if rates.ndim != 1 or rates.size < 2 or rates.shape != dwell.shape:
        raise ValueError(
            f"ratios and dwell_s must have one entry per state, two or more, "
            f"got {tuple(ratios)} and {tuple(dwell_s)}"
        )
    for ratio, mean_s in zip(ratios, dwell_s, strict=True):
        at_least(0.0, ratios=ratio)
        positive(dwell_s=mean_s)
    if not rates.any():
        raise ValueError(f"ratios must hold one greater than 0, got {tuple(ratios)}")
    share = dwell / dwell.sum()
    rng = np.random.default_rng(seed)
    edges, states = _stays(seconds, dwell, share, rng)
    in_state = rates[states] * (rate_per_s / float(share @ rates))
    return _drawn(edges, in_state, rng, lengths, f"mmpp-{rates.size}", seed)


def microburst(
    rate_per_s: float,
    seconds: float,
    *,
    seed: int,
    bursts_per_s: float = 1.0,
    burst_ms: tuple[float, float] = (20.0, 50.0),
    peak: float = 20.0,
    lengths: Lengths | None = None,
) -> Trace:
    """A Poisson base with short dense bursts in it, at `peak` times the base rate.

    Bursts begin as a Poisson process of `bursts_per_s`, last a uniform time in `burst_ms`, and
    add up where they overlap; the base is such that `rate_per_s` is the expected rate at all
    times. A shot-noise Cox process: Cox and Isham, Point Processes (1980). The word is from
    networks, where bursts are shorter still: Zhang, Liu, Zeng and Krishnamurthy, High-Resolution
    Measurement of Data Center Microbursts, IMC 2017.

    >>> abs(len(microburst(100.0, 60.0, seed=0)) - 6_000) < 600
    True
    """
    positive(rate_per_s=rate_per_s, seconds=seconds, bursts_per_s=bursts_per_s)
    at_least(1.0, peak=peak)
    shortest_s, longest_s = burst_ms[0] / 1e3, burst_ms[1] / 1e3
    if not 0.0 < shortest_s <= longest_s < float("inf"):
        raise ValueError(
            f"burst_ms must satisfy 0 < shortest <= longest, finite, got {tuple(burst_ms)}"
        )
    rng = np.random.default_rng(seed)
    # Bursts that began before 0 may still last: without them the start would be too quiet.
    count = rng.poisson(bursts_per_s * (seconds + longest_s))
    begin = rng.uniform(-longest_s, seconds, count)
    end = begin + rng.uniform(shortest_s, longest_s, count)
    edges = np.unique(np.concatenate([[0.0, seconds], begin, end]).clip(0.0, seconds))
    begun = np.searchsorted(np.sort(begin), edges[:-1], side="right")
    ended = np.searchsorted(np.sort(end), edges[:-1], side="right")
    mean_s = 0.5 * (shortest_s + longest_s)
    base_per_s = rate_per_s / (1.0 + (peak - 1.0) * bursts_per_s * mean_s)
    rates = base_per_s * (1.0 + (peak - 1.0) * (begun - ended).astype(np.float64))
    return _drawn(edges, rates, rng, lengths, "microburst", seed)


def _stays(
    seconds: float, dwell_s: Floats, share: Floats, rng: np.random.Generator
) -> tuple[Floats, States]:
    """The chain's path over [0, seconds]: edges [P+1] and the state in each piece [P]."""
    k = dwell_s.size
    times: list[Floats] = []
    path: list[States] = []
    state, end = int(rng.choice(k, p=share)), 0.0
    while end < seconds:
        count = max(16, int(1.1 * (seconds - end) / dwell_s.mean()))
        hops = rng.integers(1, k, count)  # any other state is 1 .. k-1 states further round
        states = (state + np.concatenate([[0], np.cumsum(hops)])) % k
        stays = end + np.cumsum(rng.exponential(dwell_s[states[:-1]]))
        path.append(states[:-1])
        times.append(stays)
        state, end = int(states[-1]), float(stays[-1])
    edges = np.concatenate(times)
    pieces = int(np.searchsorted(edges, seconds, side="left")) + 1
    cut = np.concatenate([[0.0], edges[: pieces - 1], [seconds]])
    return cut, np.concatenate(path)[:pieces]


def _drawn(
    edges_s: Floats,
    rates_per_s: Floats,
    rng: np.random.Generator,
    lengths: Lengths | None,
    name: str,
    seed: int,
) -> Trace:
    if not rates_per_s.any():  # a short trace may fall into a silent state as a whole
        raise NoArrivals("arrivals_s must hold at least one arrival, got none")
    times = Intensity.steps(edges_s, rates_per_s).arrivals(rng)
    return drawn_trace(times, rng, lengths, name, seed)
