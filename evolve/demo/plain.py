"""The plain PyTorch loop that users run today: one request at a time on all cores.

It gets the same early refusal of late work as evolve: a loop that drowns in its own queue
would prove nothing.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch

from evolve.errors import DeadlineExceeded

__all__ = ["PlainLoop"]

LEARN = 0.05  # of the distance to the latest request, as in TCP's estimate of round trips
FORGET = 0.002


class PlainLoop:
    """First come, first served; refuses what can't be answered by its deadline any more.

    Args:
        model: Called with the keyword arguments of one request, without gradients.
        calibration: Requests to learn the duration by length from (a straight line); while
            serving, its error is followed and allowed for.
        length_of: The length of a request.
        slo_ms: Deadline from submission.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        calibration: Sequence[Mapping[str, torch.Tensor]],
        *,
        length_name: str,
        slo_ms: float,
    ) -> None:
        self._model = model
        self._length_name = length_name
        self._slo_ms = slo_ms
        self._ratio, self._deviation = 1.0, 0.0
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.service_ms = self._calibrate(calibration)
        self._thread = threading.Thread(target=self._run, name="plain-loop", daemon=True)
        self._thread.start()

    def submit(self, request: Mapping[str, torch.Tensor]) -> Future[Any]:
        """Queues one request; the future raises `DeadlineExceeded` when it is refused."""
        future: Future[Any] = Future()
        self._queue.put((request, time.perf_counter(), future))
        return future

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    @property
    def capacity_per_s(self) -> float:
        """Requests per second when never idle, from the calibration."""
        return 1e3 / self.service_ms

    def _calibrate(self, requests: Sequence[Mapping[str, torch.Tensor]]) -> float:
        lengths, times_ms = [], []
        with torch.no_grad():
            for warm in (True, False, False):
                for request in requests:
                    began = time.perf_counter()
                    self._model(**request)
                    if not warm:
                        lengths.append(request[self._length_name].shape[1])
                        times_ms.append((time.perf_counter() - began) * 1e3)
        slope, base = np.polyfit(lengths, times_ms, 1)
        self._slope, self._base = slope, base
        return float(np.mean(times_ms))

    def _run(self) -> None:
        with torch.no_grad():
            while (item := self._queue.get()) is not None:
                request, arrived_s, future = item
                left_ms = self._slo_ms - (time.perf_counter() - arrived_s) * 1e3
                length = request[self._length_name].shape[1]
                expected_ms = self._base + self._slope * length
                if left_ms < expected_ms * (self._ratio + 2.0 * self._deviation):
                    future.set_exception(DeadlineExceeded("refused: too late"))
                    self._ratio += FORGET * (
                        1.0 - self._ratio
                    )  # else one slow spell lasts for ever
                    continue
                began_s = time.perf_counter()
                try:
                    future.set_result(self._model(**request))
                except Exception as error:
                    future.set_exception(error)
                self._learn((time.perf_counter() - began_s) * 1e3 / expected_ms)

    def _learn(self, ratio: float) -> None:
        """Follows how much longer requests take under load than in the calibration."""
        self._deviation += LEARN * (abs(ratio - self._ratio) - self._deviation)
        self._ratio += LEARN * (ratio - self._ratio)
