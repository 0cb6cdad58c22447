"""Request arrivals and lengths, seeded or recorded: what a simulated fleet has to face.

Every generator is a pure function of its arguments and its seed.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Trace",
    "bursty",
    "natural_lengths",
    "poisson",
    "recorded",
    "surge",
]

Floats = NDArray[np.float64]

_TIME_COLUMNS = ("timestamp", "time", "arrival", "arrival_s", "arrived_at", "ts", "datetime")
_LENGTH_COLUMNS = ("contexttokens", "length", "tokens", "input_length", "input_tokens")


@dataclass(frozen=True)
class Trace:
    """When requests arrive and how long they are.

    `arrivals_s`: float64 [N] >= 0, ascending (equal times are a batch of arrivals). `lengths`:
    int32 [N] >= 1, units of the model's length axis (1 where it has none). `name`, `seed`: where
    it came from; seed -1 for recorded ones.

    >>> Trace(np.array([0.0, 0.5]), np.array([3, 9], np.int32), "two", seed=0).rate_per_s
    4.0
    """

    arrivals_s: Floats
    lengths: NDArray[np.int32]
    name: str
    seed: int = -1

    def __post_init__(self) -> None:
        times, lengths = self.arrivals_s, self.lengths
        if times.ndim != 1 or times.dtype != np.float64:
            raise ValueError(
                f"arrivals_s must be float64 [N], got {times.dtype} of shape {times.shape}"
            )
        if times.size == 0:
            raise ValueError("arrivals_s must hold at least one arrival, got none")
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
        """The same shape at another mean rate (time is stretched)."""
        if not (math.isfinite(rate_per_s) and rate_per_s > 0):
            raise ValueError(f"rate_per_s must be finite and greater than 0, got {rate_per_s}")
        if self.seconds == 0:
            raise ValueError("rescaled must have arrivals at more than one time, got all at 0 s")
        stretched = self.arrivals_s * (self.rate_per_s / rate_per_s)
        return replace(self, arrivals_s=stretched, name=f"{self.name}@{rate_per_s:g}/s")

    def head(self, seconds: float) -> Trace:
        """The arrivals before `seconds`; a ValueError when there are none."""
        keep = int(np.searchsorted(self.arrivals_s, seconds, side="left"))
        return replace(self, arrivals_s=self.arrivals_s[:keep], lengths=self.lengths[:keep])


def natural_lengths(
    count: int,
    rng: np.random.Generator,
    *,
    median: float = 17.0,
    p95: float = 51.0,
    longest: int = 280,
) -> NDArray[np.int32]:
    """Lengths of natural text, int32 [count]: log-normal through median and p95, in 1..longest.

    The defaults are English sentences of technical documentation in word pieces: mean about 22.
    """
    if count < 0:
        raise ValueError(f"count must be at least 0, got {count}")
    if not 1 <= median < p95 <= longest:
        raise ValueError(
            f"median, p95 and longest must satisfy 1 <= median < p95 <= longest, "
            f"got {median}, {p95}, {longest}"
        )
    sigma = math.log(p95 / median) / 1.6448536  # the standard normal's 95 % point
    drawn = np.rint(rng.lognormal(math.log(median), sigma, count))
    return np.clip(drawn, 1, longest).astype(np.int32)


def poisson(
    rate_per_s: float, seconds: float, *, seed: int, lengths: NDArray[np.int32] | None = None
) -> Trace:
    """Independent arrivals at a constant mean rate.

    `lengths`: a pool drawn from with replacement; default `natural_lengths`.
    """
    return surge(rate_per_s, rate_per_s, seconds, seed=seed, lengths=lengths, name="poisson")


def surge(
    base_per_s: float,
    peak_per_s: float,
    seconds: float,
    *,
    seed: int,
    start: float = 0.25,
    stop: float = 0.75,
    lengths: NDArray[np.int32] | None = None,
    name: str = "surge",
) -> Trace:
    """Poisson arrivals at `base_per_s`, at `peak_per_s` within [start, stop) of the time."""
    _positive(base_per_s=base_per_s, peak_per_s=peak_per_s, seconds=seconds)
    if not 0.0 <= start <= stop <= 1.0:
        raise ValueError(
            f"start and stop must satisfy 0 <= start <= stop <= 1, got {start}, {stop}"
        )
    rng = np.random.default_rng(seed)
    edges = [0.0, start * seconds, stop * seconds, seconds]
    pieces = [
        np.sort(rng.uniform(low, high, rng.poisson(rate * (high - low))))
        for low, high, rate in zip(
            edges, edges[1:], (base_per_s, peak_per_s, base_per_s), strict=False
        )
    ]
    return _trace(np.concatenate(pieces), rng, lengths, name, seed)


def bursty(
    rate_per_s: float,
    seconds: float,
    *,
    cv2: float,
    seed: int,
    lengths: NDArray[np.int32] | None = None,
) -> Trace:
    """Arrivals whose gaps are Gamma distributed with squared coefficient of variation `cv2`.

    `cv2` = 1 is Poisson; production traces lie between 1 and about 50.
    """
    _positive(rate_per_s=rate_per_s, seconds=seconds, cv2=cv2)
    rng = np.random.default_rng(seed)
    times = np.empty(0)
    end = 0.0
    while end < seconds:
        gaps = rng.gamma(1.0 / cv2, cv2 / rate_per_s, max(64, int(rate_per_s * seconds * 1.1)))
        times = np.concatenate([times, end + np.cumsum(gaps)])
        end = float(times[-1])
    return _trace(times[times < seconds], rng, lengths, f"gamma-cv2-{cv2:g}", seed)


def recorded(path: str | Path, *, lengths: NDArray[np.int32] | None = None, seed: int = 0) -> Trace:
    """Arrivals from a CSV file with a header and a timestamp column, the first one at 0 s.

    Reads the Azure LLM inference traces as published (TIMESTAMP, ContextTokens, ...) and any CSV
    with a column of seconds or ISO-8601 times under a usual name. Lengths come from a column of
    theirs, else are drawn from `lengths` or `natural_lengths`. Arrivals must be in order.
    """
    source = Path(path)
    with source.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        header = [name.strip().lower() for name in next(reader, [])]
        when = _column(header, _TIME_COLUMNS)
        if when is None:
            raise ValueError(
                f"{source.name}: the header must name a time column, one of "
                f"{', '.join(_TIME_COLUMNS)}, got {header}"
            )
        size = _column(header, _LENGTH_COLUMNS)
        rows = [(reader.line_num, row) for row in reader if row]
    times = np.array([_seconds(row, when, f"{source.name}:{line}") for line, row in rows])
    if times.size == 0:
        raise ValueError(f"{source.name}: must hold at least one arrival, got none")
    if not np.isfinite(times).all():
        at = int(np.flatnonzero(~np.isfinite(times))[0])
        raise ValueError(f"{source.name}:{rows[at][0]}: the time must be finite, got {times[at]}")
    times -= times[0]
    if size is None:
        return _trace(times, np.random.default_rng(seed), lengths, source.stem, seed)
    counts = np.array([_count(row, size, f"{source.name}:{line}") for line, row in rows], np.int32)
    return Trace(times, counts, source.stem)


def _trace(
    times: Floats,
    rng: np.random.Generator,
    pool: NDArray[np.int32] | None,
    name: str,
    seed: int,
) -> Trace:
    if pool is None:
        lengths = natural_lengths(times.size, rng)
    else:
        if pool.size == 0:
            raise ValueError("lengths must hold at least one length to draw from, got none")
        lengths = rng.choice(pool, times.size).astype(np.int32)
    return Trace(times, lengths, name, seed)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be finite and greater than 0, got {value}")


def _column(header: list[str], names: tuple[str, ...]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _seconds(row: list[str], column: int, where: str) -> float:
    text = row[column].strip() if column < len(row) else ""
    try:
        return float(text)
    except ValueError:
        pass
    try:  # fromisoformat takes at most 6 decimals before Python 3.11; the Azure files have 7
        stamp = datetime.fromisoformat(text[:26].replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(
            f"{where}: the time must be seconds or an ISO-8601 time, got {text!r}"
        ) from None
    if stamp.tzinfo is None:
        stamp = stamp.replace(tzinfo=timezone.utc)
    return stamp.timestamp()


def _count(row: list[str], column: int, where: str) -> int:
    text = row[column].strip() if column < len(row) else ""
    if not text.isdigit():
        raise ValueError(f"{where}: the length must be a whole number, got {text!r}")
    return max(1, int(text))
