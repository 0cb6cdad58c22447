"""A small cost table and a queue to ask the published disciplines about.

| ms | 1 row | 2 | 3 | 4 | accuracy |
| --- | --- | --- | --- | --- | --- |
| plan 0 | 4 | 6 | 8 | 10 | 0.9 |
| plan 1 | 2 | 3 | 4 | 5 | 0.8 |
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from policies._asking import Asker, Line
from policies.disciplines import dispatch

COST = np.array([[4.0, 6.0, 8.0, 10.0], [2.0, 3.0, 4.0, 5.0]])
ACCURACY = np.array([0.9, 0.8])
SLO_MS = 20.0
NEVER = math.inf


class Rival(Protocol):
    @property
    def kind(self) -> int: ...

    def to_array(self) -> NDArray[np.float64]: ...


def fresh() -> NDArray[np.float64]:
    """A memory of two workers that remembers nothing."""
    return np.zeros(18)


def ask(
    rival: Rival,
    arrived_ms: list[float],
    now_ms: float = 100.0,
    *,
    worker: int = 0,
    workers: float = 1.0,
    cost: NDArray[np.float64] = COST,
    pace: float = 1.0,
    accuracy: NDArray[np.float64] = ACCURACY,
    memo: NDArray[np.float64] | None = None,
) -> tuple[int, int, int, float]:
    """(plan, taken, dropped, wake_ms) for a queue with an SLO of 20 ms."""
    plan, taken, dropped, wake_ms = dispatch(
        rival.kind, now_ms, Line(np.array(arrived_ms), 0, len(arrived_ms), SLO_MS),
        Asker(worker, workers, pace, 0.0), cost, accuracy, rival.to_array(),
        fresh() if memo is None else memo,
    )  # fmt: skip
    return int(plan), int(taken), int(dropped), float(wake_ms)


def slack(*slacks_ms: float) -> list[float]:
    """When those arrived who have so much time left at 100 ms."""
    return [100.0 + left - SLO_MS for left in slacks_ms]
