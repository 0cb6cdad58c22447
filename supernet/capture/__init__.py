"""Capture: from a call of a model to an exported program of flat tensors.

``capture`` and what it gives are imported at first use: workers that need no torch import rooms of
this one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supernet.capture.captured import Capture, Flat
    from supernet.capture.subject import Examples, Subject, Wishes, begin, capture, original_only

_HOMES = {
    "Capture": "captured",
    "Examples": "subject",
    "Flat": "captured",
    "Subject": "subject",
    "Wishes": "subject",
    "begin": "subject",
    "capture": "subject",
    "original_only": "subject",
}

__all__ = [
    "Capture",
    "Examples",
    "Flat",
    "Subject",
    "Wishes",
    "begin",
    "capture",
    "original_only",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
