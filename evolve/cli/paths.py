"""Where things are kept when the command line does not say."""

from __future__ import annotations

from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder(given: Path | None) -> Path:
    """`given`, or `evolve` in the platform's cache folder (as `plans.cache_dir` unset)."""
    if given is not None:
        return given.expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("evolve", appauthor=False))
