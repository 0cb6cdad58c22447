"""The place of what is kept between runs: the user's cache folder, or a private one instead."""

from __future__ import annotations

import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["StorageFolder", "obstacle", "storage_folder"]


@dataclass(frozen=True, slots=True)
class StorageFolder:
    """A folder that may have to be made yet. `why`: it is not the usual one, or there is none."""

    folder: Path | None
    why: str | None = None


def storage_folder() -> StorageFolder:
    """`evolve` in the user's cache folder where that can be written, else among temporary files.

    A home that is missing, read-only, a file or another user's stops nothing. The folder among
    temporary files carries the user's number and is taken only if it is absent or this user's
    alone: anybody may put one there. Looks only, and creates nothing.
    """
    import platformdirs

    usual = Path(platformdirs.user_cache_dir("evolve", appauthor=False))
    why = obstacle(usual)
    if why is None:
        return StorageFolder(usual)
    try:
        spare = Path(tempfile.gettempdir()) / f"evolve-{_user()}"
    except FileNotFoundError as error:
        return StorageFolder(None, f"{why}; {error.strerror}")
    unsafe = obstacle(spare) or _unsafe(spare)
    return StorageFolder(spare, why) if unsafe is None else StorageFolder(None, f"{why}; {unsafe}")


def obstacle(folder: Path) -> str | None:
    """Why this user could not write into `folder`, made first where it is absent."""
    if not folder.is_absolute():  # a user without an entry in the password file has no `~`
        return f"the home folder must be known, got {folder}"
    nearest = folder
    try:
        while not os.path.lexists(nearest) and nearest != nearest.parent:
            nearest = nearest.parent
        status = os.stat(nearest)
    except OSError as error:
        return f"{nearest} must be readable, got: {error.strerror}"
    if not stat.S_ISDIR(status.st_mode):
        return f"{nearest} must be a folder, got a file"
    if nearest == folder and os.name == "posix" and status.st_uid != os.geteuid():
        return f"{folder} must belong to user {os.geteuid()}, got user {status.st_uid}"
    effective = os.access in os.supports_effective_ids
    if not os.access(nearest, os.W_OK | os.X_OK, effective_ids=effective):
        return f"{nearest} must be writable, got one that is not"
    return None


def _unsafe(folder: Path) -> str | None:
    """Why a folder that exists where all may write could be somebody else's trap."""
    if not os.path.lexists(folder) or os.name != "posix":
        return None
    status = os.lstat(folder)
    if stat.S_ISLNK(status.st_mode):
        return f"{folder} must be a folder, got a link"
    if status.st_mode & 0o022:
        return f"{folder} must be writable by its owner only, got mode {status.st_mode & 0o777:o}"
    return None


def _user() -> str:
    return str(os.geteuid()) if hasattr(os, "geteuid") else os.environ.get("USERNAME", "user")
