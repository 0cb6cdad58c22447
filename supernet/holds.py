"""Holds: who uses a folder of the cache at the moment, known to every process that shares it.

A hold is a lock on the folder itself (flock(2)), which the system lets go of with the process,
however that ends; a fork has part in it. Where a file system knows no such locks, nothing can be
taken away.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import weakref
from pathlib import Path

__all__ = ["Hold", "take_away"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Hold:
    """Keeps a folder where it is until `release`, or until nobody has this object any more.

    Raises `FileNotFoundError` where the folder is gone, or goes this very moment, another `OSError`
    where it is none.
    """

    def __init__(self, folder: Path) -> None:
        descriptor = os.open(folder, _FOLDER)
        self.release = weakref.finalize(self, os.close, descriptor)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not _is_at(folder, descriptor):
            self.release()
            raise FileNotFoundError(f"{folder} was taken away")


def take_away(folder: Path, where: Path) -> bool:
    """Move `folder` to `where` on the same disk unless somebody holds it; whether it was moved."""
    try:
        descriptor = os.open(folder, _FOLDER)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(folder, descriptor):
            return False
        os.rename(folder, where)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _is_at(folder: Path, descriptor: int) -> bool:
    """Whether the open folder is still the one at that path."""
    try:
        return os.path.samestat(os.lstat(folder), os.fstat(descriptor))
    except FileNotFoundError:
        return False
