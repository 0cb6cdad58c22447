"""A growing-when-needed window of timestamped rows, with numpy views of the recent ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MOST_NEW = 512


class EventRing:
    """The rows `[time_s, *values]` of the last `horizon_s` seconds, in order of arrival.

    New rows wait in a list, which costs a request next to nothing, and go into one flat buffer
    when somebody looks or there are many. When that is full the live ones move to its start, and
    it grows if they would fill half of it: memory follows the rate, `since` is a view, not a copy.
    """

    __slots__ = ("_end", "_horizon_s", "_new", "_rows")

    def __init__(self, columns: int, horizon_s: float, capacity: int = 1024) -> None:
        self._rows = np.zeros((capacity, columns))
        self._end = 0
        self._new: list[tuple[float, ...]] = []
        self._horizon_s = horizon_s

    def append(self, row: tuple[float, ...]) -> None:
        """Add one row; its first entry is the time and must not precede the last one's."""
        self._new.append(row)
        if len(self._new) == _MOST_NEW:
            self._settle()

    def since(self, time_s: float) -> npt.NDArray[np.float64]:
        """View `[n, columns]` of the rows later than `time_s`; valid until the next append."""
        self._settle()
        return self._later(time_s)

    def _later(self, time_s: float) -> npt.NDArray[np.float64]:
        times = self._rows[: self._end, 0]
        return self._rows[int(np.searchsorted(times, time_s, side="right")) : self._end]

    def _settle(self) -> None:
        if not self._new:
            return
        end = self._end + len(self._new)
        if end > len(self._rows):
            end = self._compact()
        self._rows[end - len(self._new) : end] = self._new
        self._end = end
        self._new.clear()

    def _compact(self) -> int:
        """Make room for the new rows; where they end."""
        live = self._later(self._new[-1][0] - self._horizon_s)
        end = len(live) + len(self._new)
        target = self._rows
        if 2 * end > len(self._rows):
            target = np.zeros((2 * end, self._rows.shape[1]))
        target[: len(live)] = live
        self._rows = target
        return end
