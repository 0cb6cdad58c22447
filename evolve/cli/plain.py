"""Output for any terminal, file or pipe: what it has no characters for is written in ASCII."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["plain_output", "say"]

_IN_ASCII = {"–": "-", "×": "x", "·": "*", "µ": "u", "±": "+-", "→": "->", "²": "2", "…": "..."}
_ERRORS = "evolve-ascii"


def say(text: str, *, err: bool = False) -> None:
    """Print a line to stdout, or stderr, at once; typer's `echo` takes ASCII for UTF-8."""
    print(text, file=sys.stderr if err else sys.stdout, flush=True)


@contextmanager
def plain_output() -> Iterator[None]:
    """Within it no character makes stdout or stderr raise, whatever their encoding."""
    codecs.register_error(_ERRORS, _in_ascii)
    streams = [s for s in (sys.stdout, sys.stderr) if isinstance(s, io.TextIOWrapper)]
    before = [(stream, stream.errors) for stream in streams]
    for stream in streams:
        stream.reconfigure(errors=_ERRORS)
    try:
        yield
    finally:
        for stream, errors in before:
            with suppress(OSError, ValueError):  # closed meanwhile, at either end
                stream.reconfigure(errors=errors)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(character, "?") for character in missing), error.end
