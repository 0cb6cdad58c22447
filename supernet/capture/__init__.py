"""Capture: from a call of a model to an exported program of flat tensors.

``capture`` and what it gives are imported at first use: workers that need no torch import rooms of
this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.lazy import lazy_exports

if TYPE_CHECKING:
    from supernet.capture.captured import Capture, Flat
    from supernet.capture.subject import Examples, Subject, Wishes, begin, capture, original_only
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "captured": "Capture Flat",
            "subject": "Examples Subject Wishes begin capture original_only",
        },
    )

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
