"""Reading on in a journal while a runtime writes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from evolve.journal.decision import Decision, RecordError
from evolve.journal.reader import Damage, opened
from evolve.journal.record import decode

__all__ = ["Follower"]

_BLOCK_BYTES = 1 << 16


class Follower:
    """Hands out each decision of a growing journal once, whole ones only.

    It survives what a runtime does to its file: a rename when it is full (the rest of the old
    file is read first) and a cut when a torn tail is removed. Damaged lines go to `on_damage`.
    """

    def __init__(self, path: Path | str, *, on_damage: Callable[[Damage], None]) -> None:
        self._path = Path(path).expanduser()
        self._on_damage = on_damage
        self._file: BinaryIO = opened(self._path)
        self._offset = self._line = 0

    def skip(self) -> int:
        """Goes on only behind what is there now; where that is, in bytes."""
        self._offset = self._file.seek(0, os.SEEK_END)
        while self._offset:  # a line may be half written
            step = min(self._offset, _BLOCK_BYTES)
            self._file.seek(self._offset - step)
            if (cut := self._file.read(step).rfind(b"\n")) >= 0:
                self._offset += cut + 1 - step
                break
            self._offset -= step
        return self._offset

    def new(self) -> Iterator[Decision]:
        """The decisions completed since the last call."""
        while True:
            # Asked before reading on: lines written into the old file until then are still read.
            renamed = self._renamed()
            yield from self._rest()
            if not renamed:
                return
            self._file.close()
            self._file = opened(self._path)
            self._offset = self._line = 0

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _renamed(self) -> bool:
        try:
            now = os.stat(self._path)
        except FileNotFoundError:  # between the two renames, or removed: keep what is open
            return False
        mine = os.fstat(self._file.fileno())
        return (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino)

    def _rest(self) -> Iterator[Decision]:
        # A cut only ever removes what was no whole record, and that was never read past.
        self._file.seek(self._offset)
        while (line := self._file.readline()).endswith(b"\n"):
            self._offset += len(line)
            self._line += 1
            try:
                decision = decode(line)
            except RecordError as error:
                self._on_damage(Damage(self._path, self._line, str(error)))
                continue
            yield decision
