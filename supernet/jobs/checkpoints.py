"""Checkpoints: states that a long job can go on from, each whole or not there.

::

    FOLDER/00000003/   what the job wrote, and the hashes of that (`supernet.manifest`)
    FOLDER/partial/    one being written

They are of one request: under another nothing is found.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from supernet.manifest import broken, sync, write_manifest

__all__ = ["Checkpoints"]


class Checkpoints:
    """The checkpoints in a folder of which each takes the place of those before.

    One process at a time may write there.
    """

    def __init__(self, folder: Path, request: Mapping[str, Any]) -> None:
        self._folder = folder
        asked = json.dumps(request, sort_keys=True)
        self._key = hashlib.sha256(asked.encode()).hexdigest()

    def newest(self) -> Path | None:
        """The folder of the last one that is whole; None without any."""
        for number in sorted(self._numbers(), reverse=True):
            folder = self._at(number)
            if broken(folder, self._key) is None:
                return folder
        return None

    def add(self, save: Callable[[Path], None]) -> None:
        """Have ``save`` write one into the empty folder that it is given, and forget the others."""
        before = self._numbers()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self._folder / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        save(partial)
        write_manifest(partial, self._key)
        os.rename(partial, self._at(max(before, default=0) + 1))
        sync(self._folder)
        for number in before:
            shutil.rmtree(self._at(number), ignore_errors=True)

    def clear(self) -> None:
        """Forget all."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _at(self, number: int) -> Path:
        return self._folder / f"{number:08}"

    def _numbers(self) -> list[int]:
        return [int(path.name) for path in self._folder.glob("*") if path.name.isdecimal()]
