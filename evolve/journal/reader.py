"""Reading a journal back: record by record, with damage named and never papered over."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from evolve.journal.decision import Decision, RecordError
from evolve.journal.file import JournalError
from evolve.journal.record import decode

__all__ = ["Damage", "Verdict", "newest", "opened", "read", "segments", "verify"]

LINE_LIMIT_BYTES = 1 << 20
BLOCK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Damage:
    """One line of a journal that is not a whole record, or does not follow the one before it.

    `line` counts from 1; below 0 from the end, where a file was read from there.
    """

    path: Path
    line: int
    reason: str

    def __str__(self) -> str:
        if self.line < 0:
            return f"{self.path}, line {-self.line} from the end: {self.reason}"
        return f"{self.path}:{self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found: how many records, from which to which, and what is wrong."""

    records: int
    first_seq: int
    last_seq: int
    torn_bytes: int
    damage: tuple[Damage, ...]

    @property
    def intact(self) -> bool:
        """Every line is a whole record and the numbers have no gap. An empty journal is not."""
        return self.records > 0 and not self.torn_bytes and not self.damage


def segments(path: Path | str) -> tuple[Path, ...]:
    """The files of a journal, oldest first: PATH.1 where the journal was renamed once, and PATH."""
    newest = Path(path).expanduser()
    older = newest.with_name(newest.name + ".1")
    return (older, newest) if older.is_file() else (newest,)


def read(
    path: Path | str, *, on_damage: Callable[[Damage], None] | None = None
) -> Iterator[Decision]:
    """The decisions in one file, oldest first.

    A damaged line raises `JournalError` naming file and line, or, with `on_damage`, is reported
    there and skipped. An incomplete last line ends the reading quietly: a runtime may be writing
    it at this moment (`verify` reports it). Files with gigabytes are read line by line.
    """
    source = Path(path).expanduser()
    with opened(source) as file:
        for number, line in _lines(file):
            if not line.endswith(b"\n"):
                return
            try:
                decision = decode(line)
            except RecordError as error:
                damage = Damage(source, number, str(error))
                if on_damage is None:
                    raise JournalError(str(damage)) from None
                on_damage(damage)
                continue
            yield decision


def newest(
    path: Path | str, *, on_damage: Callable[[Damage], None], before: int | None = None
) -> Iterator[Decision]:
    """The decisions in one file, newest first, read from its end: a look at the latest of a
    gigabyte costs a few blocks.

    Damaged lines are reported and skipped; an incomplete last line is left out in silence, as by
    `read`. `before`: where to begin, in bytes.
    """
    source = Path(path).expanduser()
    with opened(source) as file:
        for number, line in _lines_backwards(file, before):
            try:
                decision = decode(line)
            except RecordError as error:
                on_damage(Damage(source, -number, str(error)))
                continue
            yield decision


def _lines_backwards(file: BinaryIO, before: int | None) -> Iterator[tuple[int, bytes]]:
    """Whole lines with their number from the end; one longer than any record comes shortened."""
    start = file.seek(0, os.SEEK_END) if before is None else before
    rest, number, is_last = b"", 0, True
    while start > 0:
        size = min(BLOCK_BYTES, start)
        start -= size
        file.seek(start)
        begun, *lines = (file.read(size) + rest).split(b"\n")
        rest = begun[-LINE_LIMIT_BYTES:]
        for line in reversed(lines):
            if is_last:  # what stands behind the last newline
                is_last = False
                continue
            number += 1
            yield number, line + b"\n"
    if not is_last:
        yield number + 1, rest + b"\n"


def verify(path: Path | str) -> Verdict:
    """Check every line and the numbering of one file; damage is listed, not raised."""
    source = Path(path).expanduser()
    damage: list[Damage] = []
    records = first = last = torn = 0
    with opened(source) as file:
        for number, line in _lines(file):
            if not line.endswith(b"\n"):
                torn = len(line)
                break
            try:
                seq = decode(line).seq
            except RecordError as error:
                damage.append(Damage(source, number, str(error)))
                continue
            if records and seq != last + 1:
                damage.append(Damage(source, number, f"number {seq} follows {last}"))
            first, last, records = first or seq, seq, records + 1
    return Verdict(records, first, last, torn, tuple(damage))


def opened(path: Path) -> BinaryIO:
    """The file, for reading. Raises `JournalError` where it cannot be."""
    try:
        return path.open("rb")
    except OSError as error:
        why = error.strerror or str(error)
        raise JournalError(
            f"path must be a journal that can be read, got {path} ({why})"
        ) from error


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; one longer than any record comes shortened (it is damage either way)."""
    number = 0
    while line := file.readline(LINE_LIMIT_BYTES):
        number += 1
        if len(line) == LINE_LIMIT_BYTES and not line.endswith(b"\n"):
            ending = line
            while ending and not ending.endswith(b"\n"):
                ending = file.readline(LINE_LIMIT_BYTES)
            line = line[:-1] + b"\n" if ending else line
        yield number, line
