"""A table of load × burstiness: the learned policy a person can read.

    (workers, SLO) ──▶ a table    arrivals per worker ──▶ row    burstiness ──▶ column ──▶ preset

What remains of a policy when all it may look at is how much comes and how unevenly. It learns
from the rewards that PPO is trained on, and had over half of PPO's gain in the feasibility study.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from policies._experience import Experience, checked, checked_presets, checked_seen
from policies.base import Choice
from policies.observation import Signal, observe
from policies.params import RuleParams

if TYPE_CHECKING:
    from profiler.signals import Signals

__all__ = ["TablePolicy"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Group = tuple[int, int]

_STEPS = 1000
"""Workers and SLOs count as equal when their logarithms agree to a thousandth."""


@dataclass(frozen=True, eq=False)
class _Table:
    """`load` and `cv2`: inner edges, ascending. `best`, `gain` [rows, columns]."""

    load: Floats
    cv2: Floats
    best: Ints
    gain: Floats

    def cells(self, load: Floats, cv2: Floats) -> tuple[Ints, Ints]:
        rows = np.searchsorted(self.load, load, side="right")
        return rows, np.searchsorted(self.cv2, cv2, side="right")


@dataclass(frozen=True, eq=False)
class TablePolicy:
    """For each (workers, SLO) a table of presets by arrivals per worker and burstiness.

    `presets` [K]; rewards are advantages over the first, which is chosen wherever nothing is known
    to be better: a cell of few samples, workers or an SLO never seen. Made by `TablePolicy.fit`:

    >>> import numpy as np
    >>> from policies.observation import observation_names
    >>> from policies.presets import PRESETS
    >>> seen = np.zeros((400, len(observation_names(2))))
    >>> seen[200:, :10] = np.log(11.0)  # ten arrivals in each 100 ms instead of none
    >>> tried = np.arange(400) % 2
    >>> rewards = tried * np.where(np.arange(400) < 200, -1.0, 1.0)
    >>> policy = TablePolicy.fit(seen, tried, rewards, PRESETS[:2], load_bins=2, cv2_bins=1)
    >>> policy.actions(seen[[0, 399]]).tolist()
    [0, 1]
    """

    presets: tuple[RuleParams, ...]
    _tables: dict[Group, _Table] = field(repr=False)

    name = "table"

    @classmethod
    def fit(
        cls,
        seen: ArrayLike,
        actions: ArrayLike,
        rewards: ArrayLike,
        presets: tuple[RuleParams, ...],
        *,
        load_bins: int = 6,
        cv2_bins: int = 4,
        min_samples: int = 30,
    ) -> TablePolicy:
        """The tables of `seen` [N, D], `actions` [N] (preset indices), `rewards` [N].

        Edges are quantiles within the group. In every cell: of the presets tried at least
        `min_samples` times there, whose mean reward exceeds its standard error, the one of the
        highest mean; else preset 0. ValueError as `LinUCB.fit`.
        """
        for name, value, least in (
            ("load_bins", load_bins, 1), ("cv2_bins", cv2_bins, 1), ("min_samples", min_samples, 2)
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        presets = checked_presets(presets)
        batch = checked(seen, actions, rewards, len(presets))
        groups, of = np.unique(_groups(batch.seen), axis=0, return_inverse=True)
        of = of.reshape(-1)
        tables: dict[Group, _Table] = {}
        for g, (workers, slo) in enumerate(groups.tolist()):
            mine = of == g
            group = Experience(batch.seen[mine], batch.actions[mine], batch.rewards[mine])
            tables[workers, slo] = _table(
                group, len(presets), load_bins, cv2_bins, min_samples
            )  # fmt: skip
        return cls(presets, tables)

    def actions(self, seen: ArrayLike) -> Ints:
        """A preset index [E] for each row of `seen` [E, D]."""
        return self._looked_up(checked_seen(seen, len(self.presets)))[0]

    def choose(self, signals: Signals, current: Choice) -> Choice:
        """The preset in the cell of the last second's arrivals and burstiness."""
        seen = observe(signals, 0, len(self.presets)).astype(np.float64)[None]
        if not np.isfinite(seen).all():
            return Choice(self.presets[0], f"{self.presets[0].name}: an observation is not finite")
        best, gain, known = self._looked_up(seen)
        load, cv2 = _place(seen)
        scores = {"per_worker": float(load[0]), "burstiness": float(cv2[0]), "gain": float(gain[0])}
        preset = self.presets[int(best[0])]
        if not known[0]:
            reason = f"{preset.name}: {signals.workers} workers and {signals.slo_ms:g} ms are new"
        elif best[0] == 0:
            reason = f"nothing is known to beat {preset.name} at {load[0]:.3g}/s per worker"
        else:
            reason = f"{preset.name} was better by {gain[0]:.3g} at {load[0]:.3g}/s per worker"
        return Choice(preset, reason, scores)

    def _looked_up(self, seen: Floats) -> tuple[Ints, Floats, NDArray[np.bool_]]:
        """Preset, its mean reward, and whether the group is known; [E] each."""
        best, gain = np.zeros(len(seen), np.int64), np.zeros(len(seen))
        known = np.zeros(len(seen), np.bool_)
        load, cv2 = _place(seen)
        keys, of = np.unique(_groups(seen), axis=0, return_inverse=True)
        of = of.reshape(-1)
        for g, (workers, slo) in enumerate(keys.tolist()):
            table = self._tables.get((workers, slo))
            if table is None:
                continue
            mine = of == g
            at = table.cells(load[mine], cv2[mine])
            best[mine], gain[mine], known[mine] = table.best[at], table.gain[at], True
        return best, gain, known


def _place(seen: Floats) -> tuple[Floats, Floats]:
    """Arrivals of the last second per worker, and burstiness; [E] each."""
    arrivals = np.expm1(seen[:, :10]).sum(axis=1)
    return arrivals / np.exp(seen[:, Signal.WORKERS]), np.expm1(seen[:, Signal.BURSTINESS])


def _groups(seen: Floats) -> Ints:
    """(workers, SLO) [E, 2] as whole numbers to compare by."""
    return np.rint(_STEPS * seen[:, [Signal.WORKERS, Signal.SLO_MS]]).astype(np.int64)


def _edges(values: Floats, bins: int) -> Floats:
    return np.asarray(np.quantile(values, np.arange(1, bins) / bins), np.float64)


def _table(group: Experience, presets: int, rows: int, columns: int, least: int) -> _Table:
    """The best preset of every cell of one group."""
    load, cv2 = _place(group.seen)
    empty = np.zeros((rows, columns))
    table = _Table(_edges(load, rows), _edges(cv2, columns), empty.astype(np.int64), empty)
    row, column = table.cells(load, cv2)
    cell = (row * columns + column) * presets + group.actions
    size = rows * columns * presets
    count = np.bincount(cell, minlength=size)
    many = np.maximum(count, 1)
    mean = np.bincount(cell, group.rewards, size) / many
    spread = np.bincount(cell, (group.rewards - mean[cell]) ** 2, size)
    error = np.sqrt(spread / np.maximum(many - 1, 1) / many)
    proven = (count >= least) & (mean > error)
    gain = np.where(proven, mean, 0.0).reshape(rows, columns, presets)
    gain[..., 0] = 0.0
    return _Table(table.load, table.cv2, gain.argmax(axis=-1), gain.max(axis=-1))
