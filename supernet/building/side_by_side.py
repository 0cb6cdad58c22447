"""Plans whose timings are close, timed again side by side; runs inside a build process.

Each plan is timed when it is built, minutes apart from the others, in a process of its own: the
machine's speed and the luck of where memory lies make a fifth of difference between two such
timings. Which of two close plans is faster, only turns taken in one process tell.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from profiler.shapes import Shape
from supernet.backends.base import LoadedPlan
from supernet.building.timing import WARM_RUNS, resize_batch
from supernet.signature import Signature

__all__ = ["CLOSE", "close_plans", "compare", "in_turns"]

CLOSE = 0.25
"""Plans within so much of each other may change places when they are timed again."""
_TURN_MS = 10.0
"""Quick plans run several times in a turn, as they would serve: the first finds cold caches."""
_LEAST_ROUNDS, _MOST_ROUNDS = 3, 9
_ENOUGH_MS = 100.0


def close_plans(
    costs: Mapping[str, Mapping[Shape, float]], tiers: Mapping[str, int]
) -> dict[Shape, tuple[str, ...]]:
    """By shape, cheapest first, the plans whose order is open and matters.

    ``costs``: known milliseconds per plan and shape. ``tiers``: a quality tier per plan, 0 the most
    accurate (`supernet.tiers.plan_tier`). A plan matters where none of at least its accuracy is
    faster by more than `CLOSE`.

    >>> a, b = {Shape(1): 1.0, Shape(2): 2.0}, {Shape(1): 1.1, Shape(2): 4.0}
    >>> close_plans({"a": a, "b": b}, {"a": 0, "b": 0})
    {Shape(rows=1, length=1): ('a', 'b')}
    """
    shapes = {shape for known in costs.values() for shape in known}
    found = {}
    for shape in sorted(shapes, key=lambda shape: (shape.tokens, shape.rows)):
        ms = {name: known[shape] for name, known in costs.items() if shape in known}
        least = {n: min(ms[rival] for rival in ms if tiers[rival] <= tiers[n]) for n in ms}
        good = [name for name in ms if ms[name] <= (1 + CLOSE) * least[name]]
        pairs = itertools.combinations(good, 2)
        open_ = {n for a, b in pairs if max(ms[a], ms[b]) <= (1 + CLOSE) * min(ms[a], ms[b])
                 for n in (a, b)}  # fmt: skip
        if open_:
            found[shape] = tuple(name for name in good if name in open_)
    return found


def compare(
    plans: Mapping[str, LoadedPlan],
    inputs: Mapping[str, Sequence[Any]],
    known: Mapping[str, Mapping[Shape, float]],
    contests: Mapping[Shape, Sequence[str]],
    signature: Signature,
    *,
    budget_s: float,
    clock: Callable[[], float],
    on_share: Callable[[float], None] = lambda share: None,
) -> dict[str, dict[Shape, float]]:
    """``known`` with new milliseconds where plans met: all of one shape at the level of before.

    Args:
        plans: Loaded, by name.
        inputs: One flat batch per plan, of any size, as that plan takes them.
        contests: The plans to time at each shape, as `close_plans` gives them.
        budget_s: By ``clock``; shapes that it does not reach keep what was known.
    """
    begun = clock()
    costs = {name: dict(ms) for name, ms in known.items()}
    for index, (shape, names) in enumerate(contests.items()):
        expected_s = sum(known[name][shape] for name in names) / 1e3
        if clock() - begun + (WARM_RUNS + _LEAST_ROUNDS) * expected_s > budget_s:
            break
        calls = {
            name: partial(plans[name].run, resize_batch(inputs[name], signature, shape))
            for name in names
        }
        medians = in_turns(calls, {name: known[name][shape] for name in names}, clock)
        # Other plans were timed on another day: only the order of these is news.
        level = statistics.geometric_mean([known[n][shape] / medians[n] for n in names])
        for name in names:
            costs[name][shape] = medians[name] * level
        on_share((index + 1) / len(contests))
    return costs


def in_turns(
    calls: Mapping[str, Callable[[], Any]],
    expected_ms: Mapping[str, float],
    clock: Callable[[], float],
) -> dict[str, float]:
    """Median milliseconds of each call, another one first in every round."""
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    for call in calls.values():
        for _ in range(WARM_RUNS):
            call()
    begun = clock()
    for turn in range(_MOST_ROUNDS):
        if turn >= _LEAST_ROUNDS and (clock() - begun) * 1e3 > _ENOUGH_MS * len(names):
            break
        for name in (*names[turn % len(names) :], *names[: turn % len(names)]):
            times[name].extend(_turn(calls[name], expected_ms[name], clock))
    return {name: statistics.median(ms) for name, ms in times.items()}


def _turn(call: Callable[[], Any], expected_ms: float, clock: Callable[[], float]) -> list[float]:
    runs = max(1, round(_TURN_MS / expected_ms))
    times = []
    for _ in range(runs):
        start = clock()
        call()
        times.append((clock() - start) * 1e3)
    return times[1:] if runs > 1 else times
