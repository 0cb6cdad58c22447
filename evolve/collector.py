"""Python's cyclic collector, kept from what lives as long as the service.

A full collection visits every object of the process while nothing else runs: a fifth of a second
with torch and a captured model, every few seconds at ten thousand requests a second. Once a service
has settled its objects are frozen (`gc.freeze`), and released again whenever something changes.
"""

from __future__ import annotations

import gc
import os
import threading
import time

__all__ = ["release", "settled"]

STILL_S = 5.0  # without a change, until they are frozen

_lock = threading.RLock()  # a finaliser that the collection runs may release
_is_done = _is_ours = False
_changed_s = time.monotonic()


def settled() -> None:
    """Called in every tick of a service that changes no more for now; freezes once.

    Nothing is collected first, which would be the very pause: what is garbage by then stays until
    the next change. Where somebody else has frozen objects, nothing is done.
    """
    global _is_done, _is_ours
    if _is_done or time.monotonic() - _changed_s < STILL_S:
        return
    with _lock:
        if not _is_done and not gc.get_freeze_count():
            gc.freeze()
            _is_ours = True
        _is_done = True


def release() -> None:
    """Something is about to become garbage: a revision of the model, a whole runtime."""
    global _is_done, _is_ours, _changed_s
    with _lock:
        if _is_ours:
            gc.unfreeze()
        _is_done = _is_ours = False
        _changed_s = time.monotonic()


def _in_a_fork() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_a_fork)
