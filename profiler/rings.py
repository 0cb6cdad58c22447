"""A growing-when-needed window of timestamped rows, with numpy views of the recent ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class EventRing:
    """The rows `[time_s, *values]` of the last `horizon_s` seconds, in order of arrival.

    Rows are written into one flat buffer; when it is full the live ones move to its start, and
    it doubles if they fill half of it. So an append costs O(1) on average, memory follows the
    rate, and `since` is a view, not a copy.
    """

    __slots__ = ("_end", "_horizon_s", "_rows")

    def __init__(self, columns: int, horizon_s: float, capacity: int = 1024) -> None:
        self._rows = np.zeros((capacity, columns))
        self._end = 0
        self._horizon_s = horizon_s

    def append(self, row: tuple[float, ...]) -> None:
        """Add one row; its first entry is the time and must not precede the last one's."""
        if self._end == len(self._rows):
            self._compact(row[0])
        self._rows[self._end] = row
        self._end += 1

    def since(self, time_s: float) -> npt.NDArray[np.float64]:
        """View `[n, columns]` of the rows later than `time_s`; valid until the next append."""
        times = self._rows[: self._end, 0]
        return self._rows[int(np.searchsorted(times, time_s, side="right")) : self._end]

    def _compact(self, now_s: float) -> None:
        live = self.since(now_s - self._horizon_s)
        target = self._rows
        if 2 * len(live) > len(self._rows):
            target = np.zeros((2 * len(self._rows), self._rows.shape[1]))
        target[: len(live)] = live
        self._rows = target
        self._end = len(live)
