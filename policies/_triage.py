"""Requests that can still be answered in time: the largest set of them, by Moore's algorithm.

Part of the compiled rule (`policies.compiled`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies._jit import jit
from policies._ordered import Ordered

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

KEPT, DEFERRED, DROPPED = 0, 1, 2

CAUTION = 3.0
"""Work ahead counts this much: batches fall short of perfect, and arrivals join those ahead. 1
answered 1 % fewer requests in time over 21 simulated cases (decision 0005)."""


@jit
def _above(a: int, b: int, key: Floats) -> bool:
    """Whether position a leaves the kept set before b: the dearer, ties the more urgent."""
    return bool(key[a] > key[b] or (key[a] == key[b] and a < b))


@jit
def _push(heap: Ints, size: int, item: int, key: Floats) -> None:
    i = size
    heap[i] = item
    while i > 0 and _above(heap[i], heap[(i - 1) // 2], key):
        heap[i], heap[(i - 1) // 2] = heap[(i - 1) // 2], heap[i]
        i = (i - 1) // 2


@jit
def _pop(heap: Ints, size: int, key: Floats) -> int:
    top = heap[0]
    heap[0] = heap[size - 1]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size - 1:
            return int(top)
        if child + 1 < size - 1 and _above(heap[child + 1], heap[child], key):
            child += 1
        if not _above(heap[child], heap[i], key):
            return int(top)
        heap[i], heap[child] = heap[child], heap[i]
        i = child


@jit
def triage(queue: Ordered, workers: float, beta: float, delta: float, state: Ints) -> None:
    """Mark every request KEPT, DEFERRED or DROPPED in `state` [n]."""
    slack, refusable = queue.slack, queue.refusable
    own, work, batch_ms = queue.own, queue.work, queue.batch_ms
    n = slack.shape[0]
    heap = np.empty(n, np.int64)
    size = 0
    ahead = 0.0
    share = CAUTION * beta / workers
    for i in range(n):
        state[i] = KEPT
        if refusable[i]:
            if slack[i] < own[i]:
                state[i] = DROPPED
                continue
            if slack[i] < delta * batch_ms[i]:
                state[i] = DEFERRED
                continue
            _push(heap, size, i, work)
            size += 1
        late = share * ahead + delta * batch_ms[i] - slack[i]
        ahead += work[i]
        while refusable[i] and late > 0.0 and state[i] == KEPT and size > 0:
            gone = _pop(heap, size, work)
            size -= 1
            state[gone] = DEFERRED
            ahead -= work[gone]
            late -= share * work[gone]
