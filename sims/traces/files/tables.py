"""CSV files with a header and a column of times.

As published by Azure (TIMESTAMP, ContextTokens, GeneratedTokens; Patel et al., Splitwise, ISCA
2024, https://github.com/Azure/AzurePublicDataset), or any with a usual name for the column.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from sims.traces.files.lines import CHUNK_LINES, ArrivalChunk, Reading, lines, moment, whole_number
from sims.traces.files.units import PER_S, TimeColumn

__all__ = ["table_batches"]

_TIME_COLUMNS = ("timestamp", "time", "arrival", "arrival_s", "arrived_at", "ts", "datetime")
_SAID = {f"{name}_{unit}": unit for name in _TIME_COLUMNS[:3] for unit in PER_S} | {
    f"ts_{unit}": unit for unit in PER_S
}
_LENGTH_COLUMNS = ("contexttokens", "length", "tokens", "input_length", "input_tokens")


def table_batches(source: Path, reading: Reading) -> Iterator[ArrivalChunk]:
    """The rows in order, the first one at 0 s. `reading` is not needed: nothing is drawn."""
    reader = csv.reader(lines(source))
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        when = _column(header, (*_TIME_COLUMNS, *_SAID))
        if when is None:
            raise ValueError(
                f"{source.name}: the header must name a time column, one of "
                f"{', '.join(_TIME_COLUMNS)}, or one that ends in its unit as time_ms, got {header}"
            )
        said = _SAID.get(header[when])
        column = _Times(TimeColumn(said or "s", is_said=said is not None))
        size = _column(header, _LENGTH_COLUMNS)
        first_s: float | None = None
        last_s = 0.0
        times: list[float] = []
        counts: list[int] = []
        for row in filter(None, reader):
            where = f"{source.name}:{reader.line_num}"
            last_s = moment(column.seconds(_field(row, when), where), last_s, where)
            first_s = last_s if first_s is None else first_s
            times.append(last_s - first_s)
            if size is not None:
                counts.append(max(1, whole_number(_field(row, size), "length", where)))
            if len(times) == CHUNK_LINES:
                yield _batch(times, counts)
                times, counts = [], []
    except csv.Error as error:
        raise ValueError(f"{source.name}:{reader.line_num}: must be CSV, got {error}") from None
    if times:
        yield _batch(times, counts)


def _batch(times: list[float], counts: list[int]) -> ArrivalChunk:
    return ArrivalChunk(np.array(times), np.array(counts, np.int32) if counts else None)


def _column(header: list[str], names: tuple[str, ...]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _field(row: list[str], column: int) -> str:
    return row[column].strip() if column < len(row) else ""


class _Times:
    """A column of numbers or of ISO-8601 times, never both."""

    def __init__(self, numbers: TimeColumn) -> None:
        self._numbers = numbers
        self._are_numbers: bool | None = None

    def seconds(self, text: str, where: str) -> float:
        try:
            number = float(text)
        except ValueError:
            time_s, is_number = _iso_seconds(text, where), False
        else:
            time_s, is_number = self._numbers.seconds(number, where), True
        if self._are_numbers is not None and is_number is not self._are_numbers:
            kind = "a number" if self._are_numbers else "an ISO-8601 time"
            raise ValueError(f"{where}: the time must be {kind} as before, got {text[:40]!r}")
        self._are_numbers = is_number
        return time_s


def _iso_seconds(text: str, where: str) -> float:
    # fromisoformat takes 3 or 6 decimals before Python 3.11; the Azure files have 7.
    trimmed = re.sub(r"\.(\d+)", lambda found: f".{found[1][:6]:0<6}", text, count=1)
    try:
        stamp = datetime.fromisoformat(trimmed.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(
            f"{where}: the time must be a number or an ISO-8601 time, got {text[:40]!r}"
        ) from None
    if stamp.tzinfo is None:
        stamp = stamp.replace(tzinfo=timezone.utc)
    return stamp.timestamp()
