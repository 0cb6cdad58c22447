"""The model's memory pattern by shape, known some seconds after its usual plans were built."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from profiler.patterns import PatternTable, moved_table, with_fusion

if TYPE_CHECKING:
    from profiler.fingerprint import DeviceFingerprint
    from supernet.cache import ArtifactCache
    from supernet.capture.subject import Capture

__all__ = ["Patterns"]

Floats = npt.NDArray[np.float64]


class Patterns:
    """Found once, in a process of its own (`supernet.building.memory_demand`); never needed to
    answer.

    Args:
        capture, device: Whose pattern, and where.
        open_cache: Where the capture was stored by the plan builder, before its first plan.
        on_event: Told, for the journal, (subject, before, after, reason) where it can't be found.
    """

    def __init__(
        self,
        capture: Capture,
        device: DeviceFingerprint,
        open_cache: Callable[[Callable[[str, str], None]], ArtifactCache],
        on_event: Callable[[str, str, str, str], None],
    ) -> None:
        self._capture, self._device = capture, device
        self._open_cache, self._on_event = open_cache, on_event
        self._stop = threading.Event()
        self._moved: Floats | None = None

    def stop(self) -> None:
        """Ends the search under way and starts no other."""
        self._stop.set()

    def find(self) -> None:
        """Called once, on the plan builder's thread."""
        from supernet.building.memory_demand import find_demand
        from supernet.capture.stored import find
        from supernet.errors import BuildInterrupted

        try:
            cache = self._open_cache(lambda entry, why: self._say(f"{entry} was discarded: {why}"))
            folder = find(cache, self._capture)
            if folder is None:
                raise FileNotFoundError("the stored capture is gone")
            points = find_demand(cache, folder, self._device, cancelled=self._stop.is_set)
            self._moved = moved_table(points, self._capture.grid)
        except BuildInterrupted:
            return
        except Exception as error:  # it serves as well without
            self._say(f"{type(error).__name__}: {error}")

    def _say(self, reason: str) -> None:
        self._on_event("memory pattern", "", "unknown", reason)

    def table(
        self, cost_ms: Floats, tier: npt.NDArray[np.int64], fused: tuple[bool, ...]
    ) -> PatternTable | None:
        """The table under these plans [P]; None while it is not known. See `with_fusion`."""
        if self._moved is None:
            return None
        values = with_fusion(self._moved, cost_ms, tier, fused)
        return PatternTable(values, self._capture.grid.lengths)
