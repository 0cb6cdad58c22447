"""The queue of one simulated service, compiled: who joins, who is refused, who leaves.

Part of the engine (`sims.engine.advance`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies._jit import jit
from sims.engine.scene import Books, Queue
from sims.engine.state import DROPPED, REFUSED, SLOT_MS, SLOTS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NEAR = 64
"""A queue further from the front of its room than this, and than it is long, moves there: a gym of
a thousand environments otherwise wanders through all their rooms, and no cache holds those."""
RATE_WINDOW_MS = 40.0
"""Memory of the arrival rate the rule sees (the rule's published tuning used the same)."""


@jit
def fade(ms: float) -> float:
    """exp(-ms / RATE_WINDOW_MS); for short times its series, within 3e-7."""
    gap = ms * (1.0 / RATE_WINDOW_MS)
    if gap < 0.05:
        return 1.0 - gap * (1.0 - gap * (0.5 - gap * (1.0 / 6.0)))
    return float(np.exp(-gap))


@jit
def admit(env: Any, at_ms: Floats, queue: Queue, until_ms: float) -> bool:
    """Queue the arrivals up to `until_ms`; False where the queue's room ran out before."""
    i, last, tail = env.next, env.last, env.tail
    origin, stretch = env.origin_ms, env.stretch
    if i >= last or (at_ms[i] - origin) * stretch > until_ms:
        return True
    rate, rate_at = env.rate, env.rate_at_ms
    queue_ms, queue_id = queue.at_ms, queue.id
    room = queue_ms.shape[0]
    while i < last and tail < room:
        at = (at_ms[i] - origin) * stretch
        if at > until_ms:
            break
        rate = rate * fade(at - rate_at) + 1.0 / RATE_WINDOW_MS
        rate_at = at
        queue_ms[tail] = at
        queue_id[tail] = i
        tail += 1
        i += 1
    env.rate, env.rate_at_ms, env.next, env.tail = rate, rate_at, i, tail
    env.hold_ms = -np.inf  # an arrival may end a hold
    return bool(tail < room or i == last or (at_ms[i] - origin) * stretch > until_ms)


@jit
def refuse(env: Any, books: Books, request: int) -> None:
    """Count a request as refused now."""
    log = books.log
    books.slots[int(env.now_ms / SLOT_MS) % SLOTS, REFUSED] += 1.0
    env.refused += 1.0
    if log.end_ms.shape[0] > 0:
        log.outcome[request - books.first] = DROPPED
        log.end_ms[request - books.first] = env.now_ms


@jit
def refuse_first(env: Any, queue: Queue, books: Books, n: int) -> None:
    """Refuse the first n of the queue."""
    for k in range(n):
        refuse(env, books, queue.id[env.head + k])
    env.head += n


@jit
def to_front(env: Any, queue: Queue) -> None:
    """Move the queue to the front of its room."""
    queue_ms, queue_id = queue.at_ms, queue.id
    head, n = env.head, env.tail - env.head
    for k in range(n):
        queue_ms[k] = queue_ms[head + k]
        queue_id[k] = queue_id[head + k]
    env.head, env.tail = 0, n


@jit
def make_room(env: Any, queue: Queue, books: Books) -> None:
    """Move the queue to the front of its room; of a full one the oldest eighth is refused."""
    refuse_first(env, queue, books, max(0, queue.at_ms.shape[0] // 8 - env.head))
    to_front(env, queue)


@jit
def span(members: Ints, n: int) -> tuple[int, int]:
    """The first and the last of n queue positions."""
    low, high = members[0], members[0]
    for k in range(1, n):
        low, high = min(low, members[k]), max(high, members[k])
    return low, high


@jit
def leave(env: Any, queue: Queue, members: Ints, n: int, low: int, high: int) -> None:
    """Take n queue positions, counted from the head, out, low the first of them and high the
    last; the others close up."""
    queue_ms, queue_id = queue.at_ms, queue.id
    head, tail = env.head, env.tail
    if high - low == n - 1 and tail - head - high - 1 < low:  # those behind move down
        for read in range(head + high + 1, tail):
            queue_id[read - n] = queue_id[read]
            queue_ms[read - n] = queue_ms[read]
        env.tail = tail - n
        return
    if high >= n:  # not simply the first n: those before move up
        for k in range(n):
            queue_id[head + members[k]] = -1
        write = head + high
        for read in range(head + high, head - 1, -1):
            if queue_id[read] >= 0:
                queue_id[write] = queue_id[read]
                queue_ms[write] = queue_ms[read]
                write -= 1
    env.head = head + n


@jit
def refuse_some(
    env: Any, queue: Queue, books: Books, dropped: Ints, lost: int, members: Ints, rows: int
) -> None:
    """Refuse these queue positions wherever they stand; `members` then count without them."""
    for k in range(lost):
        refuse(env, books, queue.id[env.head + dropped[k]])
    for k in range(rows):
        before = 0
        for j in range(lost):
            before += dropped[j] < members[k]
        members[k] -= before
    if lost > 0:
        low, high = span(dropped, lost)
        leave(env, queue, dropped, lost, low, high)
