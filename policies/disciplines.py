"""Dispatch as others do it: the published rivals of the default rule, compiled.

Each answers the question of `policies.compiled.decide` for a queue of equal requests in order of
arrival: `(plan, requests taken, requests dropped, wake_ms)`; the dropped are the first ones, the
taken those behind them. Costs are `cost` [P, R] ms, inf where unknown; all in ms of one clock
that starts at 0. Where a paper leaves a constant open it is a parameter, to be tuned as fairly
as the rule's own.

>>> cost, accuracy = np.array([[4.0, 6.0], [2.0, 3.0]]), np.array([0.9, 0.8])
>>> slackfit(0.0, np.zeros(3), 5.0, cost, accuracy, np.array([-1.0, 2.0, 4.0, 0.0]))  # 5 ms left
(0, 1, 0, inf)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies._asking import Asker, Line
from policies._jit import jit
from policies._proteus import PLANS, proteus

Floats = NDArray[np.float64]

RULE, SLACKFIT, DRAIN_AWARE, CLOCKWORK, CLIPPER, PROTEUS, BENTOML = range(7)
"""Kinds of discipline; 0 is the default rule, `policies.uniform`."""

PLAN_, CAP_, FIRST_, SECOND_, THIRD_ = range(5)
"""What a discipline's parameters hold: plan, batch cap, up to three of its own."""

_SIZE, _COUNT, _LAST = 0, 1, 2
"""Places in a discipline's memory [16 + W], zeros at first: batch size of Clipper, batches seen,
then the last ten observed / expected costs (Clockwork), or BentoML's average wait. Proteus has a
layout of its own."""
_WAIT = 12
_WAITS = 50.0
"""BentoML: batches over which it averages."""


@jit
def _lost(now_ms: float, arrived_ms: Floats, slo_ms: float, need_ms: float) -> int:
    """How many at the front have less than `need_ms` left."""
    lost = 0
    while lost < arrived_ms.shape[0] and arrived_ms[lost] + slo_ms - now_ms < need_ms:
        lost += 1
    return lost


@jit
def _cheapest(cost: Floats, row: int) -> float:
    least = np.inf
    for p in range(cost.shape[0]):
        least = min(least, cost[p, row])
    return least


@jit
def slackfit(
    now_ms: float, arrived_ms: Floats, slo_ms: float, cost: Floats, accuracy: Floats, params: Floats
) -> tuple[int, int, int, float]:
    """SlackFit (Khare et al., "SuperServe", NSDI 2025, section 5): evenly spaced buckets of
    latency; the highest one that lies within the slack of the most urgent, in it the largest
    batch, ties to accuracy. `params[FIRST_]`: buckets. Left open there: with less slack than the
    lowest bucket's end, what fits of that bucket, or else what is quickest alone.
    `params[SECOND_]`: 1 drops what even the cheapest plan alone cannot answer in time (an early
    drop the paper does not have).
    """
    plans, rows = cost.shape
    n = arrived_ms.shape[0]
    cap = min(rows, int(params[CAP_]))
    lost = _lost(now_ms, arrived_ms, slo_ms, _cheapest(cost, 0)) if params[SECOND_] > 0 else 0
    if lost == n:
        return -1, 0, lost, np.inf
    slack = arrived_ms[lost] + slo_ms - now_ms
    low, high = np.inf, 0.0
    for p in range(plans):
        for r in range(cap):
            if cost[p, r] < np.inf:
                low = min(low, cost[p, r])
                high = max(high, cost[p, r])
    width = (high - low) / params[FIRST_]
    chosen, batch, found = -1, 0, -1
    for p in range(plans):
        for r in range(cap):
            if not (cost[p, r] <= slack and cost[p, r] < np.inf):
                continue
            bucket = 0
            if width > 0.0:
                bucket = min(int((cost[p, r] - low) / width), int(params[FIRST_]) - 1)
            end = high if bucket == int(params[FIRST_]) - 1 else low + (bucket + 1) * width
            if bucket > 0 and end > slack:
                continue
            better = bucket > found or (
                bucket == found
                and (r + 1 > batch or (r + 1 == batch and accuracy[p] > accuracy[chosen]))
            )
            if better:
                found, chosen, batch = bucket, p, r + 1
    if chosen < 0:
        chosen, batch = 0, 1
        for p in range(plans):
            if cost[p, 0] < cost[chosen, 0]:
                chosen = p
    return chosen, min(batch, n - lost), lost, np.inf


@jit
def drain_aware(
    now_ms: float, arrived_ms: Floats, slo_ms: float, workers: float, cost: Floats,
    accuracy: Floats, params: Floats,
) -> tuple[int, int, int, float]:  # fmt: skip
    """SlackFit that looks at the queue (ours): the most accurate (plan, batch) within the slack
    whose queue drains within it too, ties to the larger batch; when none drains, the highest
    throughput within the slack, and when nothing fits, the highest of all.

    `params[FIRST_]`: share of the slack a batch may cost; the queue may take all of it to drain.
    `params[SECOND_]`: as in `slackfit`.
    """
    plans, rows = cost.shape
    n = arrived_ms.shape[0]
    lost = _lost(now_ms, arrived_ms, slo_ms, _cheapest(cost, 0)) if params[SECOND_] > 0 else 0
    n -= lost
    if n == 0:
        return -1, 0, lost, np.inf
    slack = arrived_ms[lost] + slo_ms - now_ms
    chosen, batch = -1, 0
    quickest, most, rate, fits = 0, 1, 0.0, False
    for p in range(plans):
        for b in range(1, min(n, rows, int(params[CAP_])) + 1):
            ms = cost[p, b - 1]
            within = ms <= params[FIRST_] * slack
            if (within and not fits) or (within == fits and b / ms > rate):
                quickest, most, rate, fits = p, b, b / ms, within
            if not within or n / b * ms / workers > slack:
                continue
            better = chosen < 0 or accuracy[p] > accuracy[chosen]
            if better or (accuracy[p] == accuracy[chosen] and b > batch):
                chosen, batch = p, b
    if chosen < 0:
        chosen, batch = quickest, most
    return chosen, batch, lost, np.inf


@jit
def clockwork(
    now_ms: float, arrived_ms: Floats, slo_ms: float, cost: Floats, params: Floats, memo: Floats
) -> tuple[int, int, int, float]:
    """Clockwork (Gujarati et al., OSDI 2020, section 5.3), one model: batch sizes that the queue
    can fill and whose head still meets its deadline; the one with the least time to spare, ties
    to the larger. Dropped once not even a batch of one can be in time. Costs count the largest of
    the last ten observed / expected ratios, about the 99th percentile of ten.

    Here one queue serves all batch sizes, so that a batch always begins with the most urgent, and
    the ratios of all sizes are pooled; there each size has a queue and a history of its own.
    """
    worst = 1.0
    if memo[_COUNT] > 0:
        worst = 0.0
        for k in range(min(10, int(memo[_COUNT]))):
            worst = max(worst, memo[_LAST + k])
    plan = int(params[PLAN_])
    lost = _lost(now_ms, arrived_ms, slo_ms, worst * cost[plan, 0])
    n = arrived_ms.shape[0] - lost
    if n == 0:
        return -1, 0, lost, np.inf
    deadline = arrived_ms[lost] + slo_ms
    batch, spare = 0, np.inf
    for b in range(1, min(n, cost.shape[1], int(params[CAP_])) + 1):
        left = deadline - worst * cost[plan, b - 1] - now_ms
        if 0.0 <= left <= spare:
            batch, spare = b, left
    return plan, max(1, batch), lost, np.inf


@jit
def clipper(
    now_ms: float, arrived_ms: Floats, slo_ms: float, cost: Floats, params: Floats, memo: Floats
) -> tuple[int, int, int, float]:
    """Clipper (Crankshaw et al., NSDI 2017, section 4.3.1): additive increase of the largest batch
    after each that met the SLO, × `params[SECOND_]` after one that did not, full or not.
    `params[FIRST_]`: the step. Nothing is dropped.
    """
    size = min(int(max(1.0, memo[_SIZE])), cost.shape[1], int(params[CAP_]))
    return int(params[PLAN_]), min(arrived_ms.shape[0], size), 0, np.inf


@jit
def bentoml(
    now_ms: float, arrived_ms: Floats, slo_ms: float, cost: Floats, params: Floats, memo: Floats
) -> tuple[int, int, int, float]:
    """BentoML's adaptive batching (its 1.x `CorkDispatcher`): cost = a · n + b; a batch of n
    waits while n · (wait of the newest + 1 ms + a) <= 0.95 · average wait; of several, the head is
    cancelled when its wait + a · n + b reaches the SLO, a lone one when its wait does. n is the
    whole queue. The line is that of the cost table, which is what its regression over the last 50
    batches finds. The front of the queue is served; there, for long, its end.
    """
    plan = int(params[PLAN_])
    cap = min(cost.shape[1], int(params[CAP_]))
    a = max(0.0, (cost[plan, cap - 1] - cost[plan, 0]) / max(1, cap - 1))
    b = max(0.0, cost[plan, 0] - a)
    n = arrived_ms.shape[0]
    lost = 0
    while lost < n:
        left = slo_ms - (now_ms - arrived_ms[lost])
        if left > (a * (n - lost) + b if n - lost > 1 else 0.0):
            break
        lost += 1
    if lost == n:
        return -1, 0, lost, np.inf
    q = n - lost
    newest = now_ms - arrived_ms[n - 1]
    if q < cap and q * (newest + 1.0 + a) <= 0.95 * memo[_WAIT]:
        return -1, 0, lost, now_ms + 1.0  # it looks again every millisecond
    return plan, min(q, cap), lost, np.inf


@jit
def dispatch(
    kind: int, now_ms: float, line: Line, asker: Asker, table: Floats, accuracy: Floats,
    params: Floats, memo: Floats,
) -> tuple[int, int, int, float]:  # fmt: skip
    """The answer of the discipline `kind` to a queue that is not empty, for a worker; costs are
    table × pace, NaN read as unknown."""
    arrived_ms, slo_ms = line.at_ms[line.head : line.tail], line.slo_ms
    cost = np.where(np.isnan(table), np.inf, table * asker.pace)
    if kind == SLACKFIT:
        return slackfit(now_ms, arrived_ms, slo_ms, cost, accuracy, params)
    if kind == DRAIN_AWARE:
        return drain_aware(now_ms, arrived_ms, slo_ms, asker.workers, cost, accuracy, params)
    if kind == CLOCKWORK:
        return clockwork(now_ms, arrived_ms, slo_ms, cost, params, memo)
    if kind == CLIPPER:
        return clipper(now_ms, arrived_ms, slo_ms, cost, params, memo)
    if kind == PROTEUS:
        plan = int(params[PLAN_]) if params[PLAN_] >= 0 else int(memo[PLANS + asker.worker])
        cap, caution = int(params[CAP_]), params[SECOND_]
        return proteus(now_ms, arrived_ms, slo_ms, cost, plan, cap, caution)
    return bentoml(now_ms, arrived_ms, slo_ms, cost, params, memo)


@jit
def learn(
    kind: int, params: Floats, cap: int, ratio: float, in_time: bool, wait_ms: float, memo: Floats
) -> None:
    """Tell the discipline what came of a batch: observed / expected cost, whether all were in
    time, how long the first of its members had waited. `cap`: the largest batch there can be."""
    if kind == CLOCKWORK:
        memo[_LAST + int(memo[_COUNT]) % 10] = ratio
        memo[_COUNT] += 1.0
    elif kind == CLIPPER:
        size = max(1.0, memo[_SIZE])
        memo[_SIZE] = size + params[FIRST_] if in_time else size * params[SECOND_]
        memo[_SIZE] = min(max(1.0, memo[_SIZE]), min(float(cap), params[CAP_]))
    elif kind == BENTOML:
        memo[_COUNT] = min(_WAITS, memo[_COUNT] + 1.0)  # the mean of the first 50, then fading
        memo[_WAIT] += (wait_ms - memo[_WAIT]) / memo[_COUNT]
