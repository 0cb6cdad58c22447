"""The dispatch rule once more, in plain Python over plain objects: slow, and readable at once.

`decide_slowly` must agree with the compiled rule on every state. It shares no code with it; only
sums are taken in the same order, so that rounding is the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from policies.params import RuleParams

GOOD_SHARE = 0.9
CAUTION = 3.0


@dataclass(frozen=True)
class Item:
    """One waiting request."""

    deadline_ms: float
    arrived_ms: float
    bucket: int
    rows: int = 1
    group: int = 0
    refusable: bool = True


@dataclass(frozen=True)
class State:
    """A queue, the costs, and everything else a decision depends on."""

    items: tuple[Item, ...]
    cost_ms: list[list[list[float]]]
    lengths: list[float]
    tier: list[int]
    allowed: list[bool]
    workers: int
    rate_per_ms: float
    params: RuleParams
    now_ms: float = 0.0

    @property
    def max_rows(self) -> int:
        return len(self.cost_ms[0])

    @property
    def cap(self) -> int:
        return max(1, min(self.params.max_rows, self.max_rows))

    def tiers(self) -> list[list[int]]:
        """Plans that may run, most accurate tier first."""
        usable = [p for p, ok in enumerate(self.allowed) if ok]
        usable = [p for p in usable if p in self.params.plans] or usable
        return [
            [p for p in usable if self.tier[p] == t] for t in sorted({self.tier[p] for p in usable})
        ]

    def fastest(self, plans: list[int], rows: int, bucket: int) -> tuple[float, int]:
        """(cost, plan) of the fastest of `plans`; (inf, -1) when none is known."""
        best = (math.inf, -1)
        for p in plans:
            if self.cost_ms[p][rows - 1][bucket] < best[0]:
                best = (self.cost_ms[p][rows - 1][bucket], p)
        return best

    def ms_per_row(self, plans: list[int], bucket: int) -> float:
        return min(self.fastest(plans, r, bucket)[0] / r for r in range(1, self.cap + 1))

    def efficient_rows(self, plans: list[int], bucket: int) -> int:
        ms_per_row = self.ms_per_row(plans, bucket)
        for r in range(1, self.cap):
            if not ms_per_row < GOOD_SHARE * self.fastest(plans, r, bucket)[0] / r:
                return r
        return self.cap

    def slack(self, i: int) -> float:
        return self.items[i].deadline_ms - self.now_ms


def triage_slowly(state: State, order: list[int]) -> dict[int, str]:
    """Each request "kept", "deferred" or "dropped"."""
    plans = [p for tier in state.tiers() for p in tier]
    own, work, batch = prices(state, plans)
    fate: dict[int, str] = {}
    kept: list[int] = []  # refusable ones that may still be deferred
    ahead = 0.0
    share = CAUTION * state.params.beta / state.workers
    for i in order:
        if state.items[i].refusable:
            if state.slack(i) < own[i]:
                fate[i] = "dropped"
                continue
            if state.slack(i) < state.params.delta * batch[i]:
                fate[i] = "deferred"
                continue
            kept.append(i)
        fate[i] = "kept"
        late = share * ahead + state.params.delta * batch[i] - state.slack(i)
        ahead += work[i]
        while state.items[i].refusable and late > 0 and fate[i] == "kept":
            dearest = max(kept, key=lambda k: (work[k], -order.index(k)))
            kept.remove(dearest)
            fate[dearest] = "deferred"
            ahead -= work[dearest]
            late -= share * work[dearest]
    return fate


def prices(
    state: State, plans: list[int]
) -> tuple[dict[int, float], dict[int, float], dict[int, float]]:
    """Cost alone, work, and latency of the batch to hope for, over all plans that may run."""
    own: dict[int, float] = {}
    work: dict[int, float] = {}
    batch: dict[int, float] = {}
    for i, item in enumerate(state.items):
        alone, _ = state.fastest(plans, item.rows, item.bucket)
        if alone == math.inf:
            own[i] = work[i] = batch[i] = 0.0
            continue
        ms_per_row = state.ms_per_row(plans, item.bucket)
        like = sum(
            other.rows
            for other in state.items
            if other.bucket <= item.bucket
            and state.lengths[item.bucket] <= state.params.spread * state.lengths[other.bucket]
        )
        filled = max(1, min(state.efficient_rows(plans, item.bucket), like))
        together, _ = state.fastest(plans, filled, item.bucket)
        own[i] = alone
        work[i] = item.rows * ms_per_row if ms_per_row < math.inf else alone
        batch[i] = max(alone, together) if together < math.inf else alone
    return own, work, batch


def batch_slowly(
    state: State, tier: list[int], head: int, fate: dict[int, str], order: list[int]
) -> tuple[list[int], int, int, float]:
    """(members, rows, bucket, efficiency) of the best batch around the head."""
    greedy = state.params.margin == math.inf
    if greedy or state.params.spread == math.inf:
        walk = sorted((i for i in order if fate[i] != "dropped"), key=lambda i: fate[i] != "kept")
        return fill_slowly(state, tier, head, walk, -1, greedy)
    best: tuple[list[int], int, int, float] = ([], 0, 0, -1.0)
    for widest in range(state.items[head].bucket, len(state.lengths)):
        if state.lengths[widest] > state.params.spread * state.lengths[state.items[head].bucket]:
            break
        if all(item.bucket != widest for item in state.items):
            continue
        walk = sorted(
            (
                i
                for i in order
                if fate[i] != "dropped"
                and state.items[i].bucket <= widest
                and state.lengths[widest]
                <= state.params.spread * state.lengths[state.items[i].bucket]
            ),
            key=lambda i: (fate[i] != "kept", -state.items[i].bucket),
        )
        found = fill_slowly(state, tier, head, walk, widest, greedy)
        if found[3] > best[3]:
            best = found
    return best


def fill_slowly(
    state: State, tier: list[int], head: int, walk: list[int], widest: int, greedy: bool
) -> tuple[list[int], int, int, float]:
    plans = [p for t in state.tiers() for p in t]
    own, _, _ = prices(state, plans)
    work = {
        i: item.rows * state.ms_per_row(tier, item.bucket)
        if state.ms_per_row(tier, item.bucket) < math.inf
        else 0.0
        for i, item in enumerate(state.items)
    }
    members = [head]
    rows = state.items[head].rows
    low = state.items[head].bucket
    high = max(low, widest)
    tightest = state.slack(head) if state.slack(head) >= own[head] else math.inf
    done = work[head]
    best = (members[:], rows, high, done / state.fastest(tier, rows, high)[0])
    for i in walk:
        item = state.items[i]
        if rows >= state.cap:
            break
        if i == head or item.group != state.items[head].group or rows + item.rows > state.cap:
            continue
        new_low, new_high = min(low, item.bucket), max(high, item.bucket)
        if state.lengths[new_high] > state.params.spread * state.lengths[new_low]:
            continue
        ms, _ = state.fastest(tier, rows + item.rows, new_high)
        limit = min(tightest, state.slack(i)) if state.slack(i) >= own[i] else tightest
        if ms == math.inf or (not greedy and not ms <= state.params.margin * limit):
            continue
        low, high, tightest = new_low, new_high, limit
        members.append(i)
        rows += item.rows
        done += work[i]
        if greedy or done / ms > best[3]:
            best = (members[:], rows, high, done / ms)
    return best


def decide_slowly(state: State) -> tuple[int, list[int], list[int], float]:
    """(plan, members, dropped, wake_ms) as the compiled rule gives them."""
    if not state.items:
        return -1, [], [], math.inf
    order = sorted(range(len(state.items)), key=lambda i: state.items[i].deadline_ms)
    fate = triage_slowly(state, order)
    dropped = [i for i in order if fate[i] == "dropped"]
    kept = [i for i in order if fate[i] == "kept"]
    left = kept or [i for i in order if fate[i] == "deferred"]
    if not left:
        return -1, [], dropped, math.inf
    head = left[0]
    slack = state.slack(head)
    tiers = state.tiers()
    if not tiers:
        return 0, [head], dropped, math.inf

    options = []
    for tier in tiers:
        members, rows, high, efficiency = batch_slowly(state, tier, head, fate, order)
        waiting = [i for i in order if fate[i] != "dropped"]
        queued = 0.0
        for i in waiting:
            ms_per_row = state.ms_per_row(tier, state.items[i].bucket)
            queued += state.items[i].rows * ms_per_row if ms_per_row < math.inf else 0.0
        needed = state.params.beta * queued
        needed += state.params.alpha * state.rate_per_ms * max(slack, 0.0) * queued / len(waiting)
        drain = needed / efficiency if efficiency > 0 else math.inf
        ms, plan = state.fastest(tier, rows, high)
        options.append((not ms <= slack, drain, members, rows, high, plan, tier))
    carrying = [o for o in options if not o[0] and o[1] <= state.workers * slack]
    chosen = carrying[0] if carrying else min(options, key=lambda o: (o[0], o[1]))
    _, _, members, rows, high, plan, tier = chosen

    full = state.cap if state.params.margin == math.inf else state.efficient_rows(tier, high)
    own, _, _ = prices(state, [p for t in tiers for p in t])
    if state.params.wait_ms > 0 and rows < full and slack >= own[head]:
        ms = state.fastest(tier, full, high)[0]
        if ms == math.inf:
            ms = state.fastest(tier, rows, high)[0]
        item = state.items[head]
        until = min(item.arrived_ms + state.params.wait_ms, item.deadline_ms - ms)
        if state.now_ms < until:
            return -1, [], dropped, until
    return max(plan, 0), members, dropped, math.inf
