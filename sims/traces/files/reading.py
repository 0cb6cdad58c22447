"""Recorded traffic from files: the whole of it, a slice, or piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from sims.traces.files.counts import count_batches
from sims.traces.files.lines import ArrivalChunk, Reading, lines
from sims.traces.files.mooncake import json_batches
from sims.traces.files.tables import table_batches
from sims.traces.lengths import Lengths, drawn_lengths
from sims.traces.rules import at_least
from sims.traces.trace import Trace

__all__ = ["recorded", "stream"]

_Reader = Callable[[Path, Reading], Iterator[ArrivalChunk]]


def recorded(
    path: str | Path,
    *,
    lengths: Lengths | None = None,
    seed: int = 0,
    start_s: float = 0.0,
    seconds: float | None = None,
    gap_s: float = 60.0,
    quantum_s: float = 3.0,
) -> Trace:
    """Arrivals from a file, which may be packed (.gz); the file's beginning is 0 s.

    - CSV with a header and a column of times under a usual name, such as the Azure LLM inference
      traces as published (TIMESTAMP, ContextTokens, ...): ISO-8601, or numbers. Since 1970 they
      may count seconds, ms, us or ns, which their size tells; from elsewhere they count seconds,
      or what the column's name ends in (time_ms). A number in another unit than the first is
      refused.
    - JSON lines as published by Mooncake: `timestamp` in ms, `input_length`. Timestamps there
      are rounded, so arrivals are spread uniformly, by `seed`, from each timestamp to the next
      or for `quantum_s`, whichever is less. 0 leaves them as they are.
    - Counts per second, one a line. Arrivals are drawn within their second by `seed`. Runs of
      zeros of `gap_s` and more are gaps in the collection and cut out; inf keeps them.

    A name in .csv is CSV, else the first line tells. `start_s` and `seconds` cut a slice, in the
    file's time, with `start_s` as its 0. Lengths come from the file (0 counts as 1), else are
    drawn from `lengths` or `natural_lengths`. Arrivals must be in order. A ValueError names the
    file and the line that is wrong.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "two.csv")
    ...     _ = path.write_text("time,tokens\\n5,20\\n7.5,30\\n")
    ...     recorded(path).arrivals_s.tolist()
    [0.0, 2.5]
    """
    source = Path(path)
    reading = Reading(seed, start_s, seconds, gap_s, quantum_s)
    joined = _joined(list(_batches(source, reading)))
    if joined is None:
        raise ValueError(f"{source.name}: must hold at least one arrival, got none")
    return _trace(joined, source, reading, np.random.default_rng(seed), lengths)


def stream(
    path: str | Path,
    *,
    chunk_s: float = 60.0,
    lengths: Lengths | None = None,
    seed: int = 0,
    start_s: float = 0.0,
    seconds: float | None = None,
    gap_s: float = 60.0,
    quantum_s: float = 3.0,
) -> Iterator[Trace]:
    """The trace of `recorded` in consecutive pieces of `chunk_s`, for files longer than memory.

    Times are those of the whole trace, not reset to 0. A piece without arrivals is left out. The
    file is read as pieces are asked for, so a line that is wrong is told when it is reached.
    `sims.simulate_stream` plays the pieces.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "three.csv")
    ...     _ = path.write_text("time\\n5\\n6\\n99\\n")
    ...     [piece.arrivals_s.tolist() for piece in stream(path, chunk_s=10.0)]
    [[0.0, 1.0], [94.0]]
    """
    at_least(0.001, chunk_s=chunk_s)
    source = Path(path)
    reading = Reading(seed, start_s, seconds, gap_s, quantum_s)
    return _pieces(source, reading, chunk_s, lengths)


def _pieces(
    source: Path, reading: Reading, chunk_s: float, pool: Lengths | None
) -> Iterator[Trace]:
    rng = np.random.default_rng(reading.seed)
    none = True
    for held in _chunks(_batches(source, reading), chunk_s):
        if (joined := _joined(held)) is not None:
            none = False
            yield _trace(joined, source, reading, rng, pool)
    if none:
        raise ValueError(f"{source.name}: must hold at least one arrival, got none")


def _chunks(batches: Iterator[ArrivalChunk], chunk_s: float) -> Iterator[list[ArrivalChunk]]:
    """The batches regrouped so that none reaches over a multiple of `chunk_s`."""
    held: list[ArrivalChunk] = []
    stop_s = chunk_s
    for batch in batches:
        rest = batch
        while rest.times_s[-1] >= stop_s:
            at = int(np.searchsorted(rest.times_s, stop_s, side="left"))
            yield [*held, _part(rest, slice(at))]
            held, rest = [], _part(rest, slice(at, None))
            stop_s = _next_multiple(float(rest.times_s[0]), chunk_s)
        held.append(rest)
    yield held


def _next_multiple(time_s: float, chunk_s: float) -> float:
    count = int(time_s // chunk_s) + 1
    while count * chunk_s <= time_s:  # the division may round down
        count += 1
    return count * chunk_s


def _batches(source: Path, reading: Reading) -> Iterator[ArrivalChunk]:
    reader = _reader(source)
    batches = reader(source, reading)
    if reader is count_batches:  # it slices for itself, without drawing what is not wanted
        yield from batches
        return
    for batch in batches:
        low, high = np.searchsorted(batch.times_s, [reading.start_s, reading.stop_s], side="left")
        if low < high:
            part = _part(batch, slice(int(low), int(high)))
            yield part._replace(times_s=part.times_s - reading.start_s)
        if high < batch.times_s.size:
            return


def _reader(source: Path) -> _Reader:
    name = source.name.lower().removesuffix(".gz")
    first = next(lines(source), "").strip()
    if name.endswith(".csv"):
        return table_batches
    if first.startswith("{"):
        return json_batches
    # A sign or a decimal point is for the reader of counts to refuse, with its line.
    return count_batches if first[:1] in set("+-.0123456789") else table_batches


def _part(batch: ArrivalChunk, kept: slice) -> ArrivalChunk:
    lengths = None if batch.lengths is None else batch.lengths[kept]
    return ArrivalChunk(batch.times_s[kept], lengths, batch.drawn)


def _joined(batches: list[ArrivalChunk]) -> ArrivalChunk | None:
    batches = [batch for batch in batches if batch.times_s.size]
    if not batches:
        return None
    lengths = [batch.lengths for batch in batches if batch.lengths is not None]
    times = np.concatenate([batch.times_s for batch in batches])
    drawn = any(batch.drawn for batch in batches)
    return ArrivalChunk(times, np.concatenate(lengths) if lengths else None, drawn)


def _trace(
    batch: ArrivalChunk,
    source: Path,
    reading: Reading,
    rng: np.random.Generator,
    pool: Lengths | None,
) -> Trace:
    name = Path(source.name.removesuffix(".gz")).stem
    if batch.lengths is None:
        drawn = drawn_lengths(batch.times_s.size, rng, pool)
        return Trace(batch.times_s, drawn, name, reading.seed)
    return Trace(batch.times_s, batch.lengths, name, reading.seed if batch.drawn else -1)
