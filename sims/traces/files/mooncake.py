"""JSON lines as Mooncake publishes them: `timestamp` in ms, `input_length`, one request a line.

Qin et al., Mooncake, FAST 2025, https://github.com/kvcache-ai/Mooncake. The published timestamps
stand about 3 s apart, several requests on each. Left so they would arrive in batches that no user
sent, so the requests of one timestamp are spread uniformly over the quantum that it opens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sims.traces.files.lines import ArrivalChunk, Reading, lines, moment, whole_number
from sims.traces.files.units import TimeColumn

__all__ = ["json_batches"]

_DATES_FROM = 1e9  # eleven days in ms: a trace that counts from its beginning begins earlier


def json_batches(source: Path, reading: Reading) -> Iterator[ArrivalChunk]:
    """One batch per timestamp, the first timestamp at 0 s."""
    rng = np.random.default_rng(reading.seed)
    first_s: float | None = None
    last_s = 0.0
    lengths: list[int] = []
    column = TimeColumn("ms", dates_from=_DATES_FROM)
    for number, text in enumerate(lines(source), 1):
        where = f"{source.name}:{number}"
        at, length = _request(text, where)
        at_s = moment(column.seconds(at, where), last_s, where)
        first_s = at_s if first_s is None else first_s
        if lengths and at_s > last_s:
            stop_s = min(at_s, last_s + reading.quantum_s)
            yield _spread(last_s - first_s, stop_s - first_s, lengths, rng)
            lengths = []
        last_s = at_s
        lengths.append(length)
    if first_s is not None:
        begin_s = last_s - first_s
        yield _spread(begin_s, begin_s + reading.quantum_s, lengths, rng)


def _spread(
    begin_s: float, stop_s: float, lengths: list[int], rng: np.random.Generator
) -> ArrivalChunk:
    within = np.sort(rng.random(len(lengths))) * (stop_s - begin_s)
    times = np.minimum(begin_s + within, stop_s)
    return ArrivalChunk(times, np.array(lengths, np.int32), drawn=stop_s > begin_s)


def _request(text: str, where: str) -> tuple[float, int]:
    try:
        record = json.loads(text)
        milliseconds, length = record["timestamp"], record["input_length"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(
            f"{where}: the line must be a JSON object with timestamp and input_length, "
            f"got {text.strip()[:40]!r}"
        ) from None
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float):
        raise ValueError(f"{where}: the timestamp must be milliseconds, got {milliseconds!r}")
    try:
        at = float(milliseconds)
    except OverflowError:
        at = float("inf")
    return at, max(1, whole_number(json.dumps(length), "length", where))
