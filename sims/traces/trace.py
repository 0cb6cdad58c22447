"""The trace itself: checked when made, never edited, composed by making new ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from sims.traces.intensity import Floats, Intensity
from sims.traces.lengths import Lengths, drawn_lengths
from sims.traces.rules import positive

__all__ = ["NoArrivals", "Trace", "drawn_trace"]


class NoArrivals(ValueError):
    """A trace would hold no arrivals: too short a time, too low a rate, or an empty window.

    >>> issubclass(NoArrivals, ValueError)
    True
    """


@dataclass(frozen=True)
class Trace:
    """When requests arrive and how long they are.

    `arrivals_s`: float64 [N] >= 0, ascending (equal times are a batch of arrivals). `lengths`:
    int32 [N] >= 1, units of the model's length axis (1 where it has none). `name`, `seed`: where
    it came from; seed -1 for recorded ones. A composed trace keeps the seed of the one it was
    called on.

    >>> Trace(np.array([0.0, 0.5]), np.array([3, 9], np.int32), "two", seed=0).rate_per_s
    4.0
    """

    arrivals_s: Floats
    lengths: Lengths
    name: str
    seed: int = -1

    def __post_init__(self) -> None:
        times, lengths = self.arrivals_s, self.lengths
        if times.ndim != 1 or times.dtype != np.float64:
            raise ValueError(
                f"arrivals_s must be float64 [N], got {times.dtype} of shape {times.shape}"
            )
        if times.size == 0:
            raise NoArrivals("arrivals_s must hold at least one arrival, got none")
        if not np.isfinite(times).all():
            at = int(np.flatnonzero(~np.isfinite(times))[0])
            raise ValueError(f"arrivals_s must be finite, got {times[at]} at index {at}")
        if times[0] < 0:
            raise ValueError(f"arrivals_s must be at least 0, got {times[0]}; subtract the start")
        if (np.diff(times) < 0).any():
            at = int(np.flatnonzero(np.diff(times) < 0)[0]) + 1
            raise ValueError(
                f"arrivals_s must be ascending, got {times[at]} after {times[at - 1]} "
                f"at index {at}; sort the arrivals first"
            )
        if lengths.shape != times.shape or lengths.dtype != np.int32:
            raise ValueError(
                f"lengths must be int32 with one entry per arrival {times.shape}, "
                f"got {lengths.dtype} of shape {lengths.shape}"
            )
        if lengths.min() < 1:
            raise ValueError(f"lengths must be at least 1, got {int(lengths.min())}")

    def __len__(self) -> int:
        return int(self.arrivals_s.size)

    @property
    def seconds(self) -> float:
        """Time of the last arrival."""
        return float(self.arrivals_s[-1])

    @property
    def rate_per_s(self) -> float:
        """Mean arrivals per second from 0 to the last; inf when all arrive at 0."""
        return len(self) / self.seconds if self.seconds > 0 else math.inf

    def rescaled(self, rate_per_s: float) -> Trace:
        """The same shape at another mean rate (time is stretched).

        >>> two = Trace(np.array([1.0, 2.0]), np.ones(2, np.int32), "two")
        >>> two.rescaled(10.0).arrivals_s.tolist()
        [0.1, 0.2]
        """
        positive(rate_per_s=rate_per_s)
        self._has_duration("rescaled")
        stretched = self.arrivals_s * (self.rate_per_s / rate_per_s)
        return replace(self, arrivals_s=stretched, name=f"{self.name}@{rate_per_s:g}/s")

    def with_cv2(self, rate_per_s: float, cv2: float, *, seed: int, window_s: float = 1.0) -> Trace:
        """Other arrivals with this one's shape: a new mean rate and a new burstiness, same time.

        The share of arrivals that each window of `window_s` expects is kept; the gaps are drawn
        anew as a Gamma process of squared coefficient of variation `cv2` in units of expected
        arrivals (1: Poisson). Lengths are drawn from those of the same window. Scaling recorded
        traffic by rate x CV is done so in Li et al., AlpaServe, OSDI 2023 (there a Gamma process
        is fitted per window; here one process runs through all of them).

        >>> trace = Trace(np.arange(1.0, 1001.0), np.ones(1000, np.int32), "ticks")
        >>> bool(abs(trace.with_cv2(50.0, 4.0, seed=0).rate_per_s - 50) < 2)
        True
        """
        positive(rate_per_s=rate_per_s, cv2=cv2, window_s=window_s)
        self._has_duration("with_cv2")
        starts = np.arange(0.0, self.seconds, window_s)
        edges = np.append(starts[starts < self.seconds], self.seconds)
        counts, _ = np.histogram(self.arrivals_s, edges)
        shape = Intensity.steps(edges, counts / np.diff(edges)).with_mean(rate_per_s)
        rng = np.random.default_rng(seed)
        times = shape.arrivals(rng, cv2=cv2)
        window = np.minimum(np.searchsorted(edges, times, side="right") - 1, counts.size - 1)
        first = np.concatenate([[0], np.cumsum(counts)])[window]
        picked = first + (rng.random(times.size) * counts[window]).astype(np.int64)
        name = f"{self.name}@{rate_per_s:g}/s-cv2-{cv2:g}"
        return Trace(times, self.lengths[np.minimum(picked, len(self) - 1)], name, seed)

    def head(self, seconds: float) -> Trace:
        """The arrivals before `seconds`; a ValueError when there are none.

        >>> len(Trace(np.array([1.0, 2.0]), np.ones(2, np.int32), "two").head(2.0))
        1
        """
        keep = int(np.searchsorted(self.arrivals_s, seconds, side="left"))
        return replace(self, arrivals_s=self.arrivals_s[:keep], lengths=self.lengths[:keep])

    def window(self, start_s: float, stop_s: float) -> Trace:
        """The arrivals in [start_s, stop_s), with `start_s` as the new 0.

        >>> three = Trace(np.array([1.0, 2.0, 3.0]), np.ones(3, np.int32), "three")
        >>> three.window(1.5, 3.0).arrivals_s.tolist()
        [0.5]
        """
        if not 0.0 <= start_s < stop_s:
            raise ValueError(
                f"start_s and stop_s must satisfy 0 <= start_s < stop_s, got {start_s}, {stop_s}"
            )
        low, high = np.searchsorted(self.arrivals_s, [start_s, stop_s], side="left")
        times = self.arrivals_s[low:high] - start_s
        return replace(self, arrivals_s=times, lengths=self.lengths[low:high])

    def then(self, other: Trace, *, at_s: float | None = None) -> Trace:
        """This trace and after it `other`, whose 0 falls on `at_s`: by default the last arrival.

        >>> two = Trace(np.array([1.0, 2.0]), np.ones(2, np.int32), "two")
        >>> two.then(two).arrivals_s.tolist(), two.then(two, at_s=5.0).arrivals_s.tolist()
        ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 6.0, 7.0])
        """
        start_s = self.seconds if at_s is None else at_s
        if not (math.isfinite(start_s) and start_s >= self.seconds):
            raise ValueError(
                f"at_s must be finite and no earlier than the last arrival at {self.seconds} s, "
                f"got {start_s}; to overlap traces use merged"
            )
        return replace(
            self,
            arrivals_s=np.concatenate([self.arrivals_s, start_s + other.arrivals_s]),
            lengths=np.concatenate([self.lengths, other.lengths]),
            name=f"{self.name}, {other.name}",
        )

    def merged(self, other: Trace) -> Trace:
        """Both at once, on one clock; of equal times this one's arrivals come first.

        >>> two = Trace(np.array([1.0, 2.0]), np.ones(2, np.int32), "two")
        >>> two.merged(two).arrivals_s.tolist()
        [1.0, 1.0, 2.0, 2.0]
        """
        times = np.concatenate([self.arrivals_s, other.arrivals_s])
        order = np.argsort(times, kind="stable")
        lengths = np.concatenate([self.lengths, other.lengths])[order]
        name = f"{self.name} + {other.name}"
        return replace(self, arrivals_s=times[order], lengths=lengths, name=name)

    def _has_duration(self, verb: str) -> None:
        if self.seconds == 0:
            raise ValueError(f"{verb} must have arrivals at more than one time, got all at 0 s")


def drawn_trace(
    times: Floats, rng: np.random.Generator, pool: Lengths | None, name: str, seed: int
) -> Trace:
    """A trace whose lengths are drawn from `pool`, after its times, by the same `rng`."""
    return Trace(times, drawn_lengths(times.size, rng, pool), name, seed)
