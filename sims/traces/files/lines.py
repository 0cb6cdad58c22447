"""Parts all readers of recorded traffic share: lines one at a time, and batches of arrivals."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

from sims.traces.intensity import Floats
from sims.traces.lengths import Lengths
from sims.traces.rules import at_least, positive

__all__ = ["CHUNK_LINES", "ArrivalChunk", "Reading", "lines", "moment", "whole_number"]

CHUNK_LINES = 4096  # enough for numpy to pay off, little beside what a program holds anyway
LONGEST = 2**31 - 1  # lengths are int32


class ArrivalChunk(NamedTuple):
    """Some consecutive arrivals of a file: float64 [N] ascending, int32 [N] where it has lengths.

    `drawn`: the file holds only roughly when they came, the rest is random.
    """

    times_s: Floats
    lengths: Lengths | None
    drawn: bool = False


@dataclass(frozen=True)
class Reading:
    """How a file is read. What each means is told at `sims.traces.recorded`."""

    seed: int
    start_s: float
    seconds: float | None
    gap_s: float
    quantum_s: float

    def __post_init__(self) -> None:
        at_least(0.0, start_s=self.start_s, quantum_s=self.quantum_s)
        if self.seconds is not None:
            positive(seconds=self.seconds)
        if not self.gap_s > 0:
            raise ValueError(f"gap_s must be greater than 0 (inf: keep all), got {self.gap_s}")

    @property
    def stop_s(self) -> float:
        return math.inf if self.seconds is None else self.start_s + self.seconds


def lines(source: Path) -> Iterator[str]:
    """The file's lines as they are needed, unpacked when its name ends in .gz."""
    with _opened(source) as file:
        try:
            yield from file
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{source.name}: must be a whole gzip file, got {error}") from None


def _opened(source: Path) -> TextIO:
    # A byte that is not UTF-8 shows up in the error about its field, with file and line.
    if source.suffix == ".gz":
        return gzip.open(source, "rt", encoding="utf-8-sig", errors="replace", newline="")
    return source.open(encoding="utf-8-sig", errors="replace", newline="")


def moment(time_s: float, last_s: float, where: str) -> float:
    """`time_s` when it may follow `last_s`; `where` is file:line."""
    if not math.isfinite(time_s):
        raise ValueError(f"{where}: the time must be finite, got {time_s}")
    if time_s < 0:
        raise ValueError(f"{where}: the time must be at least 0, got {time_s}")
    if time_s < last_s:
        raise ValueError(
            f"{where}: the time must be ascending, got {time_s} after {last_s}; sort the file first"
        )
    return time_s


def whole_number(text: str, what: str, where: str, most: int = LONGEST) -> int:
    """A number written in digits only, at most `most`."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{where}: the {what} must be a whole number, got {text[:40]!r}")
    if len(text) > 18 or int(text) > most:
        raise ValueError(f"{where}: the {what} must be at most {most}, got {text[:40]}")
    return int(text)
