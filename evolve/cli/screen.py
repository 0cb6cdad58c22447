"""The consoles that tables and progress bars go to."""

from __future__ import annotations

from typing import NoReturn

from rich.console import Console

__all__ = ["screen"]


class _Screen(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Left to the command line's one place for it; rich would exit with status 1."""
        raise BrokenPipeError


def screen(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """A console on stdout (results) or stderr (progress, so that results can be piped)."""
    return _Screen(stderr=stderr, highlight=False, soft_wrap=soft_wrap)
