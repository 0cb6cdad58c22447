"""Exceptions of an engine's own: kept once two processes met the same.

One may be chance (a compiler that found no memory). What a second start meets in the same words
would only be met again, after as many seconds: until something that takes part in it is another.
"""

from __future__ import annotations

import hashlib
import sys
from importlib.metadata import PackageNotFoundError, version

from supernet.cache import MEMO, ArtifactCache

__all__ = ["kept_mistake", "note_mistake"]

_TAKE_PART = ("evolve-runtime", "onnx", "onnxscript")  # beside what a spec names
_ENOUGH = 2


def kept_mistake(cache: ArtifactCache, report: str) -> str | None:
    """What building the plan of that report's name raised, where it would raise it again."""
    known = cache.report(_name(report))
    if known is None or known["times"] < _ENOUGH or known["by"] != _versions():
        return None
    return str(known["said"])


def note_mistake(cache: ArtifactCache, report: str, said: str) -> None:
    """Note that building the plan of that report's name raised so."""
    known = cache.report(_name(report)) or {}
    again = (known.get("said"), known.get("by")) == (said, _versions())
    times = known["times"] + 1 if again else 1
    cache.put_report(_name(report), {"said": said, "by": _versions(), "times": times})


def _name(report: str) -> str:
    return f"{MEMO}mistake-{hashlib.sha256(report.encode()).hexdigest()[:20]}"


def _versions() -> str:
    return " ".join((sys.version.split()[0], *map(_version, _TAKE_PART)))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "-"
