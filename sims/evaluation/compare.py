"""Policies over a suite: tuned on seeds of their own, played on the same arrivals, set in a table.

names ──▶ entrants ──▶ tune on the training seeds ──▶ play on the test seeds ──▶ Comparison
                                                      clairvoyant bound ──────▶
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.base import Policy
from policies.presets import DEFAULT, PRESETS
from sims.evaluation.entrants import Entrant
from sims.evaluation.evaluate import AnyPolicy, Episode, VectorPolicy, evaluate
from sims.evaluation.results import ComparedPolicy, Comparison
from sims.evaluation.suite import Suite
from sims.evaluation.upper_bound import clairvoyant_utility

__all__ = ["FIRST_TRAINING_SEED", "REFERENCE", "compare"]

Floats = NDArray[np.float64]

FIRST_TRAINING_SEED = 100_000
"""Training seeds begin here, test seeds at 0: what was tuned on is never judged on."""
REFERENCE = "rule"
"""The row that all are compared with: the default rule, which is always played."""


def compare(
    suite: Suite,
    entrants: Sequence[Entrant],
    seeds: int,
    *,
    training_seeds: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Play every entrant on `seeds` seeds of every cell; the default rule first, asked for or not.

    Of each entrant with a grid, the setting of the highest mean utility over all cells on
    `training_seeds` other seeds is frozen and played as well; 0 tunes nothing. `progress` is told
    policies × cells done and in all.

    >>> from dataclasses import replace
    >>> from sims.evaluation.entrants import entrant
    >>> from sims.evaluation.suite import suite
    >>> full = suite(seconds=1.0)
    >>> small = replace(full, regimes={"poisson": full.regimes["poisson"]}, loads=(0.5,))
    >>> found = compare(small, [entrant("slackfit", small.service)], 2, training_seeds=1)
    >>> [row.label for row in found.rows]
    ['rule', 'slackfit', 'slackfit, tuned']
    """
    if not 1 <= seeds <= FIRST_TRAINING_SEED or training_seeds < 0:
        raise ValueError(
            f"seeds must be in 1..{FIRST_TRAINING_SEED} and training_seeds at least 0, "
            f"got {seeds} and {training_seeds}"
        )
    named = {REFERENCE: Entrant(REFERENCE, DEFAULT)} | {one.name: one for one in entrants}
    every, cells = list(named.values()), tuple(suite.cells())
    testing = tuple(range(seeds))
    training = tuple(range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + training_seeds))
    meter = _Meter(_work(every, training_seeds) * len(cells), progress)
    parts = _parts(every, _tuned(suite, every, training, meter))
    rows, bound = _tested(suite, parts, testing, meter)
    return Comparison(suite, cells, testing, training, rows, bound)


class _Meter:
    """Counts policies × cells."""

    def __init__(self, total: int, progress: Callable[[int, int], None]) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def step(self, policies: int) -> None:
        self._done += policies
        self._progress(self._done, self._total)


@dataclass(frozen=True)
class _Part:
    """What becomes one row."""

    name: str
    how: str
    pool: tuple[AnyPolicy, ...]


def _work(entrants: Sequence[Entrant], training_seeds: int) -> int:
    """Policies to play in each cell; the bound counts as one."""
    tuning = sum(len(one.grid) for one in entrants) if training_seeds else 0
    tuned = sum(bool(one.grid) for one in entrants) if training_seeds else 0
    hindsight = sum(len(one.grid) for one in entrants if one.hindsight)
    return tuning + tuned + hindsight + sum(one.default is not None for one in entrants) + 1


def _tuned(
    suite: Suite, entrants: Sequence[Entrant], seeds: Sequence[int], meter: _Meter
) -> dict[str, AnyPolicy]:
    """Of each grid the setting of the highest mean utility over cells and seeds, ties to the
    first."""
    if not seeds:
        return {}
    grids = {one.name: one.grid for one in entrants if one.grid}
    total = {name: np.zeros(len(grid)) for name, grid in grids.items()}
    for cell in suite.cells():
        episodes = suite.episodes(cell, seeds)
        for name, grid in grids.items():
            total[name] += _played(episodes, grid)[0].mean(axis=1)
            meter.step(len(grid))
    return {name: grid[int(total[name].argmax())] for name, grid in grids.items()}


def _parts(entrants: Sequence[Entrant], tuned: Mapping[str, AnyPolicy]) -> list[_Part]:
    parts = []
    for one in entrants:
        if one.default is not None:
            parts.append(_Part(one.name, "default", (one.default,)))
        if one.name in tuned:
            parts.append(_Part(one.name, "tuned", (tuned[one.name],)))
        if one.hindsight:
            parts.append(_Part(one.name, "hindsight", one.grid))
    return parts


def _tested(
    suite: Suite, parts: Sequence[_Part], seeds: Sequence[int], meter: _Meter
) -> tuple[tuple[ComparedPolicy, ...], Floats]:
    shape = (len(list(suite.cells())), len(seeds))
    bound = np.zeros(shape)
    rows = [
        ComparedPolicy(
            p.name, p.how, p.pool, np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64)
        )
        for p in parts
    ]
    for c, cell in enumerate(suite.cells()):
        episodes = suite.episodes(cell, seeds)
        for row in rows:
            utility, met = _played(episodes, row.pool)
            best = utility.argmax(axis=0)
            at = best, np.arange(len(seeds))
            row.utility[c], row.met[c], row.picked[c] = utility[at], met[at], best
            meter.step(len(row.pool))
        bound[c] = [clairvoyant_utility(service, trace) for service, trace in episodes]
        meter.step(1)
    return tuple(rows), bound


def _played(episodes: Sequence[Episode], policies: Sequence[AnyPolicy]) -> tuple[Floats, Floats]:
    """Utility and met of each, [policies, episodes]; settings share their inputs."""
    if not any(isinstance(policy, (VectorPolicy, Policy)) for policy in policies):
        scores = evaluate(episodes, policies, ())
        return scores.utility, scores.met
    each = [evaluate(episodes, [one], getattr(one, "presets", PRESETS)) for one in policies]
    return np.vstack([s.utility for s in each]), np.vstack([s.met for s in each])
