"""For what another process or thread does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 60.0


def eventually(is_so: Callable[[], bool]) -> bool:
    """Whether it becomes so."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > give_up_s:
            return False
        time.sleep(0.005)
    return True
