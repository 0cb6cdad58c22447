"""The place where things are kept when the command line does not say."""

from __future__ import annotations

from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder(given: Path | None) -> Path:
    """`given`, or where a runtime keeps its plans with `plans.cache_dir` unset."""
    if given is not None:
        return given.expanduser()
    from profiler.places import storage_folder

    place = storage_folder()
    if place.folder is None:
        raise OSError(f"{place.why}; name a folder by --cache")
    return place.folder
